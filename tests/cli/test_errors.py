"""Wrong input: one clear message that says how to mend it, exit code 2, no traceback."""

import json
import logging
import shutil

import pytest
import yaml

from laid.cli.main import main


@pytest.fixture
def fails(work, monkeypatch, capsys):
    """Runs ``laid ARGS`` in this process; gives what it printed when it exits with 2."""

    def run(*args):
        monkeypatch.chdir(work)
        # Lightning's log handler holds the stderr of the test that imported it.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert "Traceback" not in out + err
        return err

    return run


@pytest.fixture
def broken(config, work, tmp_path):
    """Writes the configuration with keys (in dots) set otherwise, and gives its path."""

    def write(changes):
        content = yaml.safe_load(config.read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = content
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / "broken.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.coco_root": "no/such/folder"}, "there is no COCO folder 'no/such/folder'"),
        ({"data.train.split": "test2023"}, "instances_test2023.json"),
        ({"data.train.entries": 3}, "even number"),
        ({"data.train.max_size": 5000}, "cannot be built from split 'train2017'"),
        ({"data.train.source": "nothing.json"}, "nothing.json"),
        ({"data.global_batch_size": 3, "data.batch_size": 2}, "choose a multiple of 2"),
        ({"data.max_length": 20}, "more than data.max_length 20"),
        ({"data.workers": -1}, "data.workers -1"),
        ({"model.student.path": "./no/model"}, "no model folder './no/model'"),
        ({"model.objective.laid": {"layers": [[5, 0]]}}, "no pair [5, 0]"),
        (
            {"model.objective.laid.weight": -1},
            "laid.weight -1.0: expected a finite",
        ),
        ({"model.teacher": None}, "model.teacher is not given"),
        ({"model.lora.rank": 0}, "model.lora.rank 0"),
        ({"model.optimizer.student_lr": float("nan")}, "student_lr nan: expected a finite number"),
        ({"model.objective.kl.weight": float("inf")}, "expected a finite number"),
        ({"trainer.gradient_clip_val": float("inf")}, "gradient_clip_val inf: expected a finite"),
        ({"data.workers": 10**8}, "data.workers 100000000: expected 0 to 1024"),
        ({"data.train.entries": 10**12}, "data.train.entries 1000000000000: expected 1 to"),
        ({"model.lora.target_modules": ["qkv"]}, "no such linear layer; it has down_proj"),
        ({"model.yarn.factor": 4}, "model.yarn is set, but model.window_extension is none"),
        (
            {
                "model.window_extension": "self-extend",
                "model.self_extend": {"group": 2, "window": 9},
            },
            "training-free: it is for test",
        ),
        ({"model.studnet.path": "x"}, "studnet"),
        ({"model.student.dtype": "float12"}, "float12"),
        (
            {"trainer.strategy": "laid_fsdp", "trainer.precision": "16-mixed"},
            "expected bf16-mixed or 32-true",
        ),
        ({"seed_everything": True}, "seed_everything true: expected a number"),
        ({"trainer.accumulate_grad_batches": 5}, "follows from data.global_batch_size"),
        ({"checkpoint.every_n_steps": 5}, "every_n_steps"),
    ],
    ids=str,
)
def test_a_wrong_setting(fails, broken, changes, message):
    assert message in fails("fit", "--config", broken(changes), "--name", "never")


def test_heads_of_different_size(fails, broken, pair, tmp_path):
    shutil.copytree(pair[1], tmp_path / "teacher")
    path = tmp_path / "teacher" / "config.json"
    content = json.loads(path.read_text())
    content["text_config"]["num_attention_heads"] = 3
    path.write_text(json.dumps(content))
    config = broken({"model.teacher.path": str(tmp_path / "teacher")})
    message = fails("fit", "--config", config, "--name", "never")
    assert "head_dim: student 32, teacher 64" in message


def test_an_annotation_file_that_is_not_coco(fails, broken, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text('{"a": []}')
    config = broken({"data.coco_root": str(tmp_path / "coco")})
    assert "instances_train2017.json" in fails("fit", "--config", config, "--name", "never")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_among_many_is_named(fails, broken, drawn, tmp_path, workers):
    shutil.copytree(drawn, tmp_path / "coco")
    for path in (tmp_path / "coco" / "train2017").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    config = broken({"data.coco_root": str(tmp_path / "coco"), "data.workers": workers})
    options = ("--head_flow.enabled", "false", "--trainer.num_sanity_val_steps", 0)
    last = fails("fit", "--config", config, "--name", "never", *options).strip().splitlines()[-1]
    assert last.startswith("laid: error: image ")
    assert "train2017/0" in last
    assert "cannot be read" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fti"], "no command 'fti'"),
        (["data", "biuld"], "no command 'data biuld'"),
        (["test", "--ckpt_path", "nowhere.ckpt"], "no such file or folder"),
        (["fit", "--ckpt_path", "last", "--trainer.default_root_dir", "empty"], "no checkpoint"),
        (["test", "--ckpt_path", "small.yaml"], "cannot be read"),
        (["export", "--ckpt_path", "nowhere", "--out", "x"], "no such file or folder"),
        (["predict", "--config", "small.yaml"], "nothing to answer"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["data", "build", "--coco_root", "nowhere", "--out", "x"], "there is no COCO folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(fails, config, arguments, message):
    assert message in fails(*arguments)


def test_an_error_is_one_line_on_stderr_in_a_shell_too(laid, config):
    done = laid("fit", "--config", config, "--data.coco_root", "nowhere", code=2)
    assert done.err.strip().splitlines()[-1].startswith("laid: error: there is no COCO folder")
    assert "Traceback" not in done.err


def test_help_lists_the_commands(laid):
    done = laid("--help")
    for command in ("fit", "validate", "test", "predict", "export", "data build"):
        assert command in done.out
    assert "ckpt_path" in laid("export", "--help").out
    assert "--model.student.freeze_vision" in laid("fit", "--help").out


@pytest.mark.parametrize(
    ("stage", "typed"),
    [
        ("train", ["--data.train.max_size", 5]),
        ("test", ["--data.test.split=val2017"]),
        ("test", ["--data.test", '{"source": ["made.json"], "split": "val2017"}']),
    ],
)
def test_what_is_typed_of_built_entries_is_refused_where_a_source_gives_them(
    fails, config, stage, typed
):
    given = "made.json" if stage == "train" else '["made.json"]'
    command = "fit" if stage == "train" else "test"
    error = fails(command, "--config", config, f"--data.{stage}.source", given, *typed)
    assert f"data.{stage}.source gives some that are there already" in error
