"""All cases of all kinds (docs/reliability.md); ``make test`` runs the sample of them."""

import pytest
from campaign import (
    bad_coco,
    bad_commands,
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
from campaign.world import Place

KINDS = (
    bad_settings,
    bad_commands,
    bad_yaml,
    bad_coco,
    bad_questions,
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
CASES = [case for kind in KINDS for case in kind.CASES]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.kind}: {case.what}",
            marks=() if case.sample else pytest.mark.campaign,
        )
        for case in CASES
    ],
)
def test_it_ends_as_it_has_to(case: Case, place: Place, record_property) -> None:
    record_property("kind", case.kind)
    case.check(place)
