"""Whether a teacher can teach a student: both configurations and tokenizers, compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import Qwen2_5_VLConfig

from laid.common.errors import UserError
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.vision_language_model import attention_shape


def check_teacher(
    student: ModelArgs,
    teacher: ModelArgs | None,
    tokenizer_of: Callable[[ModelArgs], Any],
    terms: Sequence[str],
) -> None:
    """Compares configurations and tokenizers before any weight is read.

    Args:
        tokenizer_of: loads a model's tokenizer.
        terms: names of the loss terms that need a teacher.

    Raises:
        UserError: there is no teacher, or as ``check_pair``.
    """
    if teacher is None:
        raise UserError(
            f"the objective's terms {', '.join(terms)} compare student and teacher, but "
            "model.teacher is not given: name one (--model.teacher.path …), or set their weights "
            f"to 0 (--model.objective.{terms[0]}.weight 0)"
        )
    check_pair(
        load_config(student),
        load_config(teacher),
        tokenizer_of(student).get_vocab(),
        tokenizer_of(teacher).get_vocab(),
    )


def check_pair(
    student: Qwen2_5_VLConfig,
    teacher: Qwen2_5_VLConfig,
    student_vocabulary: Mapping[str, int],
    teacher_vocabulary: Mapping[str, int],
) -> None:
    """Refuses a pair whose heads or tokens can't be compared.

    Raises:
        UserError: names everything that differs: head_dim, the M-RoPE sections, rope_theta,
            patch and merge size, image tokens, or the tokenizer.
    """
    differing = [
        f"{name}: student {a}, teacher {b}"
        for name, a, b in zip(_NAMES, _facts(student), _facts(teacher), strict=True)
        if a != b
    ]
    moved = sorted(
        token
        for token in student_vocabulary.keys() | teacher_vocabulary.keys()
        if student_vocabulary.get(token) != teacher_vocabulary.get(token)
    )
    if moved:
        differing.append(
            f"tokenizer: {len(moved)} tokens have other ids or are on one side only, "
            f"the first {moved[0]!r}"
        )
    if differing:
        raise UserError(
            "student and teacher do not fit together, expected the same on both sides:\n  "
            + "\n  ".join(differing)
            + "\nChoose a teacher of the student's family."
        )


_NAMES = (
    "head_dim",
    "mrope_section",
    "rope_theta",
    "vision patch_size",
    "vision spatial_merge_size",
    "image_token_id",
)


def _facts(config: Qwen2_5_VLConfig) -> tuple[object, ...]:
    rope = config.text_config.rope_parameters
    return (
        attention_shape(config).head_dim,
        list(rope["mrope_section"]),
        float(rope["rope_theta"]),
        config.vision_config.patch_size,
        config.vision_config.spatial_merge_size,
        config.image_token_id,
    )
