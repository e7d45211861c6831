"""The table of commands, how a command ends, and how much it says."""

import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from command_line.commands import Running
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from laid.cli.main import COMMANDS, Command, is_users, main, reason
from laid.common.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_of_the_table_is_there_and_in_the_usage(command, capsys):
    module, name = command.function.split(":")
    assert callable(getattr(import_module(module), name))
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert not stop.value.code
    assert f"  {command.name} " in capsys.readouterr().out


def run(code, *words, **variables):
    """Runs Python code that ends in ``main``, as ``laid WORDS``."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
    )


WITH_ONE_MORE = """
from laid.cli import main
from laid.common.errors import UserError

def command(words):
    raise {error}

main.COMMANDS += (main.Command("one more", "", "__main__:command"),)
main.main()
"""


def raising(error, **variables):
    return run(WITH_ONE_MORE.format(error=error), "one", "more", **variables)


@pytest.mark.parametrize("error", ["ValueError('a bug')", "TypeError('a bug')", "OSError('a bug')"])
def test_a_bug_keeps_its_traceback(error):
    done = raising(error)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "in command" in done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith(": a bug")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("UserError('say 3')", "say 3"),
        ("FileNotFoundError(2, 'No such file', 'x')", "[Errno 2] No such file: 'x'"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, said):
    done = raising(error)
    assert done.returncode == 2
    assert done.stderr == f"laid: error: {said}\n"
    assert "in command" in raising(error, LAID_TRACEBACK="1").stderr


@pytest.mark.parametrize(
    ("error", "users"),
    [
        (UserError("x"), True),
        (MisconfigurationException("x"), True),
        (PermissionError(errno.EACCES, "denied"), True),
        (OSError("a library's own"), False),
        (ValueError("x"), False),
        (KeyError("x"), False),
    ],
    ids=repr,
)
def test_whose_error_it_is(error, users):
    assert is_users(error) == users


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("image x.jpg\nis missing"), "image x.jpg\nis missing"),
        (PermissionError(errno.EACCES, "denied", "x.jpg"), "[Errno 13] denied: 'x.jpg'"),
    ],
)
def test_an_error_of_a_data_worker_is_said_without_its_traceback(error, said):
    from torch._utils import ExceptionWrapper

    try:
        raise error
    except Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(error)) as again:
        wrapped.reraise()
    assert "Traceback" in str(again.value)
    assert is_users(again.value)
    assert reason(again.value) == said


@pytest.mark.parametrize(("flag", "at"), [("--verbose", 0), ("-q", 2), ("--quiet", 4)])
def test_quiet_and_verbose_are_taken_wherever_they_stand(server, flag, at, drawn, tmp_path):
    words = [
        "data", "build", f"--coco_root={drawn}", f"--out={tmp_path / 'out'}",
        "--train_entries=2", "--sizes=[]", "--max_size=2",
    ]  # fmt: skip
    words.insert(at, flag)
    done = Running(server, words, tmp_path / "logs", tmp_path).wait()
    assert done.code == 0
    assert (tmp_path / "out" / "train.json").exists()
    assert ("laid: " in done.err) == (flag == "--verbose")
    assert done.err == "" or flag == "--verbose"


def test_quiet_leaves_errors(tmp_path):
    done = run("from laid.cli.main import main; main()", "-q", "compare", str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stderr.startswith("laid: error: cannot read ")


def test_messages_of_other_ranks_than_the_first_are_left_out(server, drawn, tmp_path):
    words = ["data", "build", f"--coco_root={drawn}", "--train_entries=2", "--sizes=[]"]
    words += ["--max_size=2"]

    def said(out, **variables):
        at = tmp_path / "logs", tmp_path, variables
        done = Running(server, [*words, f"--out={tmp_path / out}"], *at).wait()
        assert done.code == 0
        return done.err

    assert said("1", RANK="1", LOCAL_RANK="0") == ""
    assert "laid: " in said("0", RANK="0")


def test_home_is_expanded_where_a_shell_does_not(tmp_path):
    code = "from laid.cli.main import main; main()"
    done = run(code, "compare", "--out=~/report", "~/none", HOME=str(tmp_path))
    assert f"cannot read {tmp_path / 'none'}" in done.stderr


def test_a_shortened_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["data", "build", "--coco_root", "minicoco", "--ou", "x"])
    assert "--ou" in capsys.readouterr().err


def test_a_command_by_signature_takes_its_parameters():
    command = Command("join", "", "os.path:basename", by_signature=True)
    with pytest.raises(UserError, match="laid join --help"):
        command.run(["--nope=1"])
