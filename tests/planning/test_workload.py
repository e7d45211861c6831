"""From one haystack's FLOPs to those of a run."""

from types import SimpleNamespace

import pytest

from laid.planning.workload import epochs_of


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"), [(3, -1, 3), (3, 100, 2), (1, 100, 1), (None, 25, 0.5)]
)
def test_a_run_ends_after_its_epochs_or_steps(epochs, steps, expected):
    assert epochs_of(SimpleNamespace(max_epochs=epochs, max_steps=steps), steps=50) == expected


@pytest.mark.parametrize("epochs", [None, -1])
def test_a_run_without_an_end_is_refused(epochs):
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or"):
        epochs_of(SimpleNamespace(max_epochs=epochs, max_steps=-1), steps=50)
