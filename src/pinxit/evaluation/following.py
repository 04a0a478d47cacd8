"""Does a picture of the drawn world show what was asked? Judged from pixels alone, in GenEval's six tasks.

As GenEval does with photographs (Ghosh et al. 2023, section 3.2), objects are found first and then held against the
ask: the background is fitted and taken away, what is left falls into connected parts, each part takes the shape whose
template overlaps it best over small shifts and stretches, and the colour most of its pixels have. Pictures of any size
are judged at 64 pixels, where every object of the drawn world is at least 16 pixels across.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pinxit.data.scene_drawing import FIELDS, PALETTE
from pinxit.data.scene_world import CATEGORIES, RELATIONS, SHAPES, Ask, Thing
from pinxit.errors import PinxitError

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

SIZE = 64  # pixels at which pictures are judged
FOREGROUND = 34.0  # of 255: the least difference from the background in any channel
SMALLEST = 30  # pixels: smaller parts are specks (the smallest drawn object covers 115)
LARGEST = 56  # pixels across: what is larger is a ground that no plane fits
INSIDE = 2  # pixels from a part's edge to what counts as well inside
CANON = 24  # pixels: parts are scaled to this square for comparison
BLURS = (0.0, 0.1, 0.2)  # of templates, in radii
# Shifts and stretches of templates, the shifts in sides of the bounding box.
JITTERS = [(shift, stretch) for shift in (-0.06, 0.0, 0.06) for stretch in (0.92, 1.0, 1.08)]
MATCH = 0.84  # least overlap of a part with its best template
LEAD = 0.005  # and by how much that must beat the next shape's best
STRETCH = 1.35  # a part longer or flatter than its shape by more than this is none
SURE = 0.9  # overlap from which a part is not tried as several objects
SHARE = 0.55  # least share of a part's pixels that have its colour
GREY = 40.0  # of 255: less difference between channels than this has no hue


@dataclass(frozen=True)
class Found:
    """An object seen in a picture. `centre` is in picture sides; `match` is the overlap with the shape's template."""

    shape: str
    colour: str | None
    centre: tuple[float, float]
    match: float


@dataclass(frozen=True)
class Verdict:
    """Whether the picture shows what was asked, what was missing if not, and what was seen."""

    correct: bool
    reasons: tuple[str, ...]
    found: tuple[Found, ...]


@dataclass(frozen=True)
class Following:
    """Right and judged pictures by category."""

    right: dict[str, int]
    judged: dict[str, int]

    def share(self, category: str) -> float:
        """Share of the category's pictures that show what was asked."""
        return self.right[category] / self.judged[category]

    @property
    def overall(self) -> float:
        """GenEval's overall score: the mean of the categories' shares."""
        return sum(map(self.share, self.judged)) / len(self.judged)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the overall score, and by category the share and what it was counted from."""
        rows = {
            name: {"share": self.share(name), "right": self.right[name], "judged": self.judged[name]}
            for name in self.judged
        }
        return {"overall": self.overall, "categories": rows}

    def table(self) -> str:
        """One line a category, with the overall score last."""
        rows = [f"{name:14s} {self.share(name):7.1%}  {self.right[name]}/{self.judged[name]}" for name in self.judged]
        return "\n".join([*rows, f"{'overall':14s} {self.overall:7.1%}"])


def following(pictures: Iterable[Image.Image], asks: Iterable[Ask]) -> Following:
    """Judge each picture against its ask; both must be equally many, and at least one."""
    right: dict[str, int] = {}
    judged: dict[str, int] = {}
    for image, ask in zip(pictures, asks, strict=True):
        judged[ask.category] = judged.get(ask.category, 0) + 1
        right[ask.category] = right.get(ask.category, 0) + follows(image, ask).correct
    if not judged:
        raise PinxitError("There is nothing to judge: give at least one picture with what was asked of it.")
    order = [name for name in CATEGORIES if name in judged]
    return Following({name: right[name] for name in order}, {name: judged[name] for name in order})


def follows(image: Image.Image, ask: Ask) -> Verdict:
    """Judge one square picture against an ask."""
    return judge(find(image), ask)


def judge(found: tuple[Found, ...], ask: Ask) -> Verdict:
    """Hold what was found against an ask. Objects beyond those asked do no harm, except in counting, as in GenEval."""
    reasons = []
    for thing in ask.things:
        seen = len(_matching(found, thing))
        if seen != thing.count if ask.category == "counting" else seen < thing.count:
            reasons.append(f"{seen} of {thing.count} {_named(thing)}")
    if ask.relation is not None and not reasons:
        a, b = ask.things
        pairs = [(p, q) for p in _matching(found, a) for q in _matching(found, b) if p is not q]
        if not any(relation(p.centre, q.centre) == ask.relation for p, q in pairs):
            reasons.append(f"no {_named(a)} {ask.relation} a {_named(b)}")
    return Verdict(not reasons, tuple(reasons), found)


def relation(a: tuple[float, float], b: tuple[float, float]) -> str:
    """How centre `a` stands to centre `b`, by the axis on which they differ more."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    if abs(dx) > abs(dy):
        return RELATIONS[0] if dx < 0 else RELATIONS[1]
    return RELATIONS[2] if dy < 0 else RELATIONS[3]


