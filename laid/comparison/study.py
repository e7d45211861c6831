"""The numbers of a report: everything that is computed of several methods and their base.

Tables and figures (`laid.comparison.report_tables`) are made from these and compute nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np

from laid.comparison import accuracy_curves as curves
from laid.comparison.accuracy_curves import Bounds, Floats
from laid.comparison.bootstrap import replicate
from laid.comparison.methods import Method
from laid.comparison.paired_tests import Drawn, PairedTest, corrected, family, paired_test
from laid.evaluation.percentile_interval import REPLICATES, interval
from laid.evaluation.results import WINDOWS, DepthBin, Summary
from laid.evaluation.wilson import Interval

Mark = Literal["", "bold", "underline"]


class Measured(NamedTuple):
    """A number, and its 95% interval where there are records to draw it from."""

    value: float
    interval: Interval | None


class Bounded(NamedTuple):
    """A number that may be known by bounds only (then they differ), with its 95% interval."""

    low: float
    high: float
    interval: Interval | None


class Study:
    """Several methods, and what they are measured by.

    Args:
        methods: the methods, each once, base and teacher among them.
        base: the method that gains, ratios and tests refer to; None: there are none.
        teacher: shown, and neither ranked nor tested: it has no gain, no test and no mark.
        thresholds: of the effective window.
        replicates: of the bootstrap.

    Attributes:
        rows: all methods: the teacher first, then the base, the others as given.
        tests, windows: by label, the tests against the base at each size that both were tested at,
            and over the short and the long ones of them.
        ranked: those without the teacher.
        tested: those without base and teacher: what is tested against the base.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        base: Method | None,
        teacher: Method | None,
        thresholds: Sequence[float],
        replicates: int = REPLICATES,
    ):
        first = [m for m in (teacher, base) if m is not None]
        self.rows = [*first, *(m for m in methods if m not in first)]
        self.base, self.teacher = base, teacher
        self.ranked = [m for m in self.rows if m is not teacher]
        self.tested = [m for m in self.ranked if m is not base] if base else []
        self.thresholds = list(thresholds)
        self.sizes = sorted({size for m in self.rows for size in m.sizes})
        self._drawn = {m.label: replicate(m, replicates) for m in self.rows}
        self.tests: dict[str, dict[int, PairedTest | None]] = {}
        self.windows: dict[str, dict[str, PairedTest | None]] = {}
        for method in self.tested:
            assert base is not None
            sizes, both = method.shared_sizes(base), (method, base, self._both(method, base))
            self.tests[method.label] = family(*both, {size: [size] for size in sizes})
            parts = {name: part(sizes) for name, part in WINDOWS.items()}
            self.windows[method.label] = family(*both, parts)

    @property
    def yes_no(self) -> bool:
        """Whether all answers are yes or no, so that 0.5 is chance."""
        return all(of.scoring == "yes-no" for method in self.rows for of in method.results)

    def accuracy(self, method: Method) -> dict[int, Measured]:
        """By size. The interval is Wilson's for one seed and the bootstrap's for several, whose
        answers to one entry are not independent."""
        drawn, cells = self._drawn[method.label], method.results[0].by_size
        spread = {s: cell.interval for s, cell in cells.items()}
        if drawn is not None and len(method.seeds) > 1:
            spread = {s: interval(drawn[s]) for s in method.sizes}
        return {s: Measured(of, spread[s]) for s, of in method.accuracy().items()}

    def summaries(self) -> list[Summary]:
        """Of all rows, for tables and figures."""
        return [self.summary(method) for method in self.rows]

    def summary(self, method: Method) -> Summary:
        """The training seeds of a method together."""
        cells = {}
        for size, (value, bounds) in self.accuracy(method).items():
            of_seeds = [results.by_size[size] for results in method.results]
            bins = zip(*(cell.needle_depth for cell in of_seeds), strict=True)
            cells[size] = replace(
                of_seeds[0],
                accuracy=value,
                interval=bounds or of_seeds[0].interval,
                compliance=fmean(cell.compliance for cell in of_seeds),
                truncated=fmean(cell.truncated for cell in of_seeds),
                mean_tokens=fmean(cell.mean_tokens for cell in of_seeds),
                needle_depth=tuple(_mean_bin(of_bin) for of_bin in bins),
            )
        windows = ([cells[size].accuracy for size in part(cells)] for part in WINDOWS.values())
        means = [fmean(shares) if shares else None for shares in windows]
        short, long = means
        return Summary(method.title, cells, short, long, method.results[0].scoring)

    def gains(self, method: Method) -> dict[str, Measured | None]:
        """Short and long gain over the sizes that base and method share; None without any."""
        assert self.base is not None
        shared = method.shared_sizes(self.base)
        parts = {name: part(shared) for name, part in WINDOWS.items()}
        return {
            name: self._measured(partial(curves.gain, sizes=at), method, self.base) if at else None
            for name, at in parts.items()
        }

    def window(self, method: Method, threshold: float) -> Bounded | None:
        """The effective window, in images; None where no entry has one."""
        if not curves.with_images(method.sizes):
            return None
        return self._bounded(partial(curves.effective_window, threshold=threshold), method)

    def window_ratio(self, method: Method, threshold: float) -> Bounded | None:
        """The effective window, in windows of the base; None where one has none."""
        assert self.base is not None
        if not all(curves.with_images(of.sizes) for of in (method, self.base)):
            return None
        window = partial(curves.effective_window, threshold=threshold)
        return self._bounded(lambda *of: curves.window_ratio(*map(window, of)), method, self.base)

    def decay(self, method: Method) -> Measured | None:
        """Accuracy lost with each doubling of the haystack; None for fewer than two sizes."""
        several = len(curves.with_images(method.sizes)) > 1
        return self._measured(curves.decay, method) if several else None

    def decay_ratio(self, method: Method) -> Bounded | None:
        """How many times slower than the base's it decays, over the sizes that both share."""
        assert self.base is not None
        sizes = curves.with_images(method.shared_sizes(self.base))
        if len(sizes) < 2:
            return None
        rate = partial(curves.decay, over=sizes)
        return self._bounded(lambda *of: curves.decay_ratio(*map(rate, of)), method, self.base)

    def marks(self, methods: Sequence[Method]) -> dict[tuple[str, int], Mark]:
        """The best and the second of each size among some methods, where tests are significant.

        A method is bold when it is the best and significantly better than the second. It is
        underlined when it is the second and significantly better than the third, or the best and
        significantly better than the third but not than the second. Each of these three
        comparisons is one family over the sizes.
        """
        ranks: dict[int, list[Method]] = {}
        for size in self.sizes:
            here = [m for m in methods if size in m.sizes]
            ranks[size] = sorted(here, key=lambda m: (-m.accuracy()[size], m.label))
        ahead = {(i, j): self._ahead(ranks, i, j) for i, j in ((0, 1), (1, 2), (0, 2))}
        marks: dict[tuple[str, int], Mark] = {}
        for size, rank in ranks.items():
            if size in ahead[0, 1]:
                marks[rank[0].label, size] = "bold"
            elif size in ahead[1, 2] and size in ahead[0, 2]:
                marks[rank[0].label, size] = "underline"
            if size in ahead[1, 2]:
                marks[rank[1].label, size] = "underline"
        return marks

    def _ahead(self, ranks: Mapping[int, Sequence[Method]], i: int, j: int) -> set[int]:
        """The sizes at which the method of rank i is significantly better than that of rank j."""
        sizes = [size for size, rank in ranks.items() if len(rank) > j]
        pairs = [(ranks[size][i], ranks[size][j], size) for size in sizes]
        found = [paired_test(one, other, [s], self._both(one, other)) for one, other, s in pairs]
        tests = zip(sizes, corrected(found), strict=True)
        return {size for size, test in tests if test and test.significant and test.difference > 0}

    def _both(self, one: Method, other: Method) -> Drawn:
        return self._drawn[one.label], self._drawn[other.label]

    def _measured(self, statistic: Callable[..., Floats], *methods: Method) -> Measured:
        low, _, spread = self._bounded(lambda *of: Bounds(*[statistic(*of)] * 2), *methods)
        return Measured(low, spread)

    def _bounded(self, statistic: Callable[..., Bounds], *methods: Method) -> Bounded:
        """A statistic of the methods' accuracies by size, and of their replicates."""
        rows = [{s: np.array([of]) for s, of in m.accuracy().items()} for m in methods]
        drawn = [self._drawn[m.label] for m in methods]
        low, high = statistic(*rows)
        spread = interval(*statistic(*drawn)) if None not in drawn else None
        return Bounded(low.item(), high.item(), spread)


def _mean_bin(of_seeds: Sequence[DepthBin]) -> DepthBin:
    known = [cell.accuracy for cell in of_seeds if cell.accuracy is not None]
    return replace(of_seeds[0], accuracy=fmean(known) if len(known) == len(of_seeds) else None)
