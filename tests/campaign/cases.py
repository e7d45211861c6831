"""All kinds of cases, in the order of the table in docs/reliability.md."""

from campaign import (
    bad_coco,
    bad_commands,
    bad_conversations,
    bad_images,
    bad_questions,
    bad_results,
    bad_settings,
    bad_yaml,
    crashes,
    flipped_bits,
    full_disk,
    hostile_checkpoints,
    hostile_models,
    hostile_names,
    kills,
    non_finite,
    races,
    same_numbers,
    stale_answers,
)
from campaign.case import Case

KINDS = (
    bad_settings,
    bad_commands,
    bad_yaml,
    bad_coco,
    bad_questions,
    bad_conversations,
    bad_images,
    bad_results,
    hostile_checkpoints,
    hostile_models,
    hostile_names,
    crashes,
    kills,
    races,
    full_disk,
    flipped_bits,
    stale_answers,
    same_numbers,
    non_finite,
)
CASES: list[Case] = [case for kind in KINDS for case in kind.CASES]
