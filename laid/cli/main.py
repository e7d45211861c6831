"""The command line: Lightning's ``fit``, ``validate``, ``test``, ``predict``, and our commands."""

import os
import sys
from collections.abc import Callable, Sequence

USAGE = """\
usage: laid COMMAND [options]       laid COMMAND --help says more

  fit            train: distil a teacher's long window into a student
  validate       accuracy of a checkpoint on the validation entries
  test           accuracy by haystack size, of a checkpoint or of a base model
  predict        answer a Visual Haystacks file, or a question about a folder of images
  plan           memory, FLOPs and hours of a run, without weights or a GPU
  compare        several results side by side: tables, figures, paired tests
  export         write a checkpoint as a plain Hugging Face folder
  pretrain tiny  train the package's tiny models from nothing
  data build     write Visual Haystacks files from a COCO folder
"""

LIGHTNING = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``laid``; ``argv`` is the command line without the program's name.

    What a user can mend ends in one line on stderr and exit code 2; ``LAID_TRACEBACK=1`` shows
    where it was raised.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # The workers of a DataLoader are forked after the tokenizer was used, which warns otherwise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    command = find_command(argv)
    if os.environ.get("LAID_TRACEBACK"):
        command()
        return
    try:
        command()
    except Exception as error:
        if not is_users(error):
            raise
        print(f"laid: error: {reason(error)}", file=sys.stderr)
        sys.exit(2)


def find_command(argv: list[str]) -> Callable[[], None]:
    """The command that ``argv`` names, ready to run; exits where it names none."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0 if argv else 2)
    if argv[0] in ("-V", "--version"):
        from laid import __version__

        print(f"laid {__version__}")
        sys.exit(0)
    # Imported when asked for: torch and transformers take seconds to load.
    if argv[0] in LIGHTNING:
        from laid.cli.lightning_app import run

        return lambda: run(argv)
    if argv[0] == "plan":
        from laid.planning.plan_command import run as plan

        return lambda: plan(argv[1:])
    if argv[0] == "compare":
        from laid.comparison.compare_command import run as compare

        return lambda: compare(argv[1:])
    if argv[0] == "export":
        from laid.cli.export_command import export

        return lambda: call(export, "laid export", argv[1:])
    if argv[:2] == ["pretrain", "tiny"]:
        from laid.miniature.pretrain_command import pretrain_tiny

        return lambda: call(pretrain_tiny, "laid pretrain tiny", argv[2:])
    if argv[:2] == ["data", "build"]:
        from laid.data.build_command import build

        return lambda: call(build, "laid data build", argv[2:])
    print(f"laid: error: no command {' '.join(argv[:2])!r}\n\n{USAGE}", end="", file=sys.stderr)
    sys.exit(2)


def call(function: Callable[..., object], prog: str, argv: list[str]) -> None:
    """Runs a function with its signature as the command line."""
    from jsonargparse import auto_cli

    auto_cli(function, args=argv, prog=prog, as_positional=False)


def is_users(error: Exception) -> bool:
    """Whether an error is about what the user gave; Lightning has a class of its own for it."""
    misconfigured = type(error).__name__ == "MisconfigurationException"
    return isinstance(error, ValueError | OSError) or misconfigured


def reason(error: BaseException) -> str:
    """The message of an error, without the traceback that a data worker puts before it."""
    text = str(error)
    if text.startswith("Caught ") and "Traceback (most recent call last)" in text:
        kind = type(error).__name__
        _, found, after = text.rpartition(f"\n{kind}: ")
        text = after if found else text
    return text.strip() or type(error).__name__
