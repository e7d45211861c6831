"""The drawn objects of the mini-COCO: 24 categories, each a shape in a colour."""

import colorsys
import math
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

CELL = 28
"""Side in pixels of the square that one object is drawn in."""

_SCALE = 2  # drawn this much larger and averaged down, for soft edges

_LINES = (files("laid.minicoco") / "categories.txt").read_text("utf-8").splitlines()
CATEGORIES = {int(number): name for number, name in map(str.split, _LINES)}
"""COCO's own ids and names. Category k has shape k % 4 and hue k // 4."""


def _polar(*points: tuple[float, float]) -> npt.NDArray[np.float64]:
    return np.array([[r * math.sin(a), -r * math.cos(a)] for r, a in points])


_TURN = 2 * math.pi
_T = 0.36  # half the width of a cross's bar
# Corners [V, 2] as (x, y) around the centre, y down, within the unit circle.
_SHAPES = (
    _polar(*((0.9, _TURN * k / 20) for k in range(20))),  # disc
    np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]]),  # square
    _polar(*((1.0, _TURN * k / 3) for k in range(3))) + np.array([0, 0.2]),  # triangle
    np.array(  # cross
        [
            *([-_T, -1], [_T, -1], [_T, -_T], [1, -_T], [1, _T], [_T, _T]),
            *([_T, 1], [-_T, 1], [-_T, _T], [-1, _T], [-1, -_T], [-_T, -_T]),
        ]
    ),
)
_HUES = (0.0, 0.135, 0.33, 0.5, 0.635, 0.83)  # red, yellow, green, cyan, blue, magenta


@dataclass(frozen=True)
class Glyph:
    """One object, drawn."""

    corners: npt.NDArray[np.float64]
    """[V, 2] its outline as (x, y) pixels in the cell."""
    cover: npt.NDArray[np.float32]
    """[CELL, CELL, 1] how much of each pixel it covers, 0 to 1."""
    paint: npt.NDArray[np.float32]
    """[CELL, CELL, 3] its colours, 0 to 255."""


def draw_glyph(kind: int, rng: np.random.Generator) -> Glyph:
    """Draw category number ``kind`` (0 to 23, in the order of ``CATEGORIES``).

    Its size, place, turn, proportions, hue and brightness vary, and it is filled plainly, with
    stripes, with a gradient or around a hole; the shape and colour stay recognisable.
    """
    (size, squeeze, turn, x, y, hue, light, wave, shade) = rng.random(9)
    radius = CELL / 2 * (0.6 + 0.32 * size)
    angle = math.radians(30 * turn - 15)
    stretch = np.array([1.0, 0.88 + 0.12 * squeeze])
    cos, sin = math.cos(angle), math.sin(angle)
    around = _SHAPES[kind % 4] * stretch @ np.array([[cos, sin], [-sin, cos]]) * radius
    # Anywhere in the cell that keeps it inside.
    low, high = around.min(axis=0), around.max(axis=0)
    corners = around - low + np.array([x, y]) * (CELL - (high - low))

    colour = colorsys.hsv_to_rgb(
        (_HUES[kind // 4] + 0.05 * (hue - 0.5)) % 1, 0.75 + 0.25 * shade, 0.7 + 0.3 * light
    )
    paint = np.full((CELL, CELL, 3), colour, dtype=np.float32) * 255
    style = rng.integers(4)
    ramp = np.arange(CELL, dtype=np.float32)
    if style == 1:  # stripes
        ramp = ramp[:, None] if wave < 0.5 else ramp[None, :]
        paint *= (0.86 + 0.14 * np.sign(np.sin(ramp * (1.0 + wave))))[..., None]
    elif style == 2:  # gradient
        paint *= (0.75 + 0.25 * (ramp[:, None] + ramp[None, :]) / (2 * CELL))[..., None]
    elif style == 3:  # outline: a lighter inside
        inside = _cover(corners.mean(axis=0) + (corners - corners.mean(axis=0)) * 0.5)
        paint += inside * (255 - paint) * (0.3 + 0.4 * wave)
    return Glyph(corners, _cover(corners), paint)


def _cover(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    canvas = Image.new("L", (CELL * _SCALE, CELL * _SCALE))
    # Pillow names pixels by their middle, we name the plane by its corners.
    points = [tuple(point) for point in (corners * _SCALE - 0.5).tolist()]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    small = canvas.reduce(_SCALE)
    return np.asarray(small, dtype=np.float32)[..., None] / np.float32(255)
