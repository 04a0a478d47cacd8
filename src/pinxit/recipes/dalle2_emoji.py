"""DALL·E 2 for emoji, beside `dalle1-emoji`, whose data it learns from and whose CLIP it shares.

pinxit train dalle2-upsampler --data scenes:20000 --out runs/small --set model.unet.channels=32
pinxit train dalle2-second-upsampler --data scenes:5000 --out runs/large --set model.unet.channels=64
pinxit train dalle2-emoji --data SRC --out runs/emoji --part upsampler=runs/small --part second_upsampler=runs/large

Emoji drawings are too small to learn to enlarge from; scenes are drawn at any size. With `--part clip=dalle1-emoji` and
`--set model.shared={"clip":"dalle1-emoji"}` the CLIP is not trained again, nor copied.
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.recipes.dalle1_emoji import CAPTIONS, LICENCE, NO_THINGS, PROMPTS, dalle1_emoji, dalle1_emoji_tiny
from pinxit.recipes.dalle2 import DEFAULTS, ENLARGES, PARTS, dalle2, dalle2_tiny
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe, Stage
from pinxit.recipes.tokens import TokensStage


def dalle2_emoji() -> Pipeline:
    """The whole of it."""
    whole = _emoji(dalle2(), dalle1_emoji().stages["clip"], moves=5, colours=3)
    decoder, prior, ar_prior = (whole.stages[name] for name in ("decoder", "prior", "ar_prior"))
    assert isinstance(decoder, Recipe)
    assert isinstance(prior, Recipe)
    assert isinstance(ar_prior, Recipe)
    text = replace(decoder.model.text, vocabulary=1_024, length=20, width=128, depth=3, heads=2)
    return replace(
        whole,
        name="dalle2-emoji",
        summary="Emoji at 64 to 1024 pixels from their names, varied, blended and restyled.",
        stages={
            **whole.stages,
            "prior": replace(
                prior,
                model=replace(prior.model, width=128, heads=2),
                training=replace(prior.training, steps=4_000),
            ),
            "ar_prior": replace(
                ar_prior,
                model=replace(ar_prior.model, width=128, heads=2),
                training=replace(ar_prior.training, steps=3_000),
            ),
            "decoder": replace(
                decoder,
                model=replace(decoder.model, text=text, unet=replace(decoder.model.unet, tokens=text.width)),
                training=replace(decoder.training, steps=12_000, batch_size=32),
            ),
        },
    )


def dalle2_emoji_tiny() -> Pipeline:
    """The same from 32 pixels to 128, in two minutes."""
    return replace(
        _emoji(dalle2_tiny(), dalle1_emoji_tiny().stages["clip"], moves=1, colours=1),
        name="dalle2-emoji-tiny",
        summary="The recipe dalle2-emoji from 32 pixels to 128, in two minutes.",
    )


def _emoji(whole: Pipeline, clip: Stage, *, moves: int, colours: int) -> Pipeline:
    """What learns from emoji, from those that `dalle1-emoji`'s transformer learns from."""
    stages = {**whole.stages, "clip": clip}
    for name in ("prior", "ar_prior", "decoder"):
        stage = stages[name]
        assert isinstance(stage, Recipe)
        stages[name] = replace(stage, data=replace(stage.data, captions=CAPTIONS), licence=LICENCE)
    embeddings, decoder = stages["embeddings"], stages["decoder"]
    assert isinstance(embeddings, TokensStage)
    assert isinstance(decoder, Recipe)
    stages["embeddings"] = replace(
        embeddings, data=replace(embeddings.data, exclude=NO_THINGS), moves=moves, colours=colours
    )
    drawings = replace(decoder.data, exclude=NO_THINGS, recolour=0.4, crop=0.9, prompts=PROMPTS)
    stages["decoder"] = replace(decoder, data=drawings)
    stages["model"] = ModelStage(
        name="dalle2-model", kind="dalle2", parts=PARTS + ENLARGES, defaults=DEFAULTS, licence=LICENCE
    )
    return replace(whole, stages=stages)
