"""DALL·E 2: CLIP, the embeddings of all pictures, a prior from texts to those, and a decoder from those to pictures.

pinxit train dalle2 --data SRC --out runs/dalle2
pinxit generate "a red apple" --model runs/dalle2
pinxit vary picture.png --model runs/dalle2
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import FlowConfig
from pinxit.models.denoiser import DenoiserConfig
from pinxit.models.unet import UNetConfig
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.dalle1_scenes import CAPTIONS
from pinxit.recipes.denoisers import DrawingDataConfig, TextDrawingDataConfig, large_enough
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

ENLARGES = ("upsampler", "second_upsampler")
"""Parts of a whole cascade besides."""

DEFAULTS = {"sampler": "dpm-solver", "steps": 25, "guidance": 2.0}


def dalle2_decoder() -> Recipe:
    """GLIDE's base, told the embedding of the picture; one in ten and every other text are left out (section 2.1)."""
    return of_embeddings(
        glide_base(),
        "dalle2-decoder",
        "unCLIP's decoder: a U-Net that draws 64 pixels of the CLIP embedding of a picture.",
    )


def dalle2_decoder_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return of_embeddings(
        glide_base_tiny(), "dalle2-decoder-tiny", "The recipe dalle2-decoder at 32 pixels, in seconds."
    )


def of_embeddings(base: Recipe, name: str, summary: str) -> Recipe:
    """GLIDE's base, as one that is told the embedding of the picture."""
    return replace(
        base,
        name=name,
        summary=summary,
        model=replace(base.model, embedding=128),
        data=replace(base.data, caption_dropout=0.5, prompts=()),
        optimizer=replace(base.optimizer, lr=4e-3),
        needs=("clip",),
    )


def dalle2_upsampler() -> Recipe:
    """64 pixels to 256, of pictures some of which are blurred; it is told nothing else (section 2.3)."""
    base = glide_base()
    return replace(
        base,
        name="dalle2-upsampler",
        summary="unCLIP's first upsampler: 64 pixels to 256.",
        model=DenoiserConfig(
            UNetConfig(
                size=256,
                channels=64,
                multipliers=(1, 2, 3),
                blocks=1,
                attention=(),
                middle=False,
                resample="fold",
                patch=4,
            ),
            ProcessConfig(FlowConfig(std=1.2), target="x0"),
            low=64,
            low_noise=0.2,
            low_skip=True,
        ),
        data=DrawingDataConfig(low_damage="blur", window=0.25),
        optimizer=replace(base.optimizer, lr=4e-3),
        takes=(),
        suits=large_enough,
        captioned=False,
    )


def dalle2_upsampler_tiny() -> Recipe:
    """32 pixels to 64, in seconds."""
    recipe, tiny = dalle2_upsampler(), glide_base_tiny()
    unet = replace(recipe.model.unet, size=64, channels=32, multipliers=(1, 2), patch=2)
    return replace(
        recipe,
        name="dalle2-upsampler-tiny",
        summary="The recipe dalle2-upsampler from 32 pixels to 64, in seconds.",
        hardware="1 core",
        model=replace(recipe.model, unet=unet, low=32),
        data=replace(recipe.data, validation=64),
        optimizer=tiny.optimizer,
        training=replace(tiny.training, steps=100),
    )


def dalle2_second_upsampler() -> Recipe:
    """256 pixels to 1024, of pictures made worse in the ways of BSR."""
    first = dalle2_upsampler()
    unet = replace(first.model.unet, size=1_024, channels=96, multipliers=(1, 2), patch=8)
    return replace(
        first,
        name="dalle2-second-upsampler",
        summary="unCLIP's second upsampler: 256 pixels to 1024.",
        model=replace(first.model, unet=unet, low=256),
        data=replace(first.data, low_damage="bsr"),
        training=replace(first.training, batch_size=8),
    )


