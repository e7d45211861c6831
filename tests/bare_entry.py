"""An entry without images, and batches that it stands in."""

from laid.data.entries import CONVERSATION_FEATURES, HaystackEntry, Turn, dataset_of
from laid.data.prompt import Collate, HaystackDataset

BARE = HaystackEntry(
    id="my-000001",
    question="Which colour has grass?",
    answer="It is green.",
    size=0,
    images=(),
    turns=(Turn("user", "Which colour has grass?"),),
    source="my.jsonl",
)


def batch_of(entries, root, encoder, with_answer, side, rows):
    """Entries by their rows, and ``BARE`` where it stands among them."""
    data = HaystackDataset(entries, root, encoder, with_answer)
    bare = HaystackDataset(dataset_of([BARE], CONVERSATION_FEATURES), root, encoder, with_answer)
    samples = [bare[0] if row is BARE else data[row] for row in rows]
    return Collate(encoder.pad_id, side)(samples)
