"""Every shipped configuration is understood, alone and as a method after a base."""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from laid.checkpoints.runs import find_checkpoint
from laid.settings.run_settings import read_settings, settings_parser
from laid.vlm.window_extension import SelfExtendArgs, YarnArgs, chosen_extension

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = sorted((CONFIGS / "method").glob("*.yaml"))
WINDOWS = sorted((CONFIGS / "window").glob("*.yaml"))
BASES = sorted(CONFIGS.glob("*.yaml"))
SHIPPED = [*BASES, *METHODS, *WINDOWS]

TERMS = {
    "sft": {"sft"},
    "sft_lora": {"sft"},
    "kd": {"kl", "sft"},
    "kd_tiny": {"kl", "sft"},
    "laid": {"laid", "kl", "sft"},
    "laid_lora": {"laid", "kl", "sft"},
    "retrieval": {"retrieval", "kl", "sft"},
    "wo_kl": {"laid", "sft"},
    "wo_sft": {"laid", "kl"},
}
"""The terms of Eq. 8 that a method has."""
KINDS = ("7b", "7b-1gpu", "3b", "3b-24gb")
"""Bases with and without a divergence, with and without adapters: methods set no more of a base."""
WITH_LORA = ("7b-1gpu", "3b-24gb")
"""Configurations of a model pair that train adapters, whichever method comes after them."""
BASE_DECIDES_KL = ("laid", "laid_lora", "retrieval", "wo_sft")
"""Methods with a divergence only where the base has one, which the paper's 3B has not."""


def stem(path):
    return path.stem


@cache
def understood(*paths):
    """What ``laid fit`` makes of several ``--config``."""
    files = [word for path in paths for word in ("--config", str(path))]
    return read_settings(settings_parser("laid fit"), files).config.as_dict()


def contained(ours, theirs, key=""):
    for name, value in ours.items():
        if isinstance(value, dict):
            contained(value, theirs[name], f"{key}{name}.")
        else:
            found = theirs[name]
            pairs = isinstance(found, list) and found and isinstance(found[0], tuple)
            assert ([list(pair) for pair in found] if pairs else found) == value, f"{key}{name}"


@pytest.mark.parametrize("path", SHIPPED, ids=stem)
def test_a_shipped_configuration_parses_and_says_what_it_gives(path):
    contained(yaml.safe_load(path.read_text()), understood(path))


def pairs(files, with_every_base):
    """Each file after each base; quickly, those of ``with_every_base`` and the bases of KINDS."""
    return [
        pytest.param(
            base, path, id=f"{path.stem}-{base.stem}",
            marks=() if base.stem in KINDS or path.stem in with_every_base else pytest.mark.slow,
        )
        for path in files for base in BASES
    ]  # fmt: skip


@pytest.mark.parametrize(("base", "method"), pairs(METHODS, ("laid", "sft_lora")))
def test_a_method_after_a_base_trains_its_own_terms(base, method):
    content = understood(base, method)
    contained(yaml.safe_load(method.read_text()), content)
    assert content["name"] == method.stem.removesuffix("_tiny")
    model, alone = content["model"], understood(base)["model"]
    terms = ("laid", "retrieval", "kl", "sft")
    has = {term for term in terms if model["objective"][term]["weight"] > 0}
    without_kl = base.stem.startswith("3b") and method.stem in BASE_DECIDES_KL
    assert has == TERMS[method.stem] - ({"kl"} if without_kl else set())
    adapted = base.stem in WITH_LORA or method.stem.endswith("lora")
    assert (model["lora"] is not None) == adapted
    for key in ("student", "teacher", "optimizer"):
        assert model[key] == alone[key], key
    assert model["objective"]["laid"]["mixing"] == alone["objective"]["laid"]["mixing"]


@pytest.mark.parametrize(("base", "path"), pairs(WINDOWS, ("yarn",)))
def test_a_window_extension_goes_with_every_model(path, base):
    content = understood(base, path)
    contained(yaml.safe_load(base.read_text()), content)
    contained(yaml.safe_load(path.read_text()), content)
    model = content["model"]
    assert chosen_extension(
        model["window_extension"],
        YarnArgs(**model["yarn"]) if model["yarn"] else None,
        SelfExtendArgs(**model["self_extend"]) if model["self_extend"] else None,
    )


@pytest.mark.parametrize("name", ["7b", "3b", "qwen3-vl-8b"])
def test_the_full_size_configurations_have_the_papers_settings(name):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model, data = content["model"], content["data"]
    assert model["optimizer"]["student_lr"] == 1e-5
    assert model["optimizer"]["mixing_lr"] == 1e-4
    assert model["optimizer"]["warmup_ratio"] == 0.05
    assert model["objective"]["kl"]["weight"] == (0.0 if name == "3b" else 0.3)
    assert model["objective"]["laid"]["layers"] == "final"
    assert data["train"] == {
        "split": "train2017", "entries": 5000, "min_size": 2, "max_size": 20,
    }  # fmt: skip
    assert data["test"]["sizes"] == [1, 2, 5, 10, 20, 50, 100, 150]
    assert data["test"]["per_size"] == 100
    assert data["batch_size"] == 1
    assert data["global_batch_size"] == 8
    assert content["trainer"]["max_epochs"] == 10


@pytest.mark.parametrize("name", WITH_LORA)
def test_a_configuration_for_one_card_is_the_full_one_with_adapters_and_a_cache(name):
    ours, full = understood(CONFIGS / f"{name}.yaml"), understood(CONFIGS / f"{name[:2]}.yaml")
    model = ours["model"]
    assert model["lora"]
    assert model["teacher_source"] == f"cache:runs/{name}-cache"
    assert model["student"]["dtype"] == "bfloat16"
    assert ours["trainer"]["devices"] == 1
    for key in ("objective", "optimizer", "teacher"):
        assert model[key] == full["model"][key], key
    for key in full["data"].keys() - {"max_pixels"}:
        assert ours["data"][key] == full["data"][key], key


@pytest.mark.parametrize("path", SHIPPED, ids=stem)
def test_a_comment_stands_by_the_settings(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    commented = sum("#" in line for line in lines)
    assert commented > len(lines) / 3


@pytest.fixture(scope="module")
def few_steps(laid, work):
    """Three steps of the miniature with a method; gives the checkpoint's content."""

    def run(method):
        done = laid(
            "fit", "--config", CONFIGS / "tiny.yaml", "--config", method,
            "--trainer.max_steps", 3, "--data.train.entries", 24, "--data.train.max_size", 3,
            "--data.validate.sizes", "[2]", "--data.validate.per_size", 2,
            "--head_flow.sizes", "[1, 2]", "--head_flow.per_size", 2,
        )  # fmt: skip
        folder = next(line.split()[-1] for line in done.err.splitlines() if "laid: run" in line)
        found = find_checkpoint(str(work / folder), work / "runs")
        assert found.identity["step"] == 3
        return torch.load(found.path, weights_only=True)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=stem)
def test_the_miniature_trains_with_every_method(few_steps, method):
    content = few_steps(method)
    groups = {group["name"] for group in content["optimizer_states"][0]["param_groups"]}
    expected = {"lora"} if method.stem.endswith("lora") else {"student", "student_no_decay"}
    if "laid" in TERMS[method.stem]:
        expected.add("mixing")
    assert groups == expected
    assert ("mixing" in groups) == any(".laid.q." in k for k in content["state_dict"])
