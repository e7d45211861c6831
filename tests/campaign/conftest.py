"""Fixtures of the campaign, and the table at its end."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign.commands import Server
from campaign.world import Place, World

TABLE = "LAID_CAMPAIGN_TABLE"
"""Environment variable: the file in which ``make campaign`` puts the table."""
tried: Counter[str] = Counter()
passed: Counter[str] = Counter()


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, drawn: Path, pair: tuple[Path, Path]
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("campaign")
    server = Server({"LAID_CACHE": str(folder / "cache")})
    yield World(folder, server, drawn, *pair)
    server.close()


@pytest.fixture
def place(world: World, tmp_path: Path) -> Place:
    folder, outside = tmp_path / "case", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    return Place(folder, outside, world)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    kind = dict(report.user_properties).get("kind")
    if kind is None:
        return
    if report.when == "call" or report.failed:
        tried[kind] += report.when == "call" or 1
        passed[kind] += report.when == "call" and report.passed
