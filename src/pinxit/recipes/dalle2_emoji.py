r"""DALL·E 2 for emoji, beside `dalle1-emoji`, whose data it learns from and whose CLIP it shares.

pinxit train glide-emoji --data SRC --out runs/glide-emoji --part clip=dalle1-emoji --set base.training.steps=4000
pinxit train dalle2-upsampler --data scenes:20000 --out runs/small --set model.unet.channels=32 \
    --set training.steps=2500
pinxit train dalle2-second-upsampler --data scenes:20000 --out runs/large --set model.low=64 --set model.unet.size=256 \
    --set model.unet.groups=16 --set model.unet.channels=48 --set training.steps=1500 --set training.batch_size=64
pinxit train dalle2-emoji --data SRC --out runs/dalle2-emoji --part clip=dalle1-emoji --part start=runs/glide-emoji \
    --part upsampler=runs/small --part second_upsampler=runs/large --set 'model.shared={"clip": "dalle1-emoji"}'

Emoji drawings are too small to learn to enlarge from; scenes are drawn at any size, and what enlarges parts of 256
pixels enlarges larger pictures as well. The CLIP is not trained again, nor copied into the model.
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.recipes.dalle1_emoji import CAPTIONS, LICENCE, NO_THINGS, dalle1_emoji, dalle1_emoji_tiny
from pinxit.recipes.dalle2 import DEFAULTS, ENLARGES, PARTS, dalle2, dalle2_tiny, of_embeddings
from pinxit.recipes.glide_emoji import glide_emoji_base, glide_emoji_base_tiny
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe, Stage
from pinxit.recipes.tokens import TokensStage

CARD = """# dalle2-emoji

DALL·E 2 for emoji, trained from scratch by pinxit's recipe `dalle2-emoji` on two cores without a GPU: the CLIP of
`dalle1-emoji`, two priors from texts to its embeddings, a decoder that draws 64 pixels of those, and two networks that
enlarge them to 256 and 1024.

## Trained on

The decoder and the priors saw the 4,458 emoji drawings in four styles that `dalle1-emoji`'s transformer saw, which
show neither people nor flags, each also in other colours under names that say so; the networks that enlarge saw drawn
scenes of coloured shapes alone.

- Noto Emoji, (c) Google Inc, Apache-2.0
- Fluent Emoji, 3D and flat, (c) Microsoft Corporation, MIT
- Twemoji, (c) Twitter, Inc and other contributors, CC-BY-4.0
- names and keywords: Unicode CLDR (Unicode-3.0), Emojibase and Fluent Emoji (MIT)

The weights are under Apache-2.0. Pictures that come close to a training drawing stay under that drawing's licence.

## What it can do

Draw things that have an emoji after their names, in colours and styles; vary a drawing, blend two, turn one along the
difference of two texts, paint a part of it anew, and enlarge what it draws, or any picture, by four or sixteen.

## What it cannot

It knows single things on white. Fine detail is often wrong; animals, faces, hearts and houses come out best, vehicles
and machines worst. Of photographs CLIP sees the colours and little else. What is enlarged gets clean edges and no new
detail.
"""


def dalle2_emoji() -> Pipeline:
    """The whole of it."""
    whole = _emoji(
        dalle2(), glide_emoji_base(), dalle1_emoji().stages["clip"], steps=16_000, moves=5, colours=3, side=256
    )
    prior, ar_prior = (whole.stages[name] for name in ("prior", "ar_prior"))
    assert isinstance(prior, Recipe)
    assert isinstance(ar_prior, Recipe)
    return replace(
        whole,
        name="dalle2-emoji",
        summary="Emoji at 64 to 1024 pixels from their names, varied, blended and restyled.",
        stages={
            **whole.stages,
            "prior": replace(
                prior,
                model=replace(prior.model, width=128, heads=2),
                training=replace(prior.training, steps=3_000),
            ),
            "ar_prior": replace(
                ar_prior,
                model=replace(ar_prior.model, width=128, heads=2),
                training=replace(ar_prior.training, steps=500),
            ),
        },
    )


def dalle2_emoji_tiny() -> Pipeline:
    """The same from 32 pixels to 128, in two minutes."""
    return replace(
        _emoji(
            dalle2_tiny(),
            glide_emoji_base_tiny(),
            dalle1_emoji_tiny().stages["clip"],
            steps=1_200,
            moves=1,
            colours=1,
            side=64,
        ),
        name="dalle2-emoji-tiny",
        summary="The recipe dalle2-emoji from 32 pixels to 128, in two minutes.",
    )


def _emoji(whole: Pipeline, base: Recipe, clip: Stage, *, steps: int, moves: int, colours: int, side: int) -> Pipeline:
    """What learns from emoji; the decoder is the base of `glide-emoji`, told embeddings and shown a part for `steps`.

    It draws `side` pixels where nothing else is asked for, by the first of the networks that enlarge.
    """
    decoder = of_embeddings(
        base, base.name.replace("glide-emoji-base", "dalle2-emoji-decoder"), "unCLIP's decoder for emoji."
    )
    decoder = replace(
        decoder,
        model=replace(decoder.model, known=True),
        data=replace(decoder.data, known_dropout=0.6, crop=1.0),
        training=replace(base.training, steps=steps),
    )
    stages = {**whole.stages, "clip": clip, "decoder": decoder}
    for name in ("prior", "ar_prior"):
        stage = stages[name]
        assert isinstance(stage, Recipe)
        stages[name] = replace(stage, data=replace(stage.data, captions=CAPTIONS), licence=LICENCE)
    embeddings = stages["embeddings"]
    assert isinstance(embeddings, TokensStage)
    stages["embeddings"] = replace(
        embeddings, data=replace(embeddings.data, exclude=NO_THINGS), moves=moves, colours=colours
    )
    stages["model"] = ModelStage(
        name="dalle2-model",
        kind="dalle2",
        parts=PARTS + ENLARGES,
        defaults={**DEFAULTS, "prior_guidance": 3.0, "upsample_steps": 4, "size": [side, side]},
        licence=LICENCE,
        card=CARD,
    )
    return replace(whole, stages=stages)
