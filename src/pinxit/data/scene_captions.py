"""Words for a scene: `short` as GenEval asks, `long` all of the truth, `alt` as sloppy as the web's alt texts."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence

from pinxit.data.scene_world import BACKGROUNDS, COLOURS, SHAPES, Ask, Scene, SceneObject, Thing

NUMBERS = ("no", "one", "two", "three", "four")
STYLE_WORDS = {
    "flat": ("in flat colours", "drawn flat", "in a flat style"),
    "outlined": ("with dark outlines", "drawn with outlines", "in an outlined style"),
    "shaded": ("softly shaded", "drawn with shading", "in a shaded style"),
    "glossy": ("with a glossy shine", "drawn glossy", "in a glossy style"),
}

# Running totals: file names, empty words, what is beside the point, what is perhaps wrong, shape, both, a part.
ALT_SHARES = (0.12, 0.3, 0.4, 0.48, 0.72, 0.86)


def pick(rng: random.Random, options: Sequence[str]) -> str:
    """One of `options`. Uses only `random()`, whose stream Python keeps the same from version to version."""
    return options[int(rng.random() * len(options))]


def article(words: str) -> str:
    """`words` with "a" or "an" before it."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def short_caption(ask: Ask) -> str:
    """The ask in GenEval's words: "a red circle", "three blue squares", "a green ring left of a yellow star"."""
    words = [_thing(thing) for thing in ask.things]
    return f" {ask.relation or 'and'} ".join(words)


def _thing(thing: Thing) -> str:
    colour = f"{thing.colour} " if thing.colour else ""
    if thing.count > 1:
        return f"{NUMBERS[thing.count]} {colour}{plural(thing.shape)}"
    return article(colour + thing.shape)


def long_caption(scene: Scene, rng: random.Random) -> str:
    """Every object with size, texture, colour and place, their relation, the background and the style."""
    objects = scene.objects
    style = pick(rng, STYLE_WORDS[scene.style])
    ground = f"{article(scene.background)} background"
    if scene.fading and scene.background != "white":
        ground += " fading to white"
    things = [f"{article(_described(thing))} {_place(thing)}" for thing in objects]
    if len(objects) > 2:
        listed = f"{NUMBERS[len(objects)]} {plural(objects[0].shape)}: {_joined(things)}"
    else:
        listed = _joined(things)
    if scene.relation is not None and objects[0].shape != objects[1].shape:
        a, b = (thing.shape for thing in objects)
        listed += f", {_either(rng, f'the {a} {scene.relation} the {b}', f'with the {a} {scene.relation} the {b}')}"
    if rng.random() < 0.5:
        return f"{listed}, {style}, on {ground}."
    return f"on {ground}, {style}: {listed}."


def _either(rng: random.Random, a: str, b: str) -> str:
    return a if rng.random() < 0.5 else b


def _described(thing: SceneObject) -> str:
    return f"{thing.size} {thing.texture} {thing.colour} {thing.shape}"


def _place(thing: SceneObject) -> str:
    x, y = thing.centre
    across = "left" if x < 0.4 else "right" if x > 0.6 else ""
    down = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    if across and down:
        return f"at the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def alt_caption(scene: Scene, rng: random.Random) -> str:
    """A fragment: a file name, a part of what is there, something beside it, now and then something wrong."""
    thing = scene.objects[int(rng.random() * len(scene.objects))]
    shape, colour = thing.shape, thing.colour
    number = int(rng.random() * 10000)
    kinds = (
        (f"img_{number:04d}", f"DSC{number:05d}", f"image{number % 30}.png", f"drawing ({number % 9 + 1})"),
        ("shapes", "clipart", "untitled", "a drawing", "free vector", "icon set", "picture", "logo idea"),
        (f"{scene.background} background", f"{scene.style} icons", f"{thing.texture} pattern"),
        (f"{pick(rng, COLOURS)} {shape}", f"{colour} {pick(rng, SHAPES)}", f"{pick(rng, BACKGROUNDS)} wallpaper"),
        (f"{shape} picture", shape, f"{plural(shape)} png", f"cute {shape}", f"{shape} icon download"),
        (f"{colour} {shape}", f"{colour} {shape} clipart", f"{shape} {colour}", f"my {colour} {shape}"),
        (colour, f"{colour} thing", f"{thing.size} {shape}", f"{thing.texture} {shape}", f"something {colour}"),
    )
    return pick(rng, kinds[bisect(ALT_SHARES, rng.random())])
