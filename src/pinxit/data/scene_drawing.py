"""Draws a scene at any size from signed distance fields: anti-aliased, and the same picture at every size.

Distances are negative inside. A shape's field is in units of its radius, x to the right and y down; formulas follow
Inigo Quilez, "2D distance functions" (iquilezles.org/articles/distfunctions2d), kept only as exact as an edge needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pinxit.data.scene_world import Scene, SceneObject

Field = NDArray[np.floating[Any]]  # float32 in fact: Python numbers do not widen it

# Fill, and the tone of stripes, dots and so on: of the same hue, so that a pattern never looks like another colour.
PALETTE: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((222, 36, 44), (158, 14, 28)),
    "orange": ((247, 132, 22), (190, 88, 4)),
    "yellow": ((250, 208, 30), (198, 152, 0)),
    "green": ((44, 160, 70), (116, 200, 128)),
    "blue": ((40, 92, 220), (110, 156, 248)),
    "purple": ((128, 52, 178), (178, 122, 220)),
    "pink": ((246, 112, 178), (200, 44, 126)),
    "black": ((34, 34, 38), (104, 104, 110)),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "cream": (253, 245, 224),
    "pale grey": (227, 229, 232),
    "pale blue": (217, 233, 250),
    "pale green": (221, 243, 223),
    "pale pink": (252, 227, 235),
    "lavender": (232, 224, 248),
}
LINE = 1.25 / 64  # outline width, in picture sides
PERIOD = 5 / 64  # of stripes and dots, in picture sides


def _circle(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 1


def _square(x: Field, y: Field) -> Field:
    field: Field = np.maximum(np.abs(x), np.abs(y)) - 0.82
    return field


def _triangle(x: Field, y: Field) -> Field:
    # Corners (0, -1) and (+-0.98, 0.75).
    field: Field = np.maximum(y - 0.75, 0.8725 * np.abs(x) - 0.4886 * (y + 1))
    return field


def _star(x: Field, y: Field) -> Field:
    # Fold the plane into one tenth, then the line from the tip (0, 1.06) to the inner corner.
    x, y = np.abs(x), -y
    for kx in (0.809017, -0.809017):
        reflected = 2 * np.maximum(kx * x - 0.587785 * y, 0)
        x, y = x - kx * reflected, y + 0.587785 * reflected
    x, y = np.abs(x), y - 1.06
    ax, ay = 0.5 * 0.587785, 0.5 * 0.809017 - 1
    return (y * ax - x * ay) / np.float32(np.hypot(ax, ay))


def _heart(x: Field, y: Field) -> Field:
    scale = 0.6
    x, y = scale * np.abs(x), 0.54 - scale * y
    total = x + y
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.353553
    foot = 0.5 * np.maximum(total, 0)
    point = np.minimum(x * x + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)
    field: Field = np.where(total > 1, lobe, np.sqrt(point) * np.sign(x - y)) / np.float32(scale)
    return field


def _cross(x: Field, y: Field) -> Field:
    x, y = np.abs(x), np.abs(y)
    field: Field = np.minimum(np.maximum(x - 0.96, y - 0.34), np.maximum(x - 0.34, y - 0.96))
    return field


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.74) - 0.26


def _moon(x: Field, y: Field) -> Field:
    x = x - 0.2
    field: Field = np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.47, y))
    return field


FIELDS: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}


# No shape leaves the disc of this many radii, nor a square of side 2.12 radii, around its centre.
REACHES = {
    "circle": 1.0,
    "square": 1.16,
    "triangle": 1.24,
    "star": 1.06,
    "heart": 1.14,
    "cross": 1.02,
    "ring": 1.0,
    "moon": 1.14,
}
EXTENT = 1.06


def draw(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture of `scene`, `h w 3` with h = w = `size` pixels."""
    canvas = _background(scene.background, scene.fading, size).copy()
    for thing in scene.objects:
        _paint(canvas, thing, scene.style)
    return (canvas + 0.5).astype(np.uint8)


@lru_cache(maxsize=64)
def _background(name: str, fading: bool, size: int) -> Field:
    ground = np.asarray(GROUNDS[name], np.float32)
    canvas = np.broadcast_to(ground, (size, size, 3))
    if fading:
        down = (np.arange(size, dtype=np.float32) + 0.5) / size
        canvas = canvas + down[:, None, None] * (np.float32(252) - ground)
    return np.ascontiguousarray(canvas, np.float32)


def _paint(canvas: Field, thing: SceneObject, style: str) -> None:
    size = canvas.shape[0]
    radius = thing.radius * size
    cx, cy = thing.centre[0] * size, thing.centre[1] * size
    extent = EXTENT * radius + 1
    left, right = max(0, int(cx - extent)), min(size, int(cx + extent) + 2)
    top, bottom = max(0, int(cy - extent)), min(size, int(cy + extent) + 2)
    x = ((np.arange(left, right, dtype=np.float32) + np.float32(0.5 - cx)) / np.float32(radius))[None, :]
    y = ((np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - cy)) / np.float32(radius))[:, None]
    field = FIELDS[thing.shape](x, y)
    field *= radius  # now in pixels

    fill, tone = (np.asarray(c, np.float32) for c in PALETTE[thing.colour])
    colour: Field = fill  # 3, or h w 3
    if thing.texture != "plain":
        share = _pattern(thing.texture, x * thing.radius, y * thing.radius, size)
        colour = fill + share[:, :, None] * (tone - fill)
    if style == "outlined":
        dark = np.float32(0.5) * fill
        edge = _covered(-(field + LINE * size))
        colour = colour + edge[:, :, None] * (dark - colour)
    elif style == "shaded":
        light = 1 - 0.2 * (x + y)
        colour = colour * light[:, :, None]
    elif style == "glossy":
        # Weak enough that the palest tone still differs from every background.
        shine = np.clip(1 - 3 * ((x + 0.35) ** 2 + (y + 0.4) ** 2), 0, 1)
        colour = colour + (0.45 * shine)[:, :, None] * (255 - colour)
    patch = canvas[top:bottom, left:right]
    patch += _covered(field)[:, :, None] * (np.minimum(colour, 255) - patch)


def _pattern(texture: str, x: Field, y: Field, size: int) -> Field:
    """How much of each pixel (0 to 1) takes the second tone; x `1 w` and y `h 1` are in picture sides."""
    if texture == "striped":
        # Diagonal: distance to the middle of the nearest stripe, stripes and gaps equally wide.
        across = (x + y) * np.float32(0.70710678 / PERIOD)
        return _covered((np.abs(across - np.rint(across)) - 0.25) * (PERIOD * size))
    u, v = x / PERIOD, y / PERIOD
    u, v = u - np.rint(u), v - np.rint(v)
    return _covered((np.hypot(u, v) - 0.29) * (PERIOD * size))


def _covered(field: Field) -> Field:
    """Share of a pixel inside an edge, from the distance of its centre in pixels."""
    covered: Field = np.clip(np.float32(0.5) - field, 0, 1)
    return covered
