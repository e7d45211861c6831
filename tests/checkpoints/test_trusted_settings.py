"""Of a checkpoint's settings only those are used that can run no code and write nowhere."""

import pytest
import torch
import yaml

from laid.checkpoints.runs import find_checkpoint
from laid.checkpoints.trusted_settings import trusted_settings

GOOD = {
    "name": "tiny",
    "seed_everything": 3,
    "model": {"student": {"path": "tiny/student"}, "mixing": {"pairs": [[0, 1]]}},
    "data": {"coco_root": "coco", "train": {"entries": 12}},
    "head_flow": {"enabled": True},
    "trainer": {
        "precision": "bf16-mixed", "strategy": "laid_fsdp", "devices": [0, 1], "max_epochs": 2,
        "gradient_clip_val": 1.0, "logger": False,
    },
    "checkpoint": {"monitor": "val/accuracy", "filename": "{step}", "save_top_k": 2},
}  # fmt: skip
EVIL = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {}}


def test_model_data_and_numbers_are_kept():
    assert trusted_settings(GOOD) == (GOOD, [])


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("trainer", "callbacks", [EVIL]),
        ("trainer", "logger", {"class_path": "CSVLogger", "init_args": {"save_dir": "/tmp"}}),
        ("trainer", "logger", [EVIL]),
        ("trainer", "profiler", {"class_path": "SimpleProfiler"}),
        ("trainer", "profiler", "simple"),
        ("trainer", "plugins", [EVIL]),
        ("trainer", "strategy", "os.system"),
        ("trainer", "strategy", EVIL),
        ("trainer", "accelerator", "a/b"),
        ("trainer", "max_epochs", {"class_path": "os.system"}),
        ("trainer", "unheard_of", 3),
        ("checkpoint", "save_top_k", [EVIL]),
        ("checkpoint", "unheard_of", 3),
    ],
)
def test_classes_and_what_is_not_known_are_left_out(part, key, value):
    kept, left = trusted_settings(GOOD | {part: {key: value}})
    assert kept == GOOD | {part: {}}
    assert left == [f"{part}.{key}"]


def test_where_to_write_is_left_out_without_a_word():
    given = {"trainer": {"default_root_dir": "/"}, "checkpoint": {"dirpath": "/"}, "print": "x"}
    assert trusted_settings(given) == ({"trainer": {}, "checkpoint": {}}, ["print"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"student": EVIL}}, r"name a class, model\.student\.class_path"),
        ({"data": {"train": [EVIL]}}, "name a class"),
        ({"model": {3: 4}}, "have the key 3"),
        ({"data": yaml.safe_load("2020-01-01")}, "have a date"),
        ("text", "not those of a run"),
        (None, "not those of a run"),
    ],
)
def test_what_is_not_laids_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        trusted_settings(config)


@pytest.mark.slow
def test_a_resumed_fit_calls_nothing_and_writes_nowhere_else(laid, config, work, tmp_path):
    quick = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0)
    laid("fit", "--config", config, "--name", "foreign", *quick, "--trainer.max_steps", 1)
    path = work / "runs" / "foreign" / "checkpoints" / "step=1.ckpt"
    content = torch.load(path, weights_only=True)
    settings = yaml.safe_load(content["laid"]["config"])
    settings["trainer"] |= {
        "default_root_dir": str(tmp_path / "root"),
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor",
                "init_args": {"cpu_stats": True},
            }
        ],
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(tmp_path / "logs")},
        },
        "profiler": {
            "class_path": "lightning.pytorch.profilers.SimpleProfiler",
            "init_args": {"dirpath": str(tmp_path), "filename": "profile"},
        },
    }
    content["laid"]["config"] = yaml.safe_dump(settings)
    torch.save(content, path)
    done = laid("fit", "--ckpt_path", path, "--trainer.max_steps", 2)
    assert "trainer.callbacks, trainer.logger, trainer.profiler of the" in done.out + done.err
    assert list(tmp_path.iterdir()) == []
    assert find_checkpoint(str(work / "runs" / "foreign"), work).identity["step"] == 2
