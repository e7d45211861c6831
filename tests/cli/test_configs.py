"""Every shipped configuration is understood."""

from pathlib import Path

import pytest
import yaml

from laid.cli import main
from laid.vlm.window import SelfExtendArgs, YarnArgs, chosen_extension

CONFIGS = Path(__file__).parents[2] / "configs"


def assert_contained(ours, theirs, key=""):
    for name, value in ours.items():
        if isinstance(value, dict):
            assert_contained(value, theirs[name], f"{key}{name}.")
        else:
            assert theirs[name] == value, f"{key}{name}"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_shipped_configuration_parses_and_says_what_it_gives(path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert_contained(yaml.safe_load(path.read_text()), printed)


@pytest.mark.parametrize("base", ["tiny", "3b", "7b"])
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("window/*.yaml")), ids=lambda p: p.stem)
def test_a_window_extension_goes_with_every_model(path, base, capsys):
    base = CONFIGS / f"{base}.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["test", "--config", str(base), "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert_contained(yaml.safe_load(base.read_text()), printed)
    assert_contained(yaml.safe_load(path.read_text()), printed)
    model = printed["model"]
    assert chosen_extension(
        model["window_extension"],
        YarnArgs(**model["yarn"]) if model["yarn"] else None,
        SelfExtendArgs(**model["self_extend"]) if model["self_extend"] else None,
    )


@pytest.mark.parametrize("name", ["7b", "3b"])
def test_the_full_size_configurations_have_the_papers_settings(name):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model, data = content["model"], content["data"]
    assert model["optimizer"]["student_lr"] == 1e-5
    assert model["optimizer"]["mixing_lr"] == 1e-4
    assert model["optimizer"]["warmup_ratio"] == 0.05
    assert model["objective"]["kl"] == (0.3 if name == "7b" else 0.0)
    assert model["objective"]["alignment"]["layers"] == "final"
    assert data["train"] == {
        "split": "train2017", "entries": 5000, "min_size": 2, "max_size": 20,
    }  # fmt: skip
    assert data["test"]["sizes"] == [1, 2, 5, 10, 20, 50, 100, 150]
    assert data["test"]["per_size"] == 100
    assert data["batch_size"] == 1
    assert data["global_batch_size"] == 8
    assert content["trainer"]["max_epochs"] == 10


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_comment_stands_by_the_settings(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    commented = sum("#" in line for line in lines)
    assert commented > len(lines) / 3
