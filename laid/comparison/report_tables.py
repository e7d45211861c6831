"""The tables of a report, the paper's Tables 1 to 3 among them."""

import re
from collections.abc import Sequence
from dataclasses import replace

from laid.common.printable import code, for_markdown
from laid.common.tables import NONE, Cell, Table
from laid.comparison import report_cells as cells
from laid.comparison.accuracy_curves import with_images
from laid.comparison.methods import Method, not_paired
from laid.comparison.paired_tests import LEVEL
from laid.comparison.study import Study
from laid.evaluation.accuracy_table import asked_text
from laid.evaluation.percentile_interval import REPLICATES
from laid.evaluation.results import long_sizes, short_sizes

_WITHOUT = re.compile(
    r"(?:(?P<full>.+?)[-_ /]+)?(?:w/o|wo|without|no)[-_ /]*(?P<term>laid|retrieval|kl|sft)",
    re.IGNORECASE,
)
TABLES = ("accuracy", "intervals", "gains", "windows", "tests", "tokens", "ablation")
# In the order of the paper's Table 3, which has the first two.
_TERMS = {"kl": "w/o KL", "laid": "w/o LAid", "retrieval": "w/o retrieval", "sft": "w/o SFT"}


def tables(study: Study) -> list[Table]:
    """All tables that there is something to show in, in the order of a report."""
    of_base = {gain_table, test_table} if not study.tested else set()
    every = (accuracy_table, interval_table, gain_table, window_table, test_table, token_table)
    found = [*(table(study) for table in every if table not in of_base), ablation_table(study)]
    return [table for table in found if table is not None]


def accuracy_table(study: Study) -> Table:
    """The paper's Table 1."""
    notes = ["Accuracy in percent by images in the haystack.", *_mark_notes(study)]
    rows = [(m, m.title) for m in study.rows]
    return _accuracies(study, rows, "accuracy", "Table 1: accuracy by haystack size", notes)


def ablation_table(study: Study) -> Table | None:
    """The paper's Table 3, of methods named FULL-wo-TERM, TERM one of ``_TERMS``; None without any.

    Spellings: ``w/o``, ``wo``, ``without`` or ``no``, the term in any case. FULL is the name of
    the complete objective's results, ``laid`` where there is none before the ``wo``. ``kd`` stands
    for ``laid-wo-laid``.
    """
    parts: dict[str, dict[str, Method]] = {}
    for method in study.ranked:
        if found := _WITHOUT.fullmatch(method.label):
            term = found["term"].lower()
            parts.setdefault(found["full"] or "laid", {}).setdefault(term, method)
    # Plain distillation is the objective without alignment, and one run serves for both.
    for method in study.ranked:
        if method.label.lower() == "kd" and "laid" in parts:
            parts["laid"].setdefault("laid", method)
    if not parts:
        return None
    rows = [(study.base, study.base.title)] if study.base else []
    for full, of_term in parts.items():
        beside = f"{full} " if len(parts) > 1 else ""
        rows += [(of_term[t], f"{beside}{_TERMS[t]}") for t in _TERMS if t in of_term]
        rows += [(m, m.title) for m in study.ranked if m.label == full and m is not study.base]
    notes = ["What the objective is worth without one of its terms."]
    return _accuracies(study, rows, "ablation", "Table 3: ablation of the objective", notes)


def interval_table(study: Study) -> Table:
    """Below Table 1: the interval and n of its accuracies."""
    rows = []
    for method in study.rows:
        measured = study.accuracy(method)
        rows.append(
            [method.title, *(cells.interval_cell(measured.get(size)) for size in study.sizes)]
        )
    notes = [
        "95% in percent: Wilson's score interval for one training seed; for several, a bootstrap "
        "over entries and seeds.",
        *(_counts(method) for method in study.rows),
    ]
    return Table(
        "intervals", "Intervals of Table 1", ["method", *map(str, study.sizes)], rows, notes
    )


