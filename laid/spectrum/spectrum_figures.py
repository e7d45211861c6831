"""Figures of spectra: usage by rotary pair, low-frequency shares, queries and their mixtures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from laid.evaluation.accuracy_figures import COLOURS, shown_name, whiskers
from laid.spectrum.low_frequency import MEASURES
from laid.spectrum.spectrum_report import MixedSpectrum, ModelSpectrum, share_names


def usage_figure(models: Sequence[ModelSpectrum]) -> Figure:
    """Usage by rotary pair: on top of all models, a mean over layers and heads; beneath by layer, a
    panel a model. Dashed lines are between sections; low-frequency pairs lie on grey."""
    figure = Figure(figsize=(max(7.2, 3.2 * len(models)), 6.4), layout="constrained")
    grid = figure.add_gridspec(2, len(models), height_ratios=(1.2, 1))
    top = figure.add_subplot(grid[0, :])
    for index, model in enumerate(models):
        usage_F = np.array(model.usage).mean((0, 1))
        colour = COLOURS[index % len(COLOURS)]
        top.plot(usage_F, marker=".", color=colour, label=shown_name(model.name, 40))
    _mark_pairs(top, models[0])
    top.set_ylim(bottom=0)
    top.set_ylabel("usage, mean over layers and heads")
    top.legend(fontsize=8)
    by_layer = [np.array(model.usage).mean(1) for model in models]
    most = max(float(usage_NF.max()) for usage_NF in by_layer)
    panels = [figure.add_subplot(grid[1, column]) for column in range(len(models))]
    for axes, model, usage_NF in zip(panels, models, by_layer, strict=True):
        image = _heat_map(axes, usage_NF, most)
        _sections(axes, model.section, "white")
        axes.set_title(shown_name(model.name, 40), fontsize=10)
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, label="usage")
    figure.supxlabel("rotary pair (0 turns fastest)", size=10)
    return figure


def share_figure(models: Sequence[ModelSpectrum]) -> Figure:
    """Low-frequency shares by model, with 95% intervals; of all pairs, and of each section."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    names = share_names(models)
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for index, model in enumerate(models):
            aside = 0.6 * ((index + 0.5) / len(models) - 0.5)
            found = {at: s for at, n in enumerate(names) if (s := model.shares[measure].get(n))}
            values = [share.value for share in found.values()]
            reach = whiskers([(share.value, share.interval) for share in found.values()])
            colour, label = COLOURS[index % len(COLOURS)], shown_name(model.name, 40)
            places = [at + aside for at in found]
            axes.errorbar(places, values, reach, fmt="o", capsize=3, color=colour, label=label)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"low-frequency share of {measure}")
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def mixed_figure(mixed: Sequence[MixedSpectrum], section: Sequence[str]) -> Figure:
    """A run's aligned queries beside their mixtures, by student head and pair; a row a layer
    pair."""
    figure = Figure(figsize=(7.6, 0.8 + 2.2 * len(mixed)), layout="constrained")
    rows = figure.subplots(len(mixed), 2, squeeze=False, sharex=True)
    for (left, right), one in zip(rows, mixed, strict=True):
        most = max(np.max(one.student), np.max(one.mixed))
        drawn = {
            f"queries of layer {one.student_layer}": (left, one.student),
            f"mixtures of teacher layer {one.teacher_layer}": (right, one.mixed),
        }
        for of, (axes, values) in drawn.items():
            image = _heat_map(axes, np.array(values), most)
            _sections(axes, section, "white")
            axes.set_title(of, size=10)
        left.set_ylabel("student head")
        figure.colorbar(image, ax=[left, right], label="share of |q|")
    figure.supxlabel("rotary pair (0 turns fastest)", size=10)
    return figure


def _heat_map(axes: Axes, values: np.ndarray, most: float) -> AxesImage:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return axes.imshow(values, cmap="viridis", vmin=0, vmax=most, aspect="auto")


def _mark_pairs(axes: Axes, model: ModelSpectrum) -> None:
    """Sections and low-frequency pairs of a model."""
    _sections(axes, model.section, "#6F6F6F")
    for pair, low in enumerate(model.low):
        if low:
            axes.axvspan(pair - 0.5, pair + 0.5, color="#EEEEEE", zorder=0, linewidth=0)
    axes.set_xlim(-0.5, len(model.low) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    starts = [at for at in range(len(model.section)) if model.section[at] not in model.section[:at]]
    for start in starts:
        axes.text(start, 1.01, model.section[start], transform=axes.get_xaxis_transform(), size=8)


def _sections(axes: Axes, section: Sequence[str], colour: str) -> None:
    for pair in range(1, len(section)):
        if section[pair] != section[pair - 1]:
            axes.axvline(pair - 0.5, color=colour, linewidth=0.8, linestyle="--")
