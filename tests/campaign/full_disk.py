"""A disk that is full, a quota that is used up: one sentence, and what was there stays."""

from collections.abc import Callable
from typing import Any

from campaign.case import Case, assert_clean, no_litter
from campaign.crashes import run, uninterrupted
from campaign.scenarios import SCENARIOS, Scenario, same_state
from campaign.world import Place

KIND = "full disk"
POINTS = 4
"""Operations from which on each command finds the disk full."""
QUOTAS = {
    "fit": (200_000, 3_000_000),
    "fit, sharded": (200_000, 3_000_000),
    "export over": (200_000, 2_000_000),
    "export": (200_000, 2_000_000),
    "fit, resumed": (200_000, 3_000_000),
}
"""Largest files in bytes; a checkpoint has some eight million."""
WORDS = ("No space left", "File too large", "disk", "Disk quota", "space")


def _ends(scenario: Scenario, place: Place, done: Any, words: list[object], expected: Any) -> None:
    # A cache that can't be written is no error, and the end of a command may need no space.
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)
    if done.code == 2:
        assert any(word in done.err for word in WORDS), str(done)
    else:
        assert same_state(scenario.result(place), expected), "it says that all is done"
    scenario.whole(place)
    assert not no_litter(place)
    scenario.finish(place, words)
    assert same_state(scenario.result(place), expected)


def _fills(scenario: Scenario, point: int, error: str) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        operations, expected = uninterrupted(scenario, place)
        words = scenario.prepare(place)
        done = run(scenario, place, words, at=point * operations // POINTS, error=error)
        _ends(scenario, place, done, words, expected)

    return check


def _limited(scenario: Scenario, limit: int) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        _, expected = uninterrupted(scenario, place)
        words = scenario.prepare(place)
        done = place.laid(*words, file_bytes=limit, environment=scenario.environment(place))
        assert done.code == 2, str(done)
        _ends(scenario, place, done, words, expected)

    return check


CASES: list[Case] = [
    *(
        Case(
            KIND,
            f"{scenario.name}: {error} from {point} of {POINTS}",
            _fills(scenario, point, error),
            sample=(scenario.name, point) == ("export over", 2),
        )
        for scenario in SCENARIOS
        for point in range(POINTS)
        for error in ("ENOSPC" if point % 2 else "EDQUOT",)
    ),
    *(
        Case(KIND, f"{scenario.name}: no file above {limit:,} bytes", _limited(scenario, limit))
        for scenario in SCENARIOS
        for limit in QUOTAS.get(scenario.name, ())
    ),
]