def _matching(found: tuple[Found, ...], thing: Thing) -> list[Found]:
    return [one for one in found if one.shape == thing.shape and thing.colour in (None, one.colour)]


def _named(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}" if thing.colour else thing.shape


def find(image: Image.Image) -> tuple[Found, ...]:
    """The objects that a picture shows, whatever was asked. Raises PinxitError unless the picture is square."""
    if image.width != image.height:
        raise PinxitError(f"Only square pictures are judged, not {image.width}x{image.height}: crop it to a square.")
    small = image.convert("RGB")
    if small.width != SIZE:
        how = Image.Resampling.BOX if small.width > SIZE else Image.Resampling.BICUBIC
        small = small.resize((SIZE, SIZE), how)
    pixels = np.asarray(small, np.float32)  # h w 3
    apart = np.abs(pixels - _background(pixels)).max(axis=2)  # h w
    hues = _colour_classes(pixels)
    found: list[Found] = []
    for part in _parts(apart > FOREGROUND):
        whole = _recognise(part, apart, hues)
        if whole is not None and whole.match >= SURE:
            found.append(whole)
            continue
        # Perhaps several objects that touch, or that blur has bridged.
        pieces = [one for piece in _pieces(part, apart, hues) if (one := _recognise(piece, apart, hues)) is not None]
        if whole is None or (pieces and min(piece.match for piece in pieces) > whole.match):
            found += pieces
        else:
            found.append(whole)
    return tuple(found)


def _pieces(part: Mask, apart: Array, hues: NDArray[np.int64]) -> list[Mask]:
    """The cores of a part where it is well apart from the ground, split by colour if they are but one."""
    core = part & (apart > np.median(apart[part]) / 2)
    pieces = _parts(core)
    if len(pieces) > 1:
        return pieces
    return [piece for colour in range(len(PALETTE)) for piece in _parts(core & (hues == colour))]


def _background(pixels: Array) -> Array:
    """The pale ground as one plane a channel, fitted to what is pale and then to what agrees with that."""
    design = _plane()  # hw 3
    flat = pixels.reshape(-1, 3)
    keep = flat.min(axis=1) > 185
    if keep.mean() < 0.1:
        keep = np.ones(len(flat), bool)
    for _ in range(2):
        chosen = design[keep]
        fit = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ flat[keep], rcond=None)[0]
        ground: Array = design @ fit
        agrees = np.abs(flat - ground).max(axis=1) < 24
        if agrees.mean() < 0.1:
            break
        keep = agrees
    return ground.reshape(pixels.shape)


@cache
def _plane() -> Array:
    at = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5
    x, y = np.meshgrid(at, at)
    return np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3)


def _colour_classes(pixels: Array) -> NDArray[np.int64]:
    """Index into PALETTE for every pixel by nearest hue, black by darkness; -1 where there is no colour."""
    hue, chroma = _hue(pixels)
    names = list(PALETTE)
    hued = [i for i, name in enumerate(names) if name != "black"]
    known = _hue(np.asarray([PALETTE[names[i]][0] for i in hued], np.float32))[0]
    turn = np.abs(hue[..., None] - known)
    nearest = np.asarray(hued)[np.minimum(turn, 2 * np.pi - turn).argmin(axis=-1)]
    dark = pixels.max(axis=-1) < 140
    grey = chroma < GREY
    return np.where(grey, np.where(dark, names.index("black"), -1), nearest)


def _hue(pixels: Array) -> tuple[Array, Array]:
    """Hue in radians (-pi to pi) and chroma, the spread of the channels (0 to 255)."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    hue = np.arctan2(np.sqrt(np.float32(3)) * (green - blue), 2 * red - green - blue)
    return hue, pixels.max(axis=-1) - pixels.min(axis=-1)


def _parts(mask: Mask) -> list[Mask]:
    """The 4-connected parts of `mask` that are no specks: runs of each row, joined where they overlap the row above."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    parent = list(range(len(runs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = 0
    for i, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        j = above
        while runs[j][0] == row - 1 and runs[j][1] < end:
            parent[root(j)] = root(i)
            j += 1
    parts: dict[int, Mask] = {}
    for i, (row, start, end) in enumerate(runs):
        parts.setdefault(root(i), np.zeros_like(mask))[row, start:end] = True
    return [part for part in parts.values() if part.sum() >= SMALLEST]


