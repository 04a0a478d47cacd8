"""DALL·E 2: CLIP, the embeddings of all pictures, a prior from texts to those, and a decoder from those to pictures.

pinxit train dalle2 --data SRC --out runs/dalle2
pinxit generate "a red apple" --model runs/dalle2
pinxit vary picture.png --model runs/dalle2
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.dalle1_scenes import CAPTIONS, PROMPTS
from pinxit.recipes.denoisers import TextDrawingDataConfig
from pinxit.recipes.glide import glide_base, glide_base_tiny
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.prior import dalle2_ar_prior, dalle2_ar_prior_tiny, dalle2_prior, dalle2_prior_tiny
from pinxit.recipes.recipe import DataConfig, Recipe
from pinxit.recipes.tokens import TokensStage

EMBEDDINGS = TokensStage(
    name="dalle2-embeddings", data=DataConfig(), encoder="clip", summary="Encode the pictures by CLIP once."
)

PARTS = ("clip", "prior", "ar_prior", "decoder")

DEFAULTS = {"sampler": "dpm-solver", "steps": 25, "guidance": 3.0}


def dalle2_decoder() -> Recipe:
    """GLIDE's base, told the embedding of the picture; one in ten and every other text are left out (section 2.1)."""
    return _of_embeddings(
        glide_base(),
        "dalle2-decoder",
        "unCLIP's decoder: a U-Net that draws 64 pixels of the CLIP embedding of a picture.",
    )


def dalle2_decoder_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return _of_embeddings(
        glide_base_tiny(), "dalle2-decoder-tiny", "The recipe dalle2-decoder at 32 pixels, in seconds."
    )


def _of_embeddings(base: Recipe, name: str, summary: str) -> Recipe:
    return replace(
        base,
        name=name,
        summary=summary,
        model=replace(base.model, embedding=128),
        data=replace(base.data, caption_dropout=0.5),
        needs=("clip",),
    )


def dalle2() -> Pipeline:
    """All stages."""
    return Pipeline(
        name="dalle2",
        summary="DALL·E 2 at 64 pixels: pictures from text by way of CLIP embeddings, varied, blended and restyled.",
        hardware="2 cores",
        hours=None,
        expected=dalle2_decoder().expected,
        stages={
            "clip": clip(),
            "embeddings": EMBEDDINGS,
            "prior": dalle2_prior(),
            "ar_prior": dalle2_ar_prior(),
            "decoder": dalle2_decoder(),
            "model": ModelStage(name="dalle2-model", kind="dalle2", parts=PARTS, defaults=DEFAULTS),
        },
    )


def dalle2_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute or two."""
    whole = dalle2()
    return replace(
        whole,
        name="dalle2-tiny",
        summary="DALL·E 2 at 32 pixels in two minutes, for tests and first tries.",
        hardware="1 core",
        stages={
            **whole.stages,
            "clip": clip_tiny(),
            "prior": dalle2_prior_tiny(),
            "ar_prior": dalle2_ar_prior_tiny(),
            "decoder": dalle2_decoder_tiny(),
        },
    )


def dalle2_scenes() -> Pipeline:
    """On drawn scenes, whose truth is known, within 90 minutes on two cores."""
    whole, decoder, prior, ar_prior = dalle2(), dalle2_decoder(), dalle2_prior(), dalle2_ar_prior()
    text = replace(decoder.model.text, vocabulary=640, length=24)
    return replace(
        whole,
        name="dalle2-scenes",
        summary="DALL·E 2 on drawn scenes of shapes, to be judged by how it follows the text.",
        stages={
            **whole.stages,
            "clip": replace(
                clip(),
                data=replace(clip().data, captions=CAPTIONS),
                training=replace(clip().training, steps=800, batch_size=128),
            ),
            "prior": replace(prior, data=replace(prior.data, captions=CAPTIONS)),
            "ar_prior": replace(ar_prior, data=replace(ar_prior.data, captions=CAPTIONS)),
            "decoder": replace(
                decoder,
                model=replace(decoder.model, text=text),
                data=TextDrawingDataConfig(captions=CAPTIONS, prompts=PROMPTS, bpe_dropout=0.0, caption_dropout=0.5),
                training=replace(decoder.training, steps=3_000),
            ),
        },
    )


def dalle2_scenes_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return replace(
        dalle2_tiny(), name="dalle2-scenes-tiny", summary="The recipe dalle2-scenes at 32 pixels, in two minutes."
    )
