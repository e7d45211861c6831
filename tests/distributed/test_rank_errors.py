"""What a user can fix is said once, not once a rank, and no rank ends with a traceback."""

import pytest

TWO = ("--trainer.strategy", "laid_fsdp", "--trainer.devices", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--model.teacher.path", "./nowhere"), "no model folder './nowhere'"),
        (("--data.train.source", "my.jsonl"), "my.jsonl, line 1: 'messages' should be"),
        (("--data.max_length", 5), "data.max_length"),
    ],
    ids=["found before the ranks meet", "in each rank's data", "by one rank for all"],
)
def test_an_error_is_said_once(laid, config, work, wrong, message):
    (work / "my.jsonl").write_text('{"messages": 3}\n')
    done = laid("fit", "--config", config, "--name", "wrong", *TWO, *wrong, code=2)
    assert "Traceback" not in done.err
    (said,) = [line for line in done.err.splitlines() if line.startswith("laid: error: ")]
    assert message in said
    assert "exits too" not in done.err
