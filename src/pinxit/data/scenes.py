"""The project's own drawn world: pictures of simple things with exact truth, made on the fly, at any size.

Picture `i` of a split is a pure function of (seed, split, i). The six kinds of caption are GenEval's (Ghosh et al.
2023); some colour x shape pairs and some relations never occur in "train" and are all that "held-out" asks for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from PIL import Image

from pinxit import errors
from pinxit.data.sample import Captions, Sample
from pinxit.data.scene_captions import alt_caption, long_caption, pick, short_caption
from pinxit.data.scene_drawing import REACHES, draw
from pinxit.data.scene_world import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    HELD_OUT_COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    STYLES,
    TEXTURES,
    Ask,
    Scene,
    SceneObject,
    Thing,
    asks_held_out,
    distance,
    is_held_out_relation,
    relation_of,
)

__all__ = ["Ask", "Scene", "SceneObject", "Scenes", "Thing", "draw", "make_scene", "prompts"]

VERSION = 1  # part of every seed: raise it with any change to what a number draws
RADII = {"small": (9.01 / 64, 10.5 / 64), "large": (13.0 / 64, 15.5 / 64)}  # picture sides
MARGIN = 2 / 64  # between the radius of an object and the picture's edge
GAP = 3 / 64  # between the reaches of two objects
# Shares of the six categories, in the order of CATEGORIES.
FREQUENCIES = (0.10, 0.18, 0.20, 0.14, 0.20, 0.18)


class Scenes:
    """`n` drawn pictures with `alt`, `short` and `long` captions and their truth in `meta` (see `Scene.to_json`).

    "held-in" has fresh scenes from what training shows, "held-out" only scenes whose short caption names a
    combination that training never shows (so neither of the categories without colours and relations occurs).
    """

    def __init__(self, n: int, *, size: int = 64, seed: int = 0, split: str = "train") -> None:
        if split not in SPLITS:
            raise errors.unknown("split of scenes", split, SPLITS)
        if n < 1:
            raise errors.PinxitError(f"scenes:{n} asks for {n} pictures; ask for at least 1, as in scenes:1000.")
        if size < 16:
            raise errors.PinxitError(f"Scenes are drawn at 16 pixels and more, not {size}.")
        self.size = size
        self.seed = seed
        self.split = split
        self._n = n
        self.name = f"scenes:{n}" if split == "train" else f"scenes:{n}:{split}"
        self.fingerprint = f"scenes-{VERSION}-{split}-seed{seed}-{size}px-{n}"

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> Sample:
        scene, captions = self._made(i)
        image = Image.fromarray(draw(scene, self.size))
        return Sample(f"{self.split}-{i:07d}", image, captions, scene.to_json())

    def captions_at(self, i: int) -> Captions:
        """The captions of picture `i`, without drawing it."""
        return self._made(i)[1]

    def meta_at(self, i: int) -> dict[str, Any]:
        """The truth of picture `i` as JSON can hold it, without drawing it."""
        return make_scene(self._checked(i), seed=self.seed, split=self.split).to_json()

    def _made(self, i: int) -> tuple[Scene, Captions]:
        rng = _stream(self.seed, self.split, self._checked(i))
        scene = _compose(rng, self.split)
        captions: Captions = {
            "alt": (alt_caption(scene, rng),),
            "short": (short_caption(scene.ask),),
            "long": (long_caption(scene, rng),),
        }
        return scene, captions

    def _checked(self, i: int) -> int:
        if not 0 <= i < self._n:
            raise IndexError(f"picture {i} of {self._n} scenes")
        return i


def make_scene(i: int, *, seed: int = 0, split: str = "train") -> Scene:
    """Scene `i` of a split."""
    return _compose(_stream(seed, split, i), split)


def prompts(n: int, split: str = "held-in", seed: int = 0) -> list[tuple[str, Ask]]:
    """GenEval-like prompts with what each asks: the `short` captions of the first `n` scenes of a split."""
    if split not in SPLITS:
        raise errors.unknown("split of scenes", split, SPLITS)
    asks = [make_scene(i, seed=seed, split=split).ask for i in range(n)]
    return [(short_caption(ask), ask) for ask in asks]


def _stream(seed: int, split: str, i: int) -> random.Random:
    # A text seed is hashed by SHA-512: streams are unrelated, and the same in every Python.
    return random.Random(f"pinxit scenes {VERSION}/{seed}/{split}/{i}")


def _compose(rng: random.Random, split: str) -> Scene:
    ask = _ask(rng, split == "held-out")
    objects = _objects(rng, ask)
    return Scene(objects, pick(rng, BACKGROUNDS), rng.random() < 0.4, pick(rng, STYLES), ask)


def _ask(rng: random.Random, held_out: bool) -> Ask:
    while True:
        category = _weighted(rng, FREQUENCIES)
        if held_out and category in ("single_object", "two_object"):
            continue  # these name neither colours nor relations
        while asks_held_out(ask := _ASKS[category](rng)) != held_out:
            pass
        return ask


def _weighted(rng: random.Random, shares: tuple[float, ...]) -> str:
    at = rng.random() * sum(shares)
    for category, share in zip(CATEGORIES, shares, strict=True):
        at -= share
        if at < 0:
            return category
    return CATEGORIES[-1]


def _two(rng: random.Random, options: tuple[str, ...]) -> tuple[str, str]:
    a = pick(rng, options)
    while (b := pick(rng, options)) == a:
        pass
    return a, b


def _single_object(rng: random.Random) -> Ask:
    return Ask("single_object", (Thing(pick(rng, SHAPES)),))


def _two_object(rng: random.Random) -> Ask:
    a, b = _two(rng, SHAPES)
    return Ask("two_object", (Thing(a), Thing(b)))


def _counting(rng: random.Random) -> Ask:
    colour = pick(rng, COLOURS) if rng.random() < 0.5 else None
    return Ask("counting", (Thing(pick(rng, SHAPES), colour, 2 + int(rng.random() * 3)),))


def _colors(rng: random.Random) -> Ask:
    return Ask("colors", (Thing(pick(rng, SHAPES), pick(rng, COLOURS)),))


def _position(rng: random.Random) -> Ask:
    (a, b), relation = _two(rng, SHAPES), pick(rng, RELATIONS)
    if rng.random() < 0.5:
        return Ask("position", (Thing(a), Thing(b)), relation)
    # Known colours in every split, so that in "held-out" only the relation is new.
    c = _known_colour(rng, a)
    while (d := _known_colour(rng, b)) == c:
        pass
    return Ask("position", (Thing(a, c), Thing(b, d)), relation)


def _color_attr(rng: random.Random) -> Ask:
    (a, b), colours = _two(rng, SHAPES), _two(rng, COLOURS)
    return Ask("color_attr", (Thing(a, colours[0]), Thing(b, colours[1])))


_ASKS: dict[str, Callable[[random.Random], Ask]] = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}


def _texture(rng: random.Random) -> str:
    """Mostly plain."""
    return pick(rng, TEXTURES) if rng.random() < 0.6 else "plain"


def _known_colour(rng: random.Random, shape: str) -> str:
    while ((colour := pick(rng, COLOURS)), shape) in HELD_OUT_COLOURS:
        pass
    return colour


def _objects(rng: random.Random, ask: Ask) -> tuple[SceneObject, ...]:
    """Objects that show `ask`; whatever it leaves free is drawn from what training may show."""
    things = [thing for thing in ask.things for _ in range(thing.count)]
    shapes = [thing.shape for thing in things]
    alike = len(ask.things) == 1 and rng.random() < 0.6  # several of one kind mostly match
    colours: list[str] = []
    textures: list[str] = []
    for i, thing in enumerate(things):
        same = alike and i > 0
        colours.append(thing.colour or (colours[0] if same else _known_colour(rng, thing.shape)))
        textures.append(textures[0] if same else _texture(rng))
    while True:
        sizes = _sizes(rng, len(things))
        radii = [round(low + rng.random() * (high - low), 4) for low, high in (RADII[size] for size in sizes)]
        reaches = [REACHES[shape] * radius for shape, radius in zip(shapes, radii, strict=True)]
        for _ in range(30):
            centres = _place(rng, radii)
            if not _apart(centres, reaches):
                continue
            objects = tuple(map(SceneObject, shapes, colours, sizes, textures, centres, radii))
            if len(objects) == 2 and not _relation_fits(objects[0], objects[1], ask.relation):
                continue
            return objects


def _sizes(rng: random.Random, count: int) -> list[str]:
    """Sizes that leave room: any for one or two objects, at most one large of three, small for four."""
    if count <= 2:
        return [pick(rng, SIZES) for _ in range(count)]
    sizes = ["small"] * count
    if count == 3 and rng.random() < 0.4:
        sizes[int(rng.random() * 3)] = "large"
    return sizes


def _place(rng: random.Random, radii: list[float]) -> list[tuple[float, float]]:
    """Random centres inside the margin; four objects take a quarter of the picture each."""
    if len(radii) == 4:
        spans = [(x, y) for y in ((MARGIN, 0.5), (0.5, 1 - MARGIN)) for x in ((MARGIN, 0.5), (0.5, 1 - MARGIN))]
    else:
        spans = [((MARGIN, 1 - MARGIN), (MARGIN, 1 - MARGIN))] * len(radii)
    centres = []
    for radius, (across, down) in zip(radii, spans, strict=True):
        x, y = (low + radius + rng.random() * (high - low - 2 * radius) for low, high in (across, down))
        centres.append((round(x, 4), round(y, 4)))
    return centres


def _apart(centres: list[tuple[float, float]], reaches: list[float]) -> bool:
    return all(
        distance(centres[i], centres[j]) >= reaches[i] + reaches[j] + GAP for i in range(len(centres)) for j in range(i)
    )


def _relation_fits(a: SceneObject, b: SceneObject, asked: str | None) -> bool:
    relation = relation_of(a, b)
    if asked is not None:
        return relation == asked
    return not is_held_out_relation(a.shape, relation, b.shape)
