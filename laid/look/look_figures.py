"""The pictures of ``laid look``: the haystack with the attention of each image, and by layer."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from laid.evaluation.accuracy_figures import COLOURS, shown_name
from laid.look.look_report import LookReport

_NEEDLE = "#C00000"
_EDGE = "#BBBBBB"


def haystack_figure(report: LookReport, thumbnails: Sequence[Image.Image]) -> Figure:
    """The images in their order; beneath each a bar a model: its share of the attention of the
    model's sharpest heads. A needle has a thick frame."""
    models, count = report.models, len(thumbnails)
    across = max(5, min(count, math.ceil(math.sqrt(1.7 * count))))
    down = math.ceil(count / across)
    bar = 0.16 * len(models) + 0.08
    size = (max(6.0, 1.05 * across), (1.0 + bar) * down + 0.5 + 0.24 * (len(models) + 1))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(2 * down, across, height_ratios=[1.0, bar] * down)
    for at, image in enumerate(thumbnails):
        row, column = divmod(at, across)
        top = figure.add_subplot(grid[2 * row, column])
        top.imshow(np.asarray(image))
        top.set_xticks([])
        top.set_yticks([])
        needle = at in report.needles
        top.spines[:].set(color=_NEEDLE if needle else _EDGE, linewidth=3 if needle else 0.5)
        top.set_title(f"{at + 1}", fontsize=7, pad=2, color=_NEEDLE if needle else "black")
        below = figure.add_subplot(grid[2 * row + 1, column])
        for index, model in enumerate(models):
            share = model.sharp[at]
            below.barh(index, share, height=0.8, color=COLOURS[index % len(COLOURS)])
            if share >= 0.005:
                inside = share > 0.6
                below.text(
                    share,
                    index,
                    f" {100 * share:.0f}% ",
                    ha="right" if inside else "left",
                    color="white" if inside else "black",
                    fontsize=5.5,
                    va="center",
                )
        below.set_xlim(0, 1)
        below.set_ylim(len(models) - 0.5, -0.5)
        below.axis("off")
    figure.suptitle(shown_name(report.question, 100), fontsize=9)
    handles = [Patch(color=COLOURS[at % len(COLOURS)]) for at in range(len(models))]
    labels = [shown_name(f"{model.name}: {model.answer}", 100) for model in models]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(3, len(models)),
        frameon=False,
        fontsize=8,
    )
    return figure


def layers_figure(report: LookReport) -> Figure:
    """Each layer's attention to each image, mean over heads and rows; a panel a model, on one
    colour scale. A mark on the axis is a needle."""
    models = report.models
    figure = Figure(figsize=(max(4.0, 3.2 * len(models)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    most = max(max(map(max, model.layers)) for model in models)
    for axes, model in zip(panels, models, strict=True):
        shares_NI = np.array(model.layers)
        extent = (0.5, shares_NI.shape[1] + 0.5, len(shares_NI) - 0.5, -0.5)
        drawn = axes.imshow(shares_NI, vmin=0, vmax=most, aspect="auto", extent=extent)
        axes.set_title(shown_name(model.name, 40), fontsize=10)
        axes.set_xlabel("image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for needle in report.needles:
            axes.plot(needle + 1, -0.5, marker="v", color=_NEEDLE, clip_on=False)
    panels[0].set_ylabel("layer")
    figure.colorbar(drawn, ax=list(panels), label="share of attention")
    return figure
