"""``laid doctor``: what a machine has, and what a run lacks."""

import shutil

import huggingface_hub.constants
import pytest
import yaml

from laid.cli.main import main


@pytest.fixture
def doctor(work, monkeypatch, capsys):
    """Runs ``laid doctor ARGS`` without a network; gives the exit code and what it printed."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def call(*args):
        code = 0
        try:
            main(["doctor", *map(str, args)])
        except SystemExit as end:
            code = end.code
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return code, out, error

    return call


def states(out: str) -> dict[str, str]:
    """State by subject."""
    lines = (line.split() for line in out.splitlines())
    return {words[1]: words[0] for words in lines if words and words[0] in STATES}


STATES = ("ok", "note", "problem")


def test_without_settings_it_is_about_the_machine_alone(doctor):
    code, out, _ = doctor()
    assert code == 0
    assert states(out).keys() >= {"laid", "packages", "CPU", "GPU", "memory", "disk", "hub"}
    assert "the run" not in out


def test_a_run_that_would_start_has_no_problem(doctor, config):
    code, out, error = doctor("--config", config)
    assert code == 0, error
    assert "problem" not in states(out).values()
    assert "12 entries on" in out
    assert "student and teacher fit together" in out


def test_every_problem_is_named_and_none_hides_another(doctor, config, pair, drawn, tmp_path):
    teacher, coco = tmp_path / "teacher", tmp_path / "coco"
    shutil.copytree(pair[1], teacher)
    (teacher / "model.safetensors").unlink()
    shutil.copytree(drawn, coco)
    next((coco / "val2017").iterdir()).unlink()
    options = {"model.teacher.path": teacher, "data.coco_root": coco, "trainer.accelerator": "cuda"}
    given = [word for key, value in options.items() for word in (f"--{key}", value)]
    code, out, error = doctor("--config", config, *given)
    assert code == 2
    found = states(out)
    assert found["devices"] == found["teacher"] == found["validation"] == "problem"
    assert found["student"] == found["training"] == "ok"
    assert "devices, teacher" in error


def test_a_model_that_is_not_downloaded_is_a_problem_without_a_network(doctor, config):
    code, out, _ = doctor("--config", config, "--model.teacher.path", "nobody/no-such-model")
    assert code == 2
    assert "not downloaded, and the hub does not give it" in out


def test_a_teacher_in_a_cache_needs_no_weights(doctor, config, pair, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(pair[1], teacher)
    (teacher / "model.safetensors").unlink()
    given = "--model.teacher.path", teacher, "--model.teacher_source", f"cache:{tmp_path}"
    code, out, error = doctor("--config", config, *given)
    assert code == 0, error
    assert "its weights are not needed" in out


def test_settings_that_fit_refuses_are_one_problem(doctor, config, tmp_path):
    content = yaml.safe_load(config.read_text())
    content["data"]["batch_size"] = 0
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = doctor("--config", tmp_path / "bad.yaml")
    assert code == 2
    assert "data.batch_size 0" in out


def test_a_damaged_file_of_weights_is_named(doctor, config, pair, tmp_path):
    student = tmp_path / "student"
    shutil.copytree(pair[0], student)
    weights = student / "model.safetensors"
    for kept in (weights.stat().st_size - 1, 5, 0):
        weights.write_bytes(weights.read_bytes()[:kept])
        code, out, _ = doctor("--config", config, "--model.student.path", student)
        assert code == 2
        assert "model.safetensors is damaged or cut off" in out


def test_own_data_are_read_whatever_the_haystacks_are_built_from(
    doctor, config, drawn, tmp_path, monkeypatch
):
    monkeypatch.setattr("laid.data.entry_source.coco_folder", lambda _: drawn)
    (tmp_path / "my.jsonl").write_text('{"messages": 3}')
    given = "--data.train.source", tmp_path / "my.jsonl", "--data.coco_root", "minicoco"
    code, out, _ = doctor("--config", config, *given)
    assert code == 2
    assert states(out)["training"] == "problem"
    assert "my.jsonl, line 1: 'messages' should be" in " ".join(out.split())


def test_a_tokenizer_that_is_missing_is_one_problem_beside_others(doctor, config, pair, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(pair[1], teacher)
    (teacher / "tokenizer.json").unlink()
    code, out, _ = doctor("--config", config, "--model.teacher.path", teacher)
    assert code == 2
    assert states(out)["pair"] == "problem"
    assert states(out)["training"] == "ok"


def test_a_run_that_is_resumed_is_looked_at_by_its_checkpoint(doctor, fitted):
    code, out, error = doctor("--ckpt_path", fitted)
    assert code == 0, error
    assert "the run small" in out
