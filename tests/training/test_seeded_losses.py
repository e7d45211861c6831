"""A change that is not about the computation leaves seeded losses as they are, bit by bit."""

import json

import pytest
import seeded


@pytest.fixture(scope="module")
def recorded():
    return json.loads(seeded.RECORD.read_text())


@pytest.fixture(scope="module")
def found(drawn, tmp_path_factory):
    return seeded.run_all(drawn, tmp_path_factory.mktemp("seeded"))


@pytest.mark.parametrize("name", seeded.variants())
def test_seeded_losses_are_those_recorded(name, found, recorded):
    ours, theirs = found["losses"][name], recorded["losses"][name]
    assert ours.keys() == theirs.keys()
    # Where PyTorch rounds in another way, the last digits are not the project's to keep.
    same_machine = found["machine"] == recorded["machine"]
    for tag, values in theirs.items():
        expected = values if same_machine else pytest.approx(values, rel=1e-2, abs=1e-4)
        assert ours[tag] == expected, tag


def test_every_shipped_method_is_recorded(recorded):
    methods = {path.stem for path in (seeded.CONFIGS / "method").glob("*.yaml")}
    assert methods <= recorded["losses"].keys()
    assert all(len(tags["train/loss"]) == 4 for tags in recorded["losses"].values())
