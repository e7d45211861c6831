"""The fixtures of all tests, in the processes that run them: xdist's first one imports no torch."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses"):
        config.pluginmanager.import_plugin("shared_fixtures")
