"""The command line: one table of commands, and how they end."""

import argparse
import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from laid.common.errors import UserError, is_from_another_rank
from laid.common.first_rank import is_first_of_node
from laid.common.logging_setup import set_up_logging
from laid.common.stopping import Stopped, stops_raised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as it is typed.
        help: one line.
        function: module and name, imported when it is called: torch and transformers take seconds.
        by_signature: whether the function's parameters are the options; otherwise it takes the
            words after the command.
    """

    name: str
    help: str
    function: str
    by_signature: bool = False

    def run(self, words: list[str]) -> None:
        function = resolve_name(self.function)
        if self.by_signature:
            from jsonargparse import auto_cli

            from laid.common.command_parser import CommandParser

            prog = f"laid {self.name}"
            auto_cli(function, words, prog=prog, as_positional=False, parser_class=CommandParser)
        else:
            function(words)


# fmt: off
COMMANDS = (
    Command("fit", "train: distil a teacher's long window into a student",
            "laid.cli.lightning_app:fit"),
    Command("validate", "accuracy of a checkpoint on the validation entries",
            "laid.cli.lightning_app:validate"),
    Command("test", "accuracy by haystack size, of a checkpoint or of a base model",
            "laid.cli.lightning_app:test"),
    Command("predict", "answer a Visual Haystacks file, or a question about a folder of images",
            "laid.cli.lightning_app:predict"),
    Command("cache push", "push a teacher's stored signals to the Hugging Face hub",
            "laid.sharing.cache_push:push_cache", by_signature=True),
    Command("cache", "store a teacher's signals, to train without the teacher",
            "laid.cli.cache_command:run"),
    Command("doctor", "whether this machine has what a run needs, before the run",
            "laid.doctor.doctor_command:run"),
    Command("plan", "memory, FLOPs and hours of a run, without weights or a GPU",
            "laid.planning.plan_command:run"),
    Command("compare", "several results side by side: tables, figures, paired tests",
            "laid.comparison.compare_command:run"),
    Command("spectrum", "which rotary frequencies attention uses, of several models",
            "laid.spectrum.spectrum_command:run"),
    Command("look", "where models look in one haystack: a picture and a page",
            "laid.look.look_command:run"),
    Command("export", "write a checkpoint as a plain Hugging Face folder",
            "laid.cli.export_command:export", by_signature=True),
    Command("pretrain tiny", "train the package's tiny models from nothing",
            "laid.miniature.pretrain_command:pretrain_tiny", by_signature=True),
    Command("data build", "write Visual Haystacks files from a COCO folder",
            "laid.data.build_command:build", by_signature=True),
    Command("data push", "push Visual Haystacks files to the Hugging Face hub",
            "laid.sharing.push_command:push_data", by_signature=True),
)
# fmt: on
USAGE = f"""\
usage: laid COMMAND [options]       laid COMMAND --help says more

{chr(10).join(f"  {command.name:<15}{command.help}" for command in COMMANDS)}

with any command: -v, --verbose for details; -q, --quiet for results and errors only
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``laid``; ``argv`` is the command line without the program's name.

    What a user can fix ends in one line on stderr and exit code 2 (``LAID_TRACEBACK=1`` shows
    where it was raised), SIGTERM in one and 143, Ctrl-C in one and 130; everything else is a bug
    and keeps its traceback.
    """
    # The workers of a DataLoader are forked after the tokenizer was used, which warns otherwise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = argparse.ArgumentParser("laid", add_help=False, allow_abbrev=False)
    loudness = options.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true")
    loudness.add_argument("-q", "--quiet", action="store_true")
    given, words = options.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    set_up_logging(given.verbose, given.quiet)
    command = find_command(words)
    hook, threading.excepthook = threading.excepthook, _in_thread
    try:
        with stops_raised():
            command.run(words[len(command.name.split()) :])
    except Stopped as stop:
        log.warning("%s", stop)
        raise
    except Exception as error:
        if os.environ.get("LAID_TRACEBACK") or not is_users(error):
            raise
        said = is_from_another_rank(error) and not is_first_of_node()
        log.log(logging.DEBUG if said else logging.ERROR, "error: %s", reason(error))
        sys.exit(2)
    finally:
        threading.excepthook = hook


def _in_thread(raised: threading.ExceptHookArgs) -> None:
    """A full disk that TensorBoard's thread meets is raised in the main thread too."""
    error = raised.exc_value
    if os.environ.get("LAID_TRACEBACK") or not (isinstance(error, Exception) and is_users(error)):
        threading.__excepthook__(raised)


def find_command(words: list[str]) -> Command:
    """The command that a command line begins with; exits where it begins with none."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        from laid import __version__

        print(f"laid {__version__}")
        sys.exit(0)
    for command in COMMANDS:
        name = command.name.split()
        if words[: len(name)] == name:
            return command
    log.error("error: no command %r\n\n%s", " ".join(words[:2]), USAGE)
    sys.exit(2)


def is_users(error: Exception) -> bool:
    """Whether an error is about what the user gave: ours, Lightning's, or the system's own."""
    if isinstance(error, OSError):
        # Libraries raise it without a number, and a DataLoader's worker loses the number.
        return error.errno is not None or "[Errno " in str(error)
    misconfigured = type(error).__name__ == "MisconfigurationException"
    return isinstance(error, UserError) or misconfigured


def reason(error: BaseException) -> str:
    """The message of an error, without the traceback that a data worker puts before it."""
    text = str(error)
    if text.startswith("Caught ") and "Traceback (most recent call last)" in text:
        *_, text = re.split(rf"\n(?:[\w.]+\.)?{type(error).__name__}: ", text)
    return text.strip() or type(error).__name__