def gain_table(study: Study) -> Table:
    """Short and long gain against the base, with interval and test."""
    header = ["method", "short gain", "p short", "long gain", "p long"]
    rows = []
    for method in study.tested:
        row: list[Cell | str] = [method.title]
        for name, measured in study.gains(method).items():
            test = study.windows[method.label][name]
            row += [
                cells.gain_cell(measured, brackets=True),
                cells.p_cell(test.adjusted if test else None),
            ]
        rows.append(row)
    assert study.base is not None
    notes = [
        f"Gain: mean over sizes of the relative change against {study.base.title}, in percent. "
        f"Short: {cells.listed(short_sizes(study.base.sizes))} images; "
        f"long: {cells.listed(long_sizes(study.base.sizes))}.",
        "p: exact paired test of the accuracies over these sizes, after Holm's correction for "
        "short and long.",
    ]
    notes += [
        f"{method.title} and the base were both tested with {cells.listed(sizes)} images: its "
        "gains are over these."
        if (sizes := method.shared_sizes(study.base))
        else f"{method.title} has no gain: it and the base were tested at no size in common."
        for method in study.tested
        if method.shared_sizes(study.base) != study.base.sizes
    ]
    return Table("gains", f"Gains against {study.base.title}", header, rows, notes)


def window_table(study: Study) -> Table:
    """Effective windows, their ratio to the base's, and decay rates."""
    header = ["method"]
    for threshold in study.thresholds:
        header.append(f"window at {threshold:g}")
        if study.base:
            header.append(f"times {threshold:g}")
    header += ["decay", *(["slower"] if study.base else [])]
    rows = []
    for method in study.rows:
        of_base = method is study.base
        row: list[Cell | str] = [method.title]
        sizes = with_images(method.sizes)
        for threshold in study.thresholds:
            row.append(cells.bounded_cell(study.window(method, threshold), sizes, 0))
            if study.base:
                row.append(
                    cells.bounded_cell(None if of_base else study.window_ratio(method, threshold))
                )
        row.append(cells.decay_cell(study.decay(method)))
        if study.base:
            row.append(cells.bounded_cell(None if of_base else study.decay_ratio(method)))
        rows.append(row)
    notes = [
        "Window: the number of images up to which accuracy stays above the threshold, interpolated "
        "in its logarithm; >N: above it at every tested size, so that the window ends beyond. "
        "Times: in windows of the base. Decay: points lost with each doubling of the haystack; "
        "slower: the base's decay over the method's. In brackets the 95% bootstrap interval.",
    ]
    if study.yes_no and any(threshold <= 0.5 for threshold in study.thresholds):
        notes.append("0.5 is chance: a model that guesses is above it half of the time.")
    return Table("windows", "Effective window and decay", header, rows, notes)


def test_table(study: Study) -> Table:
    """Every paired comparison with the base."""
    assert study.base is not None
    header = ["method", "images", *cells.PAIRED_HEADER]
    rows: list[list[Cell | str]] = []
    for method in study.tested:
        tests = {str(s): t for s, t in study.tests[method.label].items()}
        for size, test in {**tests, **study.windows[method.label]}.items():
            if test is not None:
                rows.append([method.title, size, *cells.paired_cells(test)])
    notes = [
        f"Against {study.base.title}, on the same entries. Difference: of the accuracies, in "
        "points, with the 95% interval of the paired bootstrap. Ahead, behind: entries at which "
        "the method did better and worse. p: McNemar's exact test; with several training seeds, "
        "the exact sign-flip test of each entry's mean. p Holm: corrected for the sizes of the "
        "method, or for short and long.",
        *_not_tested(study),
    ]
    return Table("tests", f"Paired tests against {study.base.title}", header, rows, notes)


