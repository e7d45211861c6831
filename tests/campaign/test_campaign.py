"""All cases of all kinds (docs/reliability.md); ``make test`` runs the sample of them."""

import pytest

from campaign import (
    bad_data,
    bad_images,
    bad_results,
    bad_settings,
    crashes,
    flipped_bits,
    full_disk,
    hostile_files,
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
    bad_data,
    bad_images,
    bad_results,
    crashes,
    kills,
    hostile_files,
    races,
    full_disk,
    same_numbers,
    flipped_bits,
    stale_answers,
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
