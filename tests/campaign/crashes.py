"""A process that dies before its n-th rename, removal, fsync or opening of a file to write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.case import Case, no_litter
from campaign.scenarios import SCENARIOS, Scenario, same_state
from campaign.world import Place
from command_line.faults import DIED

KIND = "crash points"
POINTS = {"fit": 12, "fit, sharded": 8, "export over": 14}
POINTS_OF_ANY = 6
"""Places at which each command dies, spread over all its operations and its last ones."""


_known: dict[tuple[str, Path], tuple[int, Any]] = {}


def uninterrupted(scenario: Scenario, place: Place) -> tuple[int, Any]:
    """The number of file operations of a command, and what it makes; of a place beside."""
    key = (scenario.name, place.world.folder)
    if key not in _known:
        beside = Place(place.outside / "case", place.outside / "beside", place.world)
        beside.folder.mkdir()
        beside.outside.mkdir()
        words = scenario.prepare(beside)
        done = run(scenario, beside, words)
        assert done.code == 0, str(done)
        operations = (beside.outside / "operations").read_text().count("\n")
        _known[key] = operations, scenario.result(beside)
    return _known[key]


def run(scenario: Scenario, place: Place, words: list[object], **fault: Any) -> Any:
    below = place.outside / "cache" if scenario.cache else place.folder
    below.mkdir(exist_ok=True)
    fault |= {"below": str(below), "count": str(place.outside / "operations")}
    fault |= {"begin": scenario.begin}
    return place.laid(*words, fault=fault, environment=scenario.environment(place))


def goes_on(scenario: Scenario, place: Place, words: list[object], expected: Any) -> None:
    """Fails unless what an interruption left is whole, and leads to the result expected."""
    scenario.whole(place)
    scenario.finish(place, words)
    assert same_state(scenario.result(place), expected)
    assert not no_litter(place)


def _dies(scenario: Scenario, point: int, points: int) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        operations, expected = uninterrupted(scenario, place)
        words = scenario.prepare(place)
        done = run(scenario, place, words, at=point * operations // points)
        assert done.code == DIED, str(done)
        goes_on(scenario, place, words, expected)

    return check


CASES: list[Case] = [
    Case(
        KIND,
        f"{scenario.name}: at {point} of {points}",
        _dies(scenario, point, points),
        sample=(scenario.name, point) == ("export over", 12),
    )
    for scenario in SCENARIOS
    for points in [POINTS.get(scenario.name, POINTS_OF_ANY)]
    for point in range(points)
]
