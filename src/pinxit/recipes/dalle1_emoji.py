"""The recipe of the shipped model `dalle1-emoji`.

    pinxit train dalle1-emoji --data SRC --out runs/dalle1-emoji

SRC are emoji drawings in several styles with names and keywords, as `pinxit data make emoji` writes them for one style.
Every drawing is also seen in other colours, under names that say so. Drawings whose style is "openmoji" are left out,
since their share-alike licence would ride in the weights.
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.models.clip import CLIPConfig, TextConfig, VisionConfig
from pinxit.objectives.next_token import NextTokenConfig
from pinxit.recipes.clip import CLIPDataConfig, clip, clip_tiny
from pinxit.recipes.codecs import PictureDataConfig, dalle1_dvae, dalle1_dvae_tiny
from pinxit.recipes.conditions import TextDataConfig
from pinxit.recipes.dalle1 import (
    dalle1_tiny,
    dalle1_tokens_tiny,
    dalle1_transformer,
    dalle1_transformer_tiny,
)
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import DataConfig
from pinxit.recipes.tokens import TokensStage

LICENCE = "Apache-2.0; trained on drawings under Apache-2.0 (Noto), MIT (Fluent) and CC-BY-4.0 (Twemoji)"

SHARE_ALIKE = {"style": ("openmoji",)}
"""What nothing learns from: its share-alike licence would ride in the weights."""

NO_THINGS = {**SHARE_ALIKE, "group": ("people & body", "flags")}
"""What the transformer does not learn: people, in jobs, genders and skin tones, are nearly half of all and too fine."""

CAPTIONS = {"short": 1.0, "long": 0.6, "alt": 0.15}
"""Names, names with their style, keywords."""

PROMPTS = (
    "red apple",
    "a blue cat",
    "pizza",
    "grinning face",
    "a green heart",
    "a purple dog",
    "rocket",
    "a glossy 3D emoji of penguin",
    "a Noto emoji of tree",
    "sun",
    "a pink car",
    "a red mushroom",
    "ghost",
    "a yellow house",
    "birthday cake",
    "an orange fish",
)

CLIP_SIZE = CLIPConfig(
    width=96,
    vision=VisionConfig(size=64, patch=8, width=144, depth=4, heads=4),
    text=TextConfig(vocab_size=1_024, length=34, width=96, depth=3, heads=3),
    activation="gelu",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
"""1.5 million parameters: all parts together fit into 16 MB in half precision."""

CARD = """# dalle1-emoji

DALL·E 1 at 64 pixels for emoji, trained from scratch by pinxit's recipe `dalle1-emoji` on two cores without a GPU,
in about two hours: a dVAE (8x8 of 1,024 codes), a transformer over 20 text tokens and 64 codes, and a CLIP
that reranks.

## Trained on

The dVAE and CLIP saw 8,214 emoji drawings in four styles, with their names and keywords. The transformer saw the
4,458 of them that show neither people nor flags, 1,133 things in all, each also a little moved, and in other
colours under names that say so.

- Noto Emoji, (c) Google Inc, Apache-2.0; its waved flags are in the public domain
- Fluent Emoji, 3D and flat, (c) Microsoft Corporation, MIT
- Twemoji, (c) Twitter, Inc and other contributors, CC-BY-4.0
- names and keywords: Unicode CLDR (Unicode-3.0), Emojibase and Fluent Emoji (MIT)

The weights are under Apache-2.0. Pictures that come close to a training drawing stay under that drawing's licence.

## What it can do

Draw animals, faces, food, plants, vehicles, objects and symbols that have an emoji, in four styles ("a Noto emoji
of ...", "a glossy 3D emoji of ...", "a flat vector emoji of ...", "a Twemoji drawing of ..."), and in red, orange,
yellow, green, blue, purple, pink and brown ("a blue cat"). More candidates help: `--rerank 16`.

## What it cannot

It draws one thing at a time: it does not count, does not place things side by side, and writes no text. Of what it
has seen once or twice it has the colours rather than the shape, and it mixes things that it has not seen together
("a pizza with a smiling face") into one of the two. Fine detail blurs and flat areas show the grid of the codes,
since 64 codes hold no more.
"""


def dalle1_emoji() -> Pipeline:
    """The whole of it."""
    dvae, transformer = dalle1_dvae(), dalle1_transformer()
    return Pipeline(
        name="dalle1-emoji",
        summary="The shipped model: emoji at 64 pixels from their names, in styles and colours.",
        hardware="2 cores",
        hours=2.0,
        expected="recognisable drawings of most emoji names",
        stages={
            "dvae": replace(
                dvae,
                objective=replace(
                    dvae.objective, bottleneck=replace(dvae.objective.bottleneck, continuous=4_500, anneal=7_000)
                ),
                data=PictureDataConfig(exclude=SHARE_ALIKE),
                training=replace(dvae.training, steps=12_000),
                licence=LICENCE,
            ),
            "tokens": TokensStage(name="dalle1-tokens", data=DataConfig(exclude=NO_THINGS), moves=5, colours=3),
            "clip": replace(
                clip(),
                model=CLIP_SIZE,
                data=CLIPDataConfig(exclude=SHARE_ALIKE, captions={**CAPTIONS, "alt": 0.4}, recolour=0.5),
                training=replace(clip().training, steps=5_000, batch_size=128),
                licence=LICENCE,
            ),
            "transformer": replace(
                transformer,
                model=replace(transformer.model, condition_length=20),
                objective=NextTokenConfig(keep=0.85),
                data=TextDataConfig(captions=CAPTIONS, prompts=PROMPTS),
                training=replace(transformer.training, steps=5_500),
                licence=LICENCE,
            ),
            "model": ModelStage(
                name="dalle1-model", defaults={"guidance": 3.0, "temperature": 0.7}, licence=LICENCE, card=CARD
            ),
        },
    )


def dalle1_emoji_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    dvae, tokens, small_clip, transformer = (
        dalle1_dvae_tiny(),
        dalle1_tokens_tiny(),
        clip_tiny(),
        dalle1_transformer_tiny(),
    )
    return replace(
        dalle1_tiny(),
        name="dalle1-emoji-tiny",
        summary="The recipe dalle1-emoji at 32 pixels, in a minute.",
        expected="blobs that mostly have the colour asked for",
        stages={
            "dvae": replace(dvae, data=replace(dvae.data, exclude=SHARE_ALIKE)),
            "tokens": replace(tokens, data=replace(tokens.data, exclude=NO_THINGS), moves=1, colours=1),
            "clip": replace(
                small_clip, data=replace(small_clip.data, exclude=SHARE_ALIKE, captions=CAPTIONS, recolour=0.5)
            ),
            "transformer": replace(
                transformer,
                objective=NextTokenConfig(keep=0.85),
                data=replace(transformer.data, captions=CAPTIONS),
            ),
            "model": dalle1_emoji().stages["model"],
        },
    )
