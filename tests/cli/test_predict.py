"""``laid predict``: an earlier file of predictions stays until the new one is whole."""

import json
import signal
import time

import pytest

from laid.cli.main import main


@pytest.fixture(scope="module")
def questions(drawn, tmp_path_factory):
    """Eight questions in the format of Visual Haystacks."""
    folder = tmp_path_factory.mktemp("questions")
    words = ["--train_entries", "2", "--max_size", "3", "--test_per_size", "8", "--sizes", "[2]"]
    main(["data", "build", "--coco_root", str(drawn), "--out", str(folder / "vhs"), *words])
    return folder / "vhs" / "test_2.json"


@pytest.fixture
def earlier(config, questions, tmp_path):
    """Predictions of an earlier command, and how to repeat it."""
    file = tmp_path / "results" / "predictions.jsonl"
    file.parent.mkdir()
    file.write_text('{"id": "earlier"}\n')
    options = ["--data.eval_batch_size", "1", "--data.predict.source", str(questions)]
    return file, ["predict", "--config", str(config), "--results", str(file.parent), *options]


def test_a_killed_predict_leaves_the_earlier_file(earlier, start):
    file, command = earlier
    process = start(*command)
    while "test-2-000000" not in process.said:
        assert process.poll() is None, process.said[-3000:]
        time.sleep(0.01)
    process.send(signal.SIGKILL, group=True)
    process.wait()
    assert file.read_text() == '{"id": "earlier"}\n'


def test_a_predict_that_fails_half_way_leaves_the_earlier_file(earlier, questions, tmp_path):
    file, command = earlier
    rows = json.loads(questions.read_text())
    rows[5]["conversations"][0]["value"] = "word " * 500
    longer = tmp_path / "longer.json"
    longer.write_text(json.dumps(rows))
    with pytest.raises(SystemExit):
        main([*command, "--data.predict.source", str(longer), "--data.max_length", "400"])
    assert file.read_text() == '{"id": "earlier"}\n'


def test_all_questions_are_answered_unless_a_limit_is_typed_and_this_is_said(earlier, capsys):
    file, command = earlier
    main(command)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"test-2-{index:06d}" for index in range(8)]
    assert len(capsys.readouterr().out.splitlines()) == 8
    main([*command, "--trainer.limit_predict_batches", "3"])
    assert len(file.read_text().splitlines()) == 3
    assert "3 of 8 questions" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--trainer.limit_predict_batches", "0"])
    assert len(file.read_text().splitlines()) == 3
