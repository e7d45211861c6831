"""Fixtures of the campaign, and the table at its end."""

import os
from collections import Counter
from pathlib import Path

import pytest
from campaign.table import PAGE, replaced, table
from campaign.world import Place, World
from command_line.commands import Server

WRITES = "LAID_CAMPAIGN_WRITES"
"""Environment variable with which ``make campaign`` puts the table into docs/reliability.md."""
tried: Counter[str] = Counter()
passed: Counter[str] = Counter()


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, server: Server, drawn: Path, pair: tuple[Path, Path]
) -> World:
    return World(tmp_path_factory.mktemp("campaign"), server, drawn, *pair)


@pytest.fixture
def place(world: World, tmp_path: Path) -> Place:
    folder, outside = tmp_path / "case", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    return Place(folder, outside, world)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    kind = dict(report.user_properties).get("kind")
    if kind is not None and (report.when == "call" or report.failed):
        tried[kind] += 1
        passed[kind] += report.when == "call" and report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not tried:
        return
    terminalreporter.section("campaign")
    terminalreporter.write_line(table(tried, passed))
    if os.environ.get(WRITES) == "1":
        page = PAGE.read_text()
        PAGE.write_text(replaced(page, table(tried, passed, page)))
