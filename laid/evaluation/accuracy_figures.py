"""Figures of results: accuracy by haystack size, and by where the needle lies.

Figures are made as plain `Figure` objects, without pyplot: nothing is global, and no display is
needed. Each is of one model or more.
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from PIL import Image

from laid.common.atomic_files import replacing
from laid.common.printable import one_line
from laid.evaluation.results import SizeCell, Summary
from laid.evaluation.wilson import Interval

# Okabe and Ito's palette, with Tol's wine for its yellow (too pale for lines), and a marker each,
# so that the lines differ without colour too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255"]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_GREY = "#6F6F6F"
_EMPTY = "#D5D5D5"
_CHANCE = 0.5  # of a yes-or-no question
_DPI = 150


def accuracy_figure(summaries: Sequence[Summary]) -> Figure:
    """Accuracy by haystack size, one line a model, with 95% Wilson intervals.

    The horizontal axis is logarithmic with the tested sizes as ticks; a dashed line marks chance
    of yes-or-no questions. Models are set slightly apart from each other sideways, so that their
    intervals don't hide one another. Entries without images stand at half an image. The legend
    gives each model's n, in the summaries' order.
    """
    sizes = _all_sizes(summaries)
    axes = _by_size_axes(summaries, 7.2, 4.4)
    # All models of one size together take up at most 60% of the way to the nearest other size.
    places = [place_of(size) for size in sizes]
    nearest = min((math.log(b / a) for a, b in itertools.pairwise(places)), default=1.0)
    apart = min(0.05, 0.6 * nearest / max(1, len(summaries) - 1))
    for index, summary in enumerate(summaries):
        cells = [summary.by_size[size] for size in sorted(summary.by_size)]
        aside = math.exp(apart * (index - (len(summaries) - 1) / 2))
        _, caps, bars = axes.errorbar(
            [place_of(size) * aside for size in sorted(summary.by_size)],
            [cell.accuracy for cell in cells],
            yerr=whiskers([(cell.accuracy, cell.interval) for cell in cells]),
            label=_with_counts(shown_name(summary.name, 80), cells),
            color=COLOURS[index % len(COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
            markersize=5,
            linewidth=1.6,
            elinewidth=1.1,
            capsize=2.5,
        )
        for line in (*caps, *bars):
            # Of many models the intervals would hide the lines.
            line.set_alpha(1.0 if len(summaries) <= 4 else 0.45)
    axes.set_xscale("log")
    span = math.log(places[-1] / places[0])
    margin = math.exp(0.04 * (span or 1) + apart * len(summaries) / 2)
    axes.set_xlim(places[0] / margin, places[-1] * margin)
    _label_sizes(axes, sizes)
    # Down to 0.4 at least, so that chance is always seen, and never cutting an interval.
    lowest = min(cell.interval[0] for summary in summaries for cell in summary.by_size.values())
    axes.set_ylim(max(0.0, min(0.4, math.floor(lowest * 10) / 10)), 1.02)
    return _with_legend(axes, summaries)


def bar_figure(summaries: Sequence[Summary]) -> Figure:
    """Accuracy by haystack size as bars, one group a size, one bar a model (the paper's Figure 3).

    Whiskers are the 95% intervals; a dashed line marks chance.
    """
    sizes = _all_sizes(summaries)
    axes = _by_size_axes(summaries, max(7.2, 0.16 * len(sizes) * (len(summaries) + 1)), 3.9)
    width = 0.82 / len(summaries)
    for index, summary in enumerate(summaries):
        cells = [summary.by_size[size] for size in sorted(summary.by_size)]
        aside = (index - (len(summaries) - 1) / 2) * width
        axes.bar(
            [sizes.index(size) + aside for size in sorted(summary.by_size)],
            [cell.accuracy for cell in cells],
            width=0.92 * width,
            yerr=whiskers([(cell.accuracy, cell.interval) for cell in cells]),
            label=shown_name(summary.name, 80),
            color=COLOURS[index % len(COLOURS)],
            # More bars than colours: the same ones hatched.
            hatch=("", "///", "...")[index // len(COLOURS) % 3],
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 0.9, "capsize": min(2.0, 8 * width), "ecolor": "#333333"},
        )
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.02)
    return _with_legend(axes, summaries)


def place_of(size: int) -> float:
    """Where a haystack size is on a logarithmic axis."""
    return size or 0.5


def _all_sizes(summaries: Sequence[Summary]) -> list[int]:
    return sorted({size for summary in summaries for size in summary.by_size})


def _by_size_axes(summaries: Sequence[Summary], width: float, height: float) -> Axes:
    """What both figures of accuracy by size have around their plot, with room for a legend."""
    size = (width, height + 0.22 * math.ceil(len(summaries) / _legend_columns(summaries)))
    axes = Figure(figsize=size, layout="constrained").add_subplot()
    if all(of.scoring == "yes-no" for of in summaries):
        axes.axhline(
            _CHANCE, color=_GREY, linestyle="--", linewidth=1, zorder=1.5
        )  # bars 1, lines 2
        units = ("axes fraction", "data")
        label = axes.annotate("chance", (1, _CHANCE), (4, 0), units, "offset points", va="center")
        label.set(color=_GREY, fontsize=9)
    axes.set_xlabel("images in the haystack")
    axes.set_ylabel("accuracy (95% interval)")
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _legend_columns(summaries: Sequence[Summary]) -> int:
    return 1 if max(len(s.name) for s in summaries) > 32 else min(2, len(summaries))


def _with_legend(axes: Axes, summaries: Sequence[Summary]) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = _legend_columns(summaries)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def depth_figure(summaries: Sequence[Summary]) -> Figure:
    """Accuracy by haystack size and needle depth: a heat map a model, on one colour scale.

    White is chance, blue better, red worse. Each cell says its accuracy in percent and its n; a
    cell without entries is grey. Haystacks of one image have no depth and are left out, unless
    there are no others.
    """
    columns = [_depth_sizes(summary) for summary in summaries]
    across = min(2, len(summaries))
    down = math.ceil(len(summaries) / across)
    width = max(3.6, 1.2 + 0.58 * max(map(len, columns)))
    figure = Figure(figsize=(width * across + 0.9, 3.3 * down + 0.2), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    drawn = zip(panels, summaries, columns, strict=False)
    images = [_heat_map(axes, summary, sizes) for axes, summary, sizes in drawn]
    for axes in panels[::across]:
        axes.set_ylabel("needle depth (0% = first image)")
    for axes in panels[len(summaries) :]:
        axes.set_visible(False)
    figure.colorbar(images[-1], ax=list(panels), label="accuracy", ticks=[0, 0.25, 0.5, 0.75, 1])
    return figure


def save_png(figure: Figure, path: str | Path) -> Image.Image:
    """Writes a figure as PNG and returns its picture; the file is there whole or, on any failure,
    as it was."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; savefig draws a figure with a layout twice
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with replacing(path) as file:
        picture.save(file, format="PNG", dpi=(_DPI, _DPI))
    return picture


def _heat_map(axes: Axes, summary: Summary, sizes: list[int]) -> AxesImage:
    bins = [summary.by_size[size].needle_depth for size in sizes]
    depths = range(len(bins[0]))
    grid = np.array([[column[depth].accuracy for column in bins] for depth in depths], dtype=float)
    axes.set_facecolor(_EMPTY)  # shows through where there is no number
    image = axes.imshow(grid, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for x, column in enumerate(bins):
        for y, cell in enumerate(column):
            if cell.accuracy is not None:
                # Both ends of the scale are dark.
                colour = "white" if abs(cell.accuracy - 0.5) > 0.33 else "black"
                lines = (f"{100 * cell.accuracy:.0f}", "bottom", 9), (f"n {cell.n}", "top", 6.5)
                for text, va, size in lines:
                    axes.text(x, y, text, ha="center", va=va, color=colour, fontsize=size)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_yticks(depths, [f"{100 * b.from_:.0f}–{100 * b.to:.0f}%" for b in bins[0]])
    # Thin lines between the cells.
    axes.set_xticks([x - 0.5 for x in range(1, len(sizes))], minor=True)
    axes.set_yticks([y - 0.5 for y in depths if y], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("images in the haystack")
    axes.set_title(shown_name(summary.name, 40), fontsize=10)
    return image


def whiskers(values: Sequence[tuple[float, Interval]]) -> list[list[float]]:
    """How far each interval reaches below and above its value, as matplotlib takes it."""
    # Value and bounds are rounded apart, which can leave a difference of -1e-17.
    return [
        [max(0.0, value - low) for value, (low, _) in values],
        [max(0.0, high - value) for value, (_, high) in values],
    ]


def _label_sizes(axes: Axes, sizes: list[int]) -> None:
    """A tick at every size, and a number wherever it doesn't run into the next one."""
    places = [place_of(size) for size in sizes]
    span = math.log(places[-1] / places[0]) or 1.0
    labels: list[str] = []
    last = math.inf
    # From the right: the largest size is the one that matters.
    for size in reversed(sizes):
        place = place_of(size)
        fits = math.log(last / place) / span > 0.018 * (len(str(size)) + 0.7)
        labels.append(str(size) if fits else "")
        last = place if fits else last
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(labels[::-1]))
    axes.xaxis.set_minor_locator(NullLocator())


def _depth_sizes(summary: Summary) -> list[int]:
    with_depth = [s for s, cell in summary.by_size.items() if any(b.n for b in cell.needle_depth)]
    return sorted(with_depth or summary.by_size)


def _with_counts(name: str, cells: list[SizeCell]) -> str:
    fewest, most = min(cell.n for cell in cells), max(cell.n for cell in cells)
    counts = f"n = {most} a size" if fewest == most else f"n = {fewest} to {most} a size"
    # "laid (3 seeds)" has its brackets already.
    return f"{name[:-1]}, {counts})" if name.endswith(")") else f"{name} ({counts})"


def shown_name(name: str, width: int) -> str:
    """A name in lines; matplotlib would take text between dollars for a formula."""
    return textwrap.fill(one_line(name), width).replace("$", r"\$")
