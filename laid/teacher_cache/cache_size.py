"""How much a cache of a teacher's signals takes."""

from laid.signals.model_signals import Wanted
from laid.teacher_cache.stored_numbers import StoredAs, bytes_of_number
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config


def bytes_of(
    teacher: ModelArgs,
    autocast: bool,
    stored_as: StoredAs,
    wanted: Wanted,
    queries: float,
    keys: float,
    answers: float,
) -> float:
    """Bytes of stored signals.

    Args:
        autocast: whether the teacher computes in 16 bits, whatever its weights are held in.
        queries, keys: how many tokens' are stored.
        answers: tokens of their answers, the end of the turn among them.
    """
    config = load_config(teacher)
    shape = family_of(config).shape
    numbers = queries * shape.heads + keys * shape.kv_heads
    numbers *= len(wanted.layers) * shape.head_dim
    computed = 4 if teacher.dtype == "float32" and not autocast else 2
    found = numbers * bytes_of_number(stored_as, computed, shape.head_dim)
    if wanted.logits:
        each = 2 if stored_as == "bfloat16" else computed
        found += each * answers * config.text_config.vocab_size
    if wanted.top_k is not None:
        found += answers * (8 * wanted.top_k.count + 4)
    return found


def described(wanted: Wanted) -> str:
    """What is stored, in words."""
    layers = ", ".join(map(str, sorted(wanted.layers)))
    whole = wanted.queries.every and wanted.keys.every
    of = "" if whole else f" (queries of {wanted.queries}, keys of {wanted.keys})"
    parts = [f"teacher layers {layers}{of}"] * bool(layers) + ["logits"] * wanted.logits
    parts += [str(wanted.top_k)] * (wanted.top_k is not None)
    return " and ".join(parts)
