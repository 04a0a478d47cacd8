"""What there is in a drawn scene, and what a caption can ask of one: words and frozen records, no pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pinxit import errors

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
STYLES = ("flat", "outlined", "shaded", "glossy")
BACKGROUNDS = ("white", "cream", "pale grey", "pale blue", "pale green", "pale pink", "lavender")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# GenEval's six tasks (Ghosh et al. 2023, section 3.1), under its own names.
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SPLITS = ("train", "held-in", "held-out")

# Every shape misses one colour and every colour one shape, so all parts are seen and only their meeting is new.
HELD_OUT_COLOURS = frozenset((COLOURS[(3 * i + 1) % 8], shape) for i, shape in enumerate(SHAPES))
# (a, relation, b) with relation "left of" or "above"; the mirrored order of each pair stays in training.
HELD_OUT_RELATIONS = frozenset(
    [(shape, "left of", SHAPES[(i + 1) % 8]) for i, shape in enumerate(SHAPES)]
    + [(shape, "above", SHAPES[(i + 3) % 8]) for i, shape in enumerate(SHAPES)]
)


@dataclass(frozen=True)
class SceneObject:
    """One drawn thing. `centre` (x, y) and `radius` are in picture sides, x to the right and y down."""

    shape: str
    colour: str
    size: str
    texture: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Thing:
    """What an ask says of one kind of object; `colour` None leaves the colour free."""

    shape: str
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Ask:
    """What a caption demands, by GenEval's category: the things, and how the first stands to the second."""

    category: str
    things: tuple[Thing, ...]
    relation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {"category": self.category, "things": [asdict(t) for t in self.things], "relation": self.relation}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ask:
        """Read what `to_json` wrote; raises PinxitError on an unknown category, shape, colour or relation."""
        things = tuple(Thing(t["shape"], t.get("colour"), int(t.get("count", 1))) for t in value["things"])
        ask = cls(value["category"], things, value.get("relation"))
        _check("category", ask.category, CATEGORIES)
        for thing in things:
            _check("shape", thing.shape, SHAPES)
            if thing.colour is not None:
                _check("colour", thing.colour, COLOURS)
        if ask.relation is not None:
            _check("relation", ask.relation, RELATIONS)
        return ask


@dataclass(frozen=True)
class Scene:
    """A whole picture. `fading` lets the background run to white at the bottom."""

    objects: tuple[SceneObject, ...]
    background: str
    fading: bool
    style: str
    ask: Ask

    @property
    def relation(self) -> str | None:
        """How the first of two objects stands to the second; None for other counts and for diagonal pairs."""
        return relation_of(*self.objects) if len(self.objects) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """The exact truth as plain values: objects, relation, background, style, category, ask and class.

        That is colour and shape of the only object, or "several".
        """
        alone = self.objects[0] if len(self.objects) == 1 else None
        return {
            "objects": [asdict(thing) | {"centre": list(thing.centre)} for thing in self.objects],
            "relation": self.relation,
            "background": self.background,
            "fading": self.fading,
            "style": self.style,
            "category": self.ask.category,
            "ask": self.ask.to_json(),
            "class": f"{alone.colour} {alone.shape}" if alone else "several",
        }


def relation_of(a: SceneObject, b: SceneObject) -> str | None:
    """The relation of `a` to `b`, where one axis has at least twice the other's offset (within 27 degrees)."""
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    if abs(dx) >= 2 * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= 2 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def is_held_out_relation(a: str, relation: str | None, b: str) -> bool:
    """Whether shape `a` in `relation` to shape `b` is kept from training, in either wording."""
    if relation in ("right of", "below"):
        a, relation, b = b, OPPOSITE[relation], a
    return (a, relation, b) in HELD_OUT_RELATIONS


def holds_held_out(scene: Scene) -> bool:
    """Whether any colour x shape or relation in the picture is one that training never shows."""
    if any((o.colour, o.shape) in HELD_OUT_COLOURS for o in scene.objects):
        return True
    if len(scene.objects) != 2:
        return False
    a, b = scene.objects
    return is_held_out_relation(a.shape, scene.relation, b.shape)


def asks_held_out(ask: Ask) -> bool:
    """Whether the ask itself names a combination that training never shows."""
    if any((t.colour, t.shape) in HELD_OUT_COLOURS for t in ask.things):
        return True
    return ask.relation is not None and is_held_out_relation(ask.things[0].shape, ask.relation, ask.things[1].shape)


def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Euclidean distance of two centres, in picture sides."""
    return math.hypot(a[0] - b[0], a[1] - b[1])


def _check(kind: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise errors.unknown(kind, given, allowed)
