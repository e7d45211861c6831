"""Signals at moments drawn from a seed: nothing is half, and going on ends as uninterrupted."""

import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from campaign.case import Case, assert_clean
from campaign.crashes import goes_on
from campaign.scenarios import SCENARIOS, Scenario, checkpoints
from campaign.world import Place

KIND = "kills"
TIMES = {"fit": 6, "fit, sharded": 2, "fit, resumed": 2}
TIMES_OF_ANY = 1
"""Moments for each command and signal."""
ENDS = {
    signal.SIGKILL: (-signal.SIGKILL,),
    # Python itself ends so before laid listens; a shell shows 143 for both.
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130, -signal.SIGINT),
}

_DROPPED = re.compile(r"Exception ignored in.*\nTraceback .*\n(?:[ \n].*\n?)*\S.*\n?")
"""What Python prints where nothing can be raised: in a destructor, or when it shuts down."""

_known: dict[tuple[str, Path], tuple[float, Any]] = {}


def _uninterrupted(scenario: Scenario, place: Place) -> tuple[float, Any]:
    """How long a command takes, in seconds, and what it makes."""
    key = (scenario.name, place.world.folder)
    if key not in _known:
        beside = Place(place.outside / "case", place.outside / "beside", place.world)
        beside.folder.mkdir()
        beside.outside.mkdir()
        words = scenario.prepare(beside)
        begun = time.monotonic()
        done = beside.laid(*words, environment=scenario.environment(beside))
        took = time.monotonic() - begun
        assert done.code == 0, str(done)
        _known[key] = took, scenario.result(beside)
    return _known[key]


def _killed(scenario: Scenario, number: signal.Signals, seed: int) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        took, expected = _uninterrupted(scenario, place)
        draw = random.Random(f"{scenario.name} {number} {seed}")
        words = scenario.prepare(place)
        running = place.start(*words, environment=scenario.environment(place))
        time.sleep(draw.uniform(0.1, 1.0) * took)
        running.send(number)
        done = running.wait()
        assert done.code in (0, *ENDS[number]), str(done)
        if number != signal.SIGKILL:
            assert_clean(place, replace(done, err=_DROPPED.sub("", done.err)))
        if done.code in (130, 143) and scenario.name.startswith("fit") and checkpoints(place):
            assert "--ckpt_path" in done.err, f"it does not say how to go on: {done}"
        goes_on(scenario, place, words, expected)

    return check


CASES: list[Case] = [
    Case(
        KIND,
        f"{scenario.name}: {number.name}, seed {seed}",
        _killed(scenario, number, seed),
        sample=(scenario.name, number, seed) == ("export", signal.SIGTERM, 0),
    )
    for scenario in SCENARIOS
    for number in ENDS
    for seed in range(TIMES.get(scenario.name, TIMES_OF_ANY))
]