def token_table(study: Study) -> Table:
    """The paper's Table 2: the length of the inputs."""
    columns: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for method in study.rows:
        by_size = method.results[0].by_size
        tokens = tuple((size, by_size[size].mean_tokens) for size in method.sizes)
        columns.setdefault(tokens, []).append(method.label)
    names = [", ".join(labels) for labels in columns.values()]
    header = ["images", *(names if len(names) > 1 else ["tokens"])]
    rows = [
        [str(s), *(Cell(f"{of[s]:,.1f}", of[s]) if s in of else NONE for of in map(dict, columns))]
        for s in study.sizes
    ]
    notes = ["Mean length of a test input, text and images, as the records have it."]
    return Table("tokens", "Table 2: input tokens by image count", header, rows, notes)


def _accuracies(
    study: Study, labelled: Sequence[tuple[Method, str]], name: str, title: str, notes: list[str]
) -> Table:
    marks = study.marks([m for m, _ in labelled if m is not study.teacher])
    header = [
        "method",
        *map(str, study.sizes),
        *(["short gain", "long gain"] if study.base else []),
    ]
    rows = []
    for method, label in labelled:
        measured = study.accuracy(method)
        row: list[Cell | str] = [label]
        for size in study.sizes:
            if size not in measured:
                row.append(NONE)
                continue
            cell = cells.accuracy_cell(
                measured[size], cells.arrow(study.tests.get(method.label, {}).get(size))
            )
            row.append(replace(cell, mark=marks.get((method.label, size), "")))
        if method in study.tested:
            for part, gain in study.gains(method).items():
                row.append(cells.gain_cell(gain, study.windows[method.label][part]))
        elif study.base:
            row += [NONE, NONE]
        rows.append(row)
    return Table(name, title, header, rows, notes)


def _mark_notes(study: Study) -> list[str]:
    notes = []
    if len(study.ranked) > 1:
        without = f" ({study.teacher.title} is not ranked)" if study.teacher else ""
        notes.append(
            "Bold: the best of its column, where it is significantly better than the second. "
            "Underlined: the second, and a best that is not significantly better, where they are "
            f"significantly better than the third{without}."
        )
    if study.tested and study.base:
        notes.append(
            f"↑ ↓: significantly better, worse than {study.base.title}: p of the paired test below "
            f"{LEVEL:g} after Holm's correction, and a bootstrap interval without 0. No arrow "
            "means that the difference is not significant, not that there is none."
        )
    return notes


def method_lines(study: Study) -> list[str]:
    """What was tested: a line a result."""
    lines = []
    for method in study.rows:
        for seed, file, results in zip(method.seeds, method.files, method.results, strict=True):
            of_seed = "" if seed is None else f", training seed {seed}"
            label = for_markdown(method.label)
            lines.append(f"{label}{of_seed}: {code(str(file))}, {code(results.command)}")
    return lines


def bootstrap_line() -> str:
    """How the intervals were drawn."""
    return (
        f"Bootstrap: {REPLICATES:,} replicates; entries drawn within each size, together with the "
        "answers of all methods and seeds to them, and training seeds where there are several. "
        "Intervals of a method with one seed say nothing of the spread between seeds."
    )


def _counts(method: Method) -> str:
    asked = [asked_text(method.results[0].by_size[size]) for size in method.sizes]
    entries = asked[0] if len(set(asked)) == 1 else ", ".join(asked)
    known = [str(seed) for seed in method.seeds if seed is not None]
    seeds = f", training seed{'s' * (len(known) > 1)} {', '.join(known)}" if known else ""
    return f"{method.title}: {entries} entries a size{seeds}."


def _not_tested(study: Study) -> list[str]:
    """The comparisons that could not be made, and why."""
    assert study.base is not None
    notes = []
    for method in study.tested:
        reasons: dict[str, list[int]] = {}
        for size in method.shared_sizes(study.base):
            if reason := not_paired(method, study.base, size):
                reasons.setdefault(reason, []).append(size)
        for reason, sizes in reasons.items():
            notes.append(f"Not tested: {method.title} at {cells.listed(sizes)} images ({reason}).")
    return notes
