"""``figures/head_flow.json`` of a run; the figures of head flow, mixing weights and gains."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json
from laid.common.json_files import read_json

TITLES = {name: name.replace("_", " ") for name in ("student_before", "student_after", "teacher")}


@dataclass(frozen=True)
class HeadFlowFile:
    """``curves``: by model and by layer, one row a haystack size, one column a KV head."""

    sizes: list[int]
    curves: dict[str, dict[str, list[list[float]]]]
    per_size: int | None = None
    tokens: str | None = None
    mixing: Json | None = None
    rope_gain: Json | None = None

    def __post_init__(self) -> None:
        layers = [rows for of_model in self.curves.values() for rows in of_model.values()]
        if not (layers and self.curves.keys() & TITLES.keys()):
            raise UserError(f"curves has no layer of one of {', '.join(TITLES)}")
        for rows in layers:
            heads = {len(row) for row in rows}
            if len(rows) != len(self.sizes) or len(heads) != 1 or 0 in heads:
                raise UserError("curves: expected a row a size, and equally many heads in each")


def read_head_flow(path: Path) -> HeadFlowFile:
    """Raises ``UserError`` where the file is not what laid writes."""
    try:
        return from_json(HeadFlowFile, read_json(path))
    except UserError as error:
        raise UserError(
            f"{path} is not what laid writes of a head flow ({error}): remove it, or train again"
        ) from error


def flow_figure(sizes: list[int], curves: dict[str, dict[str, list[list[float]]]]) -> Figure:
    """A column a model, a row an aligned layer, one curve a key head, against haystack size."""
    models = [who for who in TITLES if who in curves]
    rows = max(len(curves[who]) for who in models)
    figure = Figure(figsize=(3.8 * len(models) + 0.6, 3.0 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, len(models), squeeze=False, sharex=True, sharey=True)
    for column, who in enumerate(models):
        for axis, (layer, values) in zip(axes[:, column], curves[who].items(), strict=False):
            _draw_heads(axis, sizes, values)
            axis.set_title(f"{TITLES[who]}, {layer.replace('_', ' ')}", size=10)
        for axis in axes[len(curves[who]) :, column]:
            axis.set_axis_off()
    figure.supxlabel("haystack size (images)", size=10)
    figure.supylabel("normalised key activation", size=10)
    return figure


def _draw_heads(axis: Axes, sizes: list[int], values: list[list[float]]) -> None:
    places, heads = range(len(sizes)), len(values[0])
    # Without the yellow end, which is too pale for a line.
    colours = [mpl.colormaps["viridis"](0.85 * head / max(heads - 1, 1)) for head in range(heads)]
    for head in range(heads):
        curve = [at_size[head] for at_size in values]
        axis.plot(places, curve, marker=".", color=colours[head], label=f"head {head}")
    axis.set_ylim(0, 1.05)
    axis.grid(alpha=0.3)
    axis.set_xticks(list(places), [str(size) for size in sizes])
    axis.tick_params(labelbottom=True, labelleft=True)
    if heads <= 8:
        axis.legend(fontsize=7, ncols=2, loc="lower left")


def mixing_figure(
    mixing: dict[str, dict[str, list[list[float]]]], titles: dict[str, str]
) -> Figure:
    """Each mixing matrix as an image, before and after: student heads down, teacher across.

    Args:
        mixing: by stage (``before``, ``after``) and the matrix's short name.
        titles: what each matrix is, by its short name.
    """
    names = list(mixing["after"])
    stages = [stage for stage in ("before", "after") if stage in mixing]
    figure = Figure(figsize=(3.4 * len(names) + 0.6, 2.8 * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), len(names), squeeze=False)
    for row, stage in enumerate(stages):
        for column, name in enumerate(names):
            axis, matrix = axes[row][column], mixing[stage][name]
            top = max(abs(w) for line in matrix for w in line) or 1.0
            signed = any(w < 0 for line in matrix for w in line)
            colours, low = ("RdBu_r", -top) if signed else ("Blues", 0.0)
            image = axis.imshow(matrix, cmap=colours, vmin=low, vmax=top, aspect="auto")
            for of in (axis.xaxis, axis.yaxis):
                of.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            figure.colorbar(image, ax=axis, shrink=0.85)
            axis.set_title(f"{titles[name]}, {stage}", fontsize=10)
            axis.set_xlabel("teacher head", fontsize=8)
            axis.set_ylabel("student head", fontsize=8)
    return figure


def gain_figure(gains: dict[str, list[list[float]]]) -> Figure:
    """The gains of each layer as an image: query heads down, rotary pairs across.

    Args:
        gains: by layer (``layer_27``), all positive.
    """
    columns = min(4, len(gains))
    rows = -(-len(gains) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.8, 2.2 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    # One scale for all layers, on which g and 1 / g are as far from white.
    values = [max(gain, 1e-9) for matrix in gains.values() for line in matrix for gain in line]
    top = max(1.01, *values, *(1 / gain for gain in values))
    for axis, (layer, matrix) in zip(axes.flat, gains.items(), strict=False):
        image = axis.imshow(matrix, cmap="RdBu_r", norm=LogNorm(1 / top, top), aspect="auto")
        for of in (axis.xaxis, axis.yaxis):
            of.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_title(f"RoPE response gain, {layer.replace('_', ' ')}", fontsize=10)
        axis.set_xlabel("rotary pair, fast to slow", fontsize=8)
        axis.set_ylabel("query head", fontsize=8)
    for axis in axes.flat[len(gains) :]:
        axis.set_axis_off()
    bar = figure.colorbar(image, ax=axes, ticks=[1 / top, 1, top], format="%.2f", shrink=0.85)
    bar.minorticks_off()
    return figure
