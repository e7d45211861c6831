"""``laid compare``: several results side by side, as a report."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from laid.callbacks.head_flow_figure import flow_figure, read_head_flow
from laid.common.command_parser import CommandParser
from laid.common.errors import UserError
from laid.common.printable import for_file_name, for_markdown, printable
from laid.common.report_folder import report_folder
from laid.common.tables import Table, comma_separated, latex, markdown, text
from laid.comparison.benchmarks import TABLES as OF_BENCHMARKS
from laid.comparison.benchmarks import Benchmarks
from laid.comparison.disagreements import disagreement_table, look_pages
from laid.comparison.html_report import html_report
from laid.comparison.methods import Method, find_method, read_methods
from laid.comparison.report_tables import TABLES, bootstrap_line, method_lines, tables
from laid.comparison.study import Study
from laid.evaluation.accuracy_figures import accuracy_figure, bar_figure, depth_figure, save_png
from laid.evaluation.accuracy_table import format_table

log = logging.getLogger(__name__)

THRESHOLDS = (0.5, 0.75)
FIGURES = {
    "accuracy_by_size": "Figure 1: accuracy by haystack size",
    "accuracy_bars": "Figure 3: accuracy by haystack size, as bars",
    "accuracy_by_depth": "Accuracy by haystack size and needle depth",
    "head_flow": "Figure 4: key activation by head before and after training",
}
_ON_SCREEN = ("gains", "windows", *OF_BENCHMARKS)
_OF_A_REPORT = re.compile(
    rf"({'|'.join([*TABLES, *OF_BENCHMARKS])})\.(csv|tex)|({'|'.join(FIGURES)}|head_flow_.+)\.png|"
    r"report\.(md|html)|table\.txt"
)


def compare(
    results: Sequence[str],
    out: str = "report",
    base: str | None = None,
    teacher: str | None = None,
    threshold: Sequence[float] = THRESHOLDS,
    look: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
) -> None:
    """Writes a report on several results, and prints its main tables.

    ``report.html`` is one file with figures to read values off, tables to sort, and the commands
    and settings behind each number; ``report.md`` has the same tables. Beside them lie each table
    as CSV and LaTeX, the figures as PNG, and ``table.txt``, what is printed and noted.
    docs/evaluation.md says how each number is computed. An earlier report in the folder is replaced
    when the new one is whole; other files stay.

    Args:
        results: Results files (``runs/NAME/results.json``), or folders that hold one. Training
            seeds of one method are grouped.
        out: Folder to write into.
        base: Name of the method that gains and tests refer to. None: there are none.
        teacher: Name of the teacher's result, which is shown and not ranked.
        threshold: Accuracies between 0 and 1 that an effective window stays above.
        look: Folders that ``laid look`` has written, which report.html links to.
        benchmarks: ``NAME=WHAT`` each: answers to a standard benchmark, as lmms-eval's
            --log_samples or VLMEvalKit write them (docs/benchmarks.md). Without results the report
            has nothing else.

    Raises:
        UserError: a file is missing or not a results file; no method has that name; a
            threshold is not an accuracy.
    """
    if not results and not benchmarks:
        raise UserError("give results, such as runs/*/results.json, or --benchmarks NAME=FILE")
    outside = [t for t in threshold if not 0 < t < 1]
    if outside or not threshold:
        raise UserError(f"--threshold {outside or 'none'}: expected accuracies such as 0.5 0.75")
    standard = Benchmarks(benchmarks)
    if not results:
        if look or tuple(threshold) != THRESHOLDS:
            given = "--look" if look else "--threshold"
            raise UserError(f"{given} is of results of laid test: give some, or leave it out")
        _benchmarks_alone(standard, out, base, teacher)
        return
    methods, notes = read_methods(results)
    of_base = find_method(methods, base, "--base") if base is not None else None
    of_teacher = find_method(methods, teacher, "--teacher") if teacher is not None else None
    if of_base is not None and of_base is of_teacher:
        raise UserError(f"--base and --teacher are both {base!r}: name two of the results")
    if of_base is None:
        names = ", ".join(method.label for method in methods)
        notes.append(f"no gains and no tests without --base NAME, one of {names}")
    pages = look_pages(look, Path(out))
    study = Study(methods, of_base, of_teacher, list(dict.fromkeys(threshold)))
    with report_folder(out, _OF_A_REPORT) as folder:
        figures = _figures(study, folder, notes)
        made = tables(study)
        if benchmarks:
            made += standard.tables(base, teacher)
            notes += standard.notes
        _write(folder, made)
        report = _report(study, made, figures, notes)
        differing = disagreement_table(study)
        shown_tables = [*made, *([differing] if differing else [])]
        page = html_report(study, shown_tables, [*notes, bootstrap_line()], pages)
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "report.md").write_text(report, encoding="utf-8")
        shown = [format_table(study.summaries())]
        shown += [text(table) for table in made if table.name in _ON_SCREEN]
        written = printable("\n\n".join([*shown, *(f"laid: {note}" for note in notes)]))
        (folder / "table.txt").write_text(f"{written}\n", encoding="utf-8")
    print(printable("\n\n".join(shown)))
    for line in (*notes, Path(out) / "report.html"):
        log.info("%s", line)


def _write(folder: Path, made: Sequence[Table]) -> None:
    for table in made:
        (folder / f"{table.name}.csv").write_text(comma_separated(table), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8")


def _benchmarks_alone(
    standard: Benchmarks, out: str, base: str | None, teacher: str | None
) -> None:
    for option, name in (("--base", base), ("--teacher", teacher)):
        if name is not None:
            find_method(standard.methods, name, option)
    made = standard.tables(base, teacher)
    with report_folder(out, _OF_A_REPORT) as folder:
        _write(folder, made)
        notes = [f"Note: {for_markdown(note)}.\n\n" for note in standard.notes]
        report = ["# Benchmarks\n\n", *notes, *(f"\n{markdown(table)}" for table in made)]
        (folder / "report.md").write_text("".join(report), encoding="utf-8")
        shown = printable("\n\n".join(map(text, made)))
        (folder / "table.txt").write_text(f"{shown}\n", encoding="utf-8")
    print(shown)
    for line in (*standard.notes, Path(out) / "report.md"):
        log.info("%s", line)


def _figures(study: Study, folder: Path, notes: list[str]) -> dict[str, str]:
    """Draws what can be drawn; returns file names with titles, and notes what is missing."""
    summaries = study.summaries()
    draw = zip(FIGURES, (accuracy_figure, bar_figure, depth_figure), strict=False)
    made = {name: figure(summaries) for name, figure in draw}
    titles = {name: FIGURES[name] for name in made}
    flows = {method.label: flow for method in study.rows if (flow := _head_flow(method))}
    for label, flow in flows.items():
        safe = f"head_flow_{for_file_name(label)}"
        if safe in made:  # two labels that differ in signs only
            safe = f"{safe}-{len(made)}"
        name = "head_flow" if len(flows) == 1 else safe
        measured = read_head_flow(flow)
        made[name] = flow_figure(measured.sizes, measured.curves)
        beside = ", and the teacher's" if "teacher" in measured.curves else ""
        titles[name] = f"{FIGURES['head_flow']}{beside} ({label})"
    for name, figure in made.items():
        save_png(figure, folder / f"{name}.png")
    if not flows:
        notes.append("no head flow (Figure 4): no run of these results has measured it")
    return titles


def _head_flow(method: Method) -> Path | None:
    """The head flow of a method's first seed: beside its results or in its run."""
    training = method.results[0].training
    home = method.files[0].parent
    folders = [home, home / training.run] if training else [home]
    found = (folder / "figures" / "head_flow.json" for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _report(study: Study, made: Sequence[Table], figures: dict[str, str], notes: list[str]) -> str:
    names = ", ".join(method.title for method in study.rows)
    parts = [f"# Comparison of {for_markdown(names)}\n"]
    parts += [f"- {line}\n" for line in method_lines(study)]
    parts += ["\n", *(f"Note: {for_markdown(note)}.\n\n" for note in notes)]
    parts += [f"{bootstrap_line()}\n", *(f"\n{markdown(table)}" for table in made)]
    titles = {name: for_markdown(title) for name, title in figures.items()}
    parts += [f"\n## {title}\n\n![{title}]({name}.png)\n" for name, title in titles.items()]
    return "".join(parts)


def run(argv: list[str]) -> None:
    parser = CommandParser(prog="laid compare", description="Several results side by side.")
    parser.add_argument("results", nargs="*", type=str, help="runs/NAME/results.json, or runs/NAME")
    above = "Accuracies that the effective window stays above. 0.5 is chance."
    given = list(THRESHOLDS)
    parser.add_argument("--threshold", nargs="+", type=float, default=given, help=above)
    looks = "Folders that laid look has written, which report.html links to."
    parser.add_argument("--look", nargs="+", type=str, default=[], help=looks)
    answers = "NAME=FILE or NAME=FOLDER: answers to a benchmark, by lmms-eval or VLMEvalKit."
    parser.add_argument("--benchmarks", nargs="+", type=str, default=[], help=answers)
    parser.add_function_arguments(compare, skip={"results", "threshold", "look", "benchmarks"})
    compare(**vars(parser.parse_args(argv)))
