"""All cases of all kinds (docs/reliability.md); ``make test`` runs the sample of them."""

import pytest
from campaign.case import Case
from campaign.cases import CASES
from campaign.world import Place


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
