"""Whether a teacher can teach a student: both configurations and tokenizers, compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laid.common.errors import UserError
from laid.vlm.families.family import Config
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config


def check_teacher(
    student: ModelArgs,
    teacher: ModelArgs | None,
    tokenizer_of: Callable[[ModelArgs], Any],
    terms: Mapping[str, bool],
) -> None:
    """Compares configurations and tokenizers before any weight is read.

    Args:
        tokenizer_of: loads a model's tokenizer.
        terms: the loss terms that need a teacher, by name, and whether they compare queries or keys
            as vectors.

    Raises:
        UserError: there is no teacher, or as ``check_pair``.
    """
    if teacher is None:
        raise UserError(
            f"the objective's terms {', '.join(terms)} compare student and teacher, but "
            "model.teacher is not given: name one (--model.teacher.path …), or set their weights "
            f"to 0 (--model.objective.{next(iter(terms))}.weight 0)"
        )
    ours, theirs = (tokenizer_of(args).get_vocab() for args in (student, teacher))
    of_heads = [name for name, as_vectors in terms.items() if as_vectors]
    check_pair(load_config(student), load_config(teacher), ours, theirs, of_heads)


def check_pair(
    student: Config,
    teacher: Config,
    our_ids: Mapping[str, int],
    their_ids: Mapping[str, int],
    of_heads: Sequence[str],
) -> None:
    """Refuses a pair that can't read the same inputs (by the tokenizers' ids, among others), or
    whose heads can't be compared as the terms ``of_heads`` do.

    Raises:
        UserError: names everything that differs: the family or its facts (image tokens, ...), the
            tokenizer, head_dim or the rotation.
    """
    ours, theirs = family_of(student), family_of(teacher)
    differing = _differing(ours.facts(), theirs.facts())
    moved = sorted({token for token, _ in our_ids.items() ^ their_ids.items()})
    if moved:
        differing.append(
            f"tokenizer: {len(moved)} tokens have other ids or are on one side only, "
            f"the first {moved[0]!r}"
        )
    heads = _differing(ours.head_facts(), theirs.head_facts()) if of_heads else []
    if differing or heads:
        raise UserError(
            "student and teacher do not fit together, expected the same on both sides:\n  "
            + "\n  ".join(differing + heads)
            + "\nChoose a teacher of the student's family"
            + (
                f", or leave out {', '.join(f'objective.{name}' for name in of_heads)}, which "
                "compares queries and keys as vectors before RoPE: that says what attention "
                "compares only if head_dim and rotation are the same."
                if heads and not differing
                else "."
            )
        )


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: student {ours.get(name)}, teacher {theirs.get(name)}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