def dalle2_second_upsampler_tiny() -> Recipe:
    """64 pixels to 128, in seconds."""
    recipe, tiny = dalle2_second_upsampler(), dalle2_upsampler_tiny()
    return replace(
        tiny,
        name="dalle2-second-upsampler-tiny",
        summary="The recipe dalle2-second-upsampler from 64 pixels to 128, in seconds.",
        model=replace(tiny.model, unet=replace(tiny.model.unet, size=128, patch=4), low=64),
        data=replace(tiny.data, low_damage=recipe.data.low_damage),
    )


def dalle2() -> Pipeline:
    """All stages."""
    return Pipeline(
        name="dalle2",
        summary="DALL·E 2 at 1024 pixels: pictures from text by way of CLIP embeddings, varied, blended and restyled.",
        hardware="2 cores",
        hours=None,
        expected=dalle2_decoder().expected,
        stages={
            "clip": clip(),
            "embeddings": EMBEDDINGS,
            "prior": dalle2_prior(),
            "ar_prior": dalle2_ar_prior(),
            "decoder": dalle2_decoder(),
            "upsampler": dalle2_upsampler(),
            "second_upsampler": dalle2_second_upsampler(),
            "model": ModelStage(name="dalle2-model", kind="dalle2", parts=PARTS + ENLARGES, defaults=DEFAULTS),
        },
    )


def dalle2_tiny() -> Pipeline:
    """The same from 32 pixels to 128, in a minute or two."""
    whole = dalle2()
    return replace(
        whole,
        name="dalle2-tiny",
        summary="DALL·E 2 from 32 pixels to 128 in two minutes, for tests and first tries.",
        hardware="1 core",
        stages={
            **whole.stages,
            "clip": clip_tiny(),
            "prior": dalle2_prior_tiny(),
            "ar_prior": dalle2_ar_prior_tiny(),
            "decoder": dalle2_decoder_tiny(),
            "upsampler": dalle2_upsampler_tiny(),
            "second_upsampler": dalle2_second_upsampler_tiny(),
        },
    )


def _small(whole: Pipeline) -> Pipeline:
    """Without what enlarges."""
    stages = {name: stage for name, stage in whole.stages.items() if name not in ENLARGES}
    model = whole.stages["model"]
    assert isinstance(model, ModelStage)
    return replace(whole, stages={**stages, "model": replace(model, parts=PARTS)})


def dalle2_scenes() -> Pipeline:
    """At 64 pixels on drawn scenes, whose truth is known, in two hours on one core."""
    whole, decoder, prior, ar_prior = _small(dalle2()), dalle2_decoder(), dalle2_prior(), dalle2_ar_prior()
    text = replace(decoder.model.text, vocabulary=640, length=24)
    return replace(
        whole,
        name="dalle2-scenes",
        summary="DALL·E 2 on drawn scenes of shapes, to be judged by how it follows the text.",
        hardware="1 core",
        hours=2.2,
        expected="68 % of held-in prompts followed with the diffusion prior, 64 % with the other, 41 % with none",
        stages={
            **whole.stages,
            "clip": replace(
                clip(),
                data=replace(clip().data, captions=CAPTIONS),
                training=replace(clip().training, steps=800, batch_size=128),
            ),
            "prior": replace(
                prior, data=replace(prior.data, captions=CAPTIONS), training=replace(prior.training, steps=600)
            ),
            "ar_prior": replace(
                ar_prior,
                data=replace(ar_prior.data, captions=CAPTIONS),
                training=replace(ar_prior.training, steps=500),
            ),
            "decoder": replace(
                decoder,
                model=replace(decoder.model, text=text),
                data=TextDrawingDataConfig(captions=CAPTIONS, bpe_dropout=0.0, caption_dropout=0.5),
                training=replace(decoder.training, steps=3_000),
            ),
        },
    )


def dalle2_scenes_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return replace(
        _small(dalle2_tiny()),
        name="dalle2-scenes-tiny",
        summary="The recipe dalle2-scenes at 32 pixels, in two minutes.",
    )
