"""Standard benchmarks beside our own results: accuracy and paired tests, of what lmms-eval and
VLMEvalKit have written.

A benchmark stands where a haystack size stands in `Answers`, so the bootstrap and the tests are the
same. Shape suffixes: S training seeds, E entries of one benchmark.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from laid.common.errors import UserError
from laid.common.tables import NONE, Cell, Table
from laid.comparison import report_cells as cells
from laid.comparison.bootstrap import Replicates, replicate
from laid.comparison.harness_files import Answered, find_files, read_answers
from laid.comparison.methods import Answers, Method, split_seed
from laid.comparison.paired_tests import family
from laid.comparison.study import Measured
from laid.evaluation.percentile_interval import interval
from laid.evaluation.wilson import accuracy_of

TABLES = ("benchmarks", "benchmark_tests")


class Benchmarks:
    """The answers of several models to several benchmarks.

    Args:
        given: ``NAME=WHAT`` each, WHAT a file or a folder of lmms-eval; the same name several times
            adds benchmarks, and ``NAME-seed0``, ``NAME-seed1`` are training seeds of NAME.

    Attributes:
        names: of the benchmarks.
        methods: the models, in the order given; their answers are numbered as ``names`` are.
        notes: what a reader should know.

    Raises:
        UserError: a file is missing or can't be read; a model has a benchmark twice; its seeds did
            not answer the same entries.
    """

    def __init__(self, given: Sequence[str]):
        self.notes: list[str] = []
        by_model: dict[str, dict[str, tuple[Path, Answered]]] = {}
        for word in given:
            name, separator, what = word.partition("=")
            if not (name and separator and what):
                raise UserError(f"--benchmarks {word}: expected NAME=FILE or NAME=FOLDER")
            if not Path(what).exists():
                raise UserError(f"--benchmarks {word}: there is no {what}")
            for path in find_files(Path(what)):
                answered = read_answers(path)
                of_model = by_model.setdefault(name, {})
                if answered.benchmark in of_model:
                    both = f"{of_model[answered.benchmark][0]} and {path}"
                    raise UserError(f"{name} has {answered.benchmark} twice: {both}")
                of_model[answered.benchmark] = path, answered
                if answered.left_out:
                    self.notes.append(
                        f"{path}: {answered.left_out} answers are left out, since the file does "
                        "not say whether they are right"
                    )
        self.names = list(dict.fromkeys(name for of in by_model.values() for name in of))
        groups: dict[str, list[str]] = {}
        for name in by_model:
            groups.setdefault(split_seed(name)[0], []).append(name)
        self.methods = [
            self._method(label, {name: by_model[name] for name in names})
            for label, names in groups.items()
        ]

    def find(self, label: str | None) -> Method | None:
        return next((method for method in self.methods if method.label == label), None)

    def tables(self, base: str | None, teacher: str | None) -> list[Table]:
        """Accuracy, and with a base the paired tests against it.

        Args:
            base, teacher: names; the teacher is shown and not tested.
        """
        first = [m for m in map(self.find, (teacher, base)) if m is not None]
        rows = [*first, *(m for m in self.methods if m not in first)]
        of_base = self.find(base)
        if of_base is None:
            names = ", ".join(method.label for method in self.methods)
            self.notes.append(f"no tests of benchmarks without a base among {names}")
        drawn = {m.label: replicate(m) for m in rows}
        accuracy: list[list[Cell | str]] = []
        tested: list[list[Cell | str]] = []
        for method in rows:
            assert method.answers is not None
            tests = {}
            if of_base is not None and method is not of_base and method.label != teacher:
                assert of_base.answers is not None
                shared = sorted({*method.answers.ids} & {*of_base.answers.ids})
                both = drawn[method.label], drawn[of_base.label]
                tests = family(method, of_base, both, {at: [at] for at in shared})
            row: list[Cell | str] = [_title(method)]
            for at, name in enumerate(self.names):
                if at not in method.answers.ids:
                    row.append(NONE)
                    continue
                measured = _accuracy(method, at, drawn[method.label])
                arrow = cells.arrow(tests.get(at))
                shown = cells.accuracy_cell(measured, arrow)
                spread = cells.interval_cell(measured)
                row.append(Cell(f"{shown.text} [{spread}]", shown.value))
                if at in tests and tests[at] is None:
                    self.notes.append(f"{method.label} and {base} did not answer the same {name}")
                if test := tests.get(at):
                    tested.append([_title(method), name, *cells.paired_cells(test)])
            accuracy.append(row)
        notes = [
            "Share of entries that the benchmark's own scoring calls right, in percent, with 95% "
            "interval: Wilson's of one model, bootstrap over entries and seeds of several seeds. "
            "It is not always the number that the benchmark reports (docs/benchmarks.md)."
        ]
        found = [Table(TABLES[0], "Benchmarks", ["method", *self.names], accuracy, notes)]
        if tested:
            header = ["method", "benchmark", *cells.PAIRED_HEADER]
            notes = [
                f"Against {base}, on the same entries; as the paired tests by haystack size. p "
                "Holm: corrected for the benchmarks of a method."
            ]
            title = f"Paired tests of benchmarks against {base}"
            found.append(Table(TABLES[1], title, header, tested, notes))
        return found

    def _method(self, label: str, seeds: dict[str, dict[str, tuple[Path, Answered]]]) -> Method:
        ordered = sorted(seeds, key=lambda name: split_seed(name)[1] or 0)
        first = seeds[ordered[0]]
        ids, correct_SE = {}, {}
        for at, benchmark in enumerate(self.names):
            if any(benchmark not in of for of in seeds.values()):
                if any(benchmark in of for of in seeds.values()):
                    raise UserError(f"not every seed of {label} has answers to {benchmark}")
                continue
            of_seeds = [seeds[name][benchmark][1].correct for name in ordered]
            if any(of.keys() != of_seeds[0].keys() for of in of_seeds):
                raise UserError(f"the seeds of {label} did not answer the same {benchmark}")
            ids[at] = tuple(sorted(of_seeds[0]))
            correct_SE[at] = np.array([[of[entry] for entry in ids[at]] for of in of_seeds])
        numbers = tuple(split_seed(name)[1] for name in ordered)
        files = tuple(path for path, _ in first.values())
        return Method(label, (), files, numbers, Answers("benchmarks", ids, correct_SE))


def _accuracy(method: Method, at: int, drawn: Replicates | None) -> Measured:
    assert method.answers is not None and drawn is not None
    correct_SE = method.answers.correct_SE[at]
    if len(correct_SE) > 1:
        return Measured(float(correct_SE.mean()), interval(drawn[at]))
    return Measured(*accuracy_of(int(correct_SE.sum()), correct_SE.size))


def _title(method: Method) -> str:
    count = len(method.seeds)
    return f"{method.label} ({count} seeds)" if count > 1 else method.label
