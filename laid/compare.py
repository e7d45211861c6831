"""``laid compare``: several results side by side."""

from pathlib import Path

from jsonargparse import ArgumentParser

from laid.evaluation.figures import accuracy_figure, save_png
from laid.evaluation.results import read_results
from laid.evaluation.table import format_table
from laid.files import atomic_write_text


def compare(results: list[str], out: str) -> None:
    """Prints the table of several results, and writes it and a figure of accuracy by size.

    Args:
        results: Results files (``runs/NAME/results.json``), or folders that hold one.
        out: Folder to write ``table.txt`` and ``accuracy_by_size.png`` into.

    Raises:
        ValueError: a file is missing or not a results file.
    """
    paths = [Path(p) / "results.json" if Path(p).is_dir() else Path(p) for p in results]
    read = [read_results(path) for path in paths]
    table = format_table(read)
    folder = Path(out)
    atomic_write_text(folder / "table.txt", table + "\n")
    save_png(accuracy_figure(read), folder / "accuracy_by_size.png")
    print(table)
    print(f"laid: {folder / 'table.txt'}, {folder / 'accuracy_by_size.png'}")


def run(argv: list[str]) -> None:
    """The command line of ``compare``."""
    parser = ArgumentParser(prog="laid compare", description="Several results side by side.")
    parser.add_argument("results", nargs="+", type=str, help="runs/NAME/results.json, or runs/NAME")
    parser.add_argument("--out", type=str, default="report", help="Folder to write into.")
    given = parser.parse_args(argv)
    compare(given.results, given.out)
