"""GLIDE for emoji, from the drawings that `dalle1-emoji` learns from; a small one, and what `dalle2-emoji` starts from.

pinxit train glide-emoji --data SRC --out runs/glide-emoji --part clip=dalle1-emoji
pinxit train glide-emoji-inpaint --data SRC --out runs/inpaint --part start=runs/glide-emoji --part clip=dalle1-emoji
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.recipes.dalle1_emoji import CAPTIONS, LICENCE, NO_THINGS, PROMPTS, dalle1_emoji, dalle1_emoji_tiny
from pinxit.recipes.glide import BASE, TEXT, glide, glide_base, glide_base_tiny, inpainting
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe, Stage


def glide_emoji_base() -> Recipe:
    """Names of emoji to 64 pixels."""
    base = _of_emoji(glide_base(), "glide-emoji-base", "The base of glide-emoji: 64 pixels of an emoji's name.")
    text = replace(TEXT, vocabulary=1_024, length=20, width=128, depth=3, heads=2)
    return replace(
        base,
        model=replace(BASE, text=text),
        training=replace(base.training, steps=10_000, batch_size=32),
    )


def glide_emoji_base_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    tiny = glide_base_tiny()
    return _of_emoji(tiny, "glide-emoji-base-tiny", "The recipe glide-emoji-base at 32 pixels, in seconds.")


def _of_emoji(base: Recipe, name: str, summary: str) -> Recipe:
    """Of no people and no flags, each in other colours as well."""
    data = replace(base.data, captions=CAPTIONS, exclude=NO_THINGS, recolour=0.4, crop=0.9, prompts=PROMPTS)
    return replace(base, name=name, summary=summary, data=data, licence=LICENCE)


def glide_emoji() -> Pipeline:
    """With the CLIP of `dalle1-emoji` to choose."""
    whole = _whole(
        glide(),
        "glide-emoji",
        "GLIDE for emoji at 64 pixels, of their names, in styles and colours.",
        glide_emoji_base(),
        dalle1_emoji().stages["clip"],
    )
    return replace(
        whole,
        hardware="1 core, with `--part clip=dalle1-emoji`",
        hours=1.6,
        expected="colours followed, hearts and faces whole, of most things the outline",
    )


def glide_emoji_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    return _whole(
        glide(),
        "glide-emoji-tiny",
        "The recipe glide-emoji at 32 pixels, in a minute.",
        glide_emoji_base_tiny(),
        dalle1_emoji_tiny().stages["clip"],
    )


def _whole(whole: Pipeline, name: str, summary: str, base: Recipe, clip: Stage) -> Pipeline:
    model = whole.stages["model"]
    assert isinstance(model, ModelStage)
    stages = {"base": base, "clip": clip, "model": replace(model, licence=LICENCE)}
    return replace(whole, name=name, summary=summary, hardware=base.hardware, stages=stages)


def glide_emoji_inpaint() -> Pipeline:
    """Goes on to paint parts of emoji anew."""
    whole = inpainting(
        glide_emoji(), "glide-emoji-inpaint", "GLIDE that paints parts of emoji anew, seeing the rest.", steps=1_000
    )
    return replace(whole, hours=0.3, expected="softer seams than by RePaint, five times as fast")


def glide_emoji_inpaint_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return inpainting(
        glide_emoji_tiny(),
        "glide-emoji-inpaint-tiny",
        "The recipe glide-emoji-inpaint at 32 pixels, in a minute.",
        steps=75,
    )