def _recognise(part: Mask, apart: Array, hues: NDArray[np.int64]) -> Found | None:
    """Shape, colour and place of one part, or None where no shape overlaps it well enough."""
    seen = [(*_best_shape(cover), cover) for cover in _covers(part, apart)]
    match, shape, cover = max(seen, key=lambda one: one[0])
    if match < MATCH:
        return None
    inside = hues[cover > 0.8]
    counts = np.bincount(inside[inside >= 0], minlength=len(PALETTE))
    colour = int(counts.argmax())
    named = list(PALETTE)[colour] if counts[colour] >= SHARE * len(inside) else None
    at = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    weight = cover.sum()
    centre = (float(cover.sum(axis=0) @ at / weight), float(cover.sum(axis=1) @ at / weight))
    return Found(shape, named, centre, match)


def _covers(part: Mask, apart: Array) -> tuple[Array, Array]:
    """Two readings of how much of each pixel the part covers: by its difference from the ground, and full well inside.

    The first keeps the hole of a blurred ring, the second closes a pale dot or highlight.
    """
    level = np.percentile(apart[part], 75)
    edged = np.where(part, np.clip(apart / level, 0, 1), 0).astype(np.float32)
    inner = part.copy()
    for _ in range(INSIDE):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return edged, np.where(inner, np.float32(1), edged)


def _best_shape(cover: Array) -> tuple[float, str]:
    """The shape whose template overlaps `cover` best, and how well: a.b / (a.a + b.b - a.b), 1 where they agree.

    The overlap is 0 where two shapes fit almost equally well or where the part's proportions are not the shape's.
    """
    solid = cover > 0.5
    if solid.sum() < SMALLEST:
        return 0.0, SHAPES[0]
    (top, bottom), (left, right) = _bounds(solid)
    if max(bottom - top, right - left) > LARGEST:
        return 0.0, SHAPES[0]
    canon = _resample(top, bottom) @ cover @ _resample(left, right).T  # CANON CANON
    templates, squares, proportions = _templates()
    vector = canon.ravel()
    common = templates @ vector
    overlaps = (common / (squares + vector @ vector - common)).reshape(len(SHAPES), -1).max(axis=1)
    second, best = np.argsort(overlaps)[-2:]
    stretch = (right - left) / (bottom - top) / proportions[best]
    clear = overlaps[best] - overlaps[second] >= LEAD and 1 / STRETCH <= stretch <= STRETCH
    return float(overlaps[best]) if clear else 0.0, SHAPES[best]


def _bounds(solid: Mask) -> list[tuple[int, int]]:
    """First and one past the last row, and the same for columns."""
    lines = [np.flatnonzero(solid.any(axis=axis)) for axis in (1, 0)]
    return [(int(line[0]), int(line[-1]) + 1) for line in lines]


def _resample(start: float, end: float, size: int = SIZE) -> Array:
    """`CANON size`: linear interpolation that scales pixels [start, end) of `size` to CANON."""
    at = start + (np.arange(CANON, dtype=np.float32) + 0.5) * ((end - start) / CANON) - 0.5
    near = np.clip(1 - np.abs(at[:, None] - np.arange(size, dtype=np.float32)), 0, 1)
    weights: Array = near / np.maximum(near.sum(axis=1, keepdims=True), 1e-6)
    return weights.astype(np.float32)


@cache
def _templates() -> tuple[Array, Array, list[float]]:
    """Every shape, sharp and blurred, shifted and stretched a little: `t CANON*CANON`, and each row's square.

    Rows are in the order of SHAPES, equally many for each. Last, each shape's width over its height.
    """
    rows, proportions = [], []
    for shape in SHAPES:
        for blur in BLURS:
            drawn = _drawn(shape, blur)
            spans = _bounds(drawn > 0.5)
            down, across = (
                [_resample(*_moved(*span, shift, stretch), len(drawn)) for shift, stretch in JITTERS] for span in spans
            )
            rows += [(d @ drawn @ a.T).ravel() for d in down for a in across]
        (top, bottom), (left, right) = _bounds(_drawn(shape, 0.0) > 0.5)
        proportions.append((right - left) / (bottom - top))
    templates = np.stack(rows)
    return templates, (templates * templates).sum(axis=1), proportions


def _moved(start: int, end: int, shift: float, stretch: float) -> tuple[float, float]:
    middle, half = (start + end) / 2 + shift * (end - start), stretch * (end - start) / 2
    return middle - half, middle + half


def _drawn(shape: str, blur: float) -> Array:
    """A shape from -1.6 to 1.6 radii, `h w` from 0 to 1, under a Gaussian of `blur` radii."""
    at = np.linspace(-1.6, 1.6, 97, dtype=np.float32)
    # The softness of an edge drawn at one pixel for a radius of nine.
    cover = np.clip(0.5 - 9 * FIELDS[shape](at[None, :], at[:, None]), 0, 1)
    if blur:
        weights = np.exp(-0.5 * ((at[:, None] - at) / blur) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        cover = weights @ cover @ weights.T
    drawn: Array = (cover / cover.max()).astype(np.float32)
    return drawn
