"""How much a cache of a teacher's signals takes."""

from laid.signals.model_signals import Wanted
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config


def bytes_of(
    teacher: ModelArgs, autocast: bool, wanted: Wanted, tokens: int, question: int, answers: int
) -> int:
    """Bytes of stored signals.

    Args:
        autocast: whether the teacher computes in 16 bits, whatever its weights are held in.
        tokens: of the entries.
        question: those of them that come after the last image.
        answers: tokens of their answers, the end of the turn among them.
    """
    config = load_config(teacher)
    shape = family_of(config).shape
    queries = tokens if wanted.every_query else question
    numbers = queries * shape.heads + tokens * shape.kv_heads
    numbers *= len(wanted.layers) * shape.head_dim
    if wanted.logits:
        numbers += answers * config.text_config.vocab_size
    return numbers * (4 if teacher.dtype == "float32" and not autocast else 2)


def described(wanted: Wanted) -> str:
    """What is stored, in words."""
    layers = ", ".join(map(str, sorted(wanted.layers)))
    queries = "" if wanted.every_query else " with the question's queries"
    parts = [f"teacher layers {layers}{queries}"] * bool(layers) + ["logits"] * wanted.logits
    return " and ".join(parts)
