"""A GAN for texts, classes or nothing: fast, sharp and less various, to compare diffusion with.

pinxit train gan --data SRC --out runs/gan
pinxit generate "a red apple" --model runs/gan
"""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image

from pinxit.checkpoints.files import to_config
from pinxit.data.images import grid, to_pil
from pinxit.data.sample import Pairs
from pinxit.models import gan as networks
from pinxit.models.gan import Critic, GANConfig, Generator
from pinxit.objectives.adversarial_generation import AdversarialGeneration, GANObjectiveConfig
from pinxit.recipes.adm import ALONE
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.codecs import Pixels
from pinxit.recipes.conditions import PREVIEWS
from pinxit.recipes.denoisers import (
    VALIDATION_BATCH,
    DrawingDataConfig,
    Example,
    LabelDrawingDataConfig,
    TextDrawingDataConfig,
    with_classes,
    words_of,
)
from pinxit.recipes.glide import TEXT
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import STAINS, UNMEASURED, Context, Recipe, Run, held_batches, hold_back
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


def open_pictures(recipe: Recipe, context: Context) -> Pairs:
    """The pictures, at the size of the recipe's networks."""
    return context.pairs(recipe.data, recipe.model.size)


def build_gan(recipe: Recipe, context: Context, pairs: Pairs) -> Run:  # noqa: ARG001
    """A generator and its critic, for what the data config says."""
    config, data, wanted = recipe.model, recipe.data, recipe.objective
    assert isinstance(config, GANConfig)
    assert isinstance(data, DrawingDataConfig)
    assert isinstance(wanted, GANObjectiveConfig)
    training, held = hold_back(pairs, data.validation)
    words = words_of(data, config.text, pairs, training, held)
    config = replace(config, text=words.text, classes=len(words.labels) or None)
    generator = Generator(config)
    shown = words.previews.ids if words.text else words.previews.labels
    noise = torch.randn(PREVIEWS if shown is None else len(shown), config.latent)

    def paint() -> Image.Image:
        device = next(generator.parameters()).device
        drawn = generator(noise.to(device), None if shown is None else shown.to(device))
        return grid([to_pil(picture) for picture in drawn], 8)

    plain = Example(Pixels(config.size), words.plain)
    return Run(
        objective=AdversarialGeneration(
            generator,
            Critic(config),
            config.latent,
            "ids" if words.text else "labels" if words.labels else None,
            wanted,
            paint,
        ),
        samples=training,
        transform=replace(plain, pixels=Pixels(config.size, data.crop, data.flip, data.recolour), words=words.varied),
        config={"kind": "gan", "config": to_config(config), **words.said},
        validation=held_batches(held, plain, VALIDATION_BATCH),
        tokenizer=words.tokenizer,
    )


def gan_generator() -> Recipe:
    """Texts to 64 pixels."""
    learns = OptimizerConfig(lr=2e-4, betas=(0.0, 0.99), schedule="constant", clip=0.0)
    return Recipe(
        name="gan-generator",
        summary="A generator of 64 pixels after a text, and the critic that it learns against.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        model=replace(networks.SIZES["small-64"], text=replace(TEXT, depth=2, stands="words")),
        objective=GANObjectiveConfig(),
        data=TextDrawingDataConfig(caption_dropout=0.0, bpe_dropout=0.0),  # a caption is known by its one spelling
        optimizer=learns,
        training=TrainingConfig(steps=20_000, batch_size=16, ema_decay=0.998, channels_last=True),
        learns_from=open_pictures,
        build=build_gan,
        captioned=True,
    )


def gan_generator_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    recipe = gan_generator()
    text = replace(recipe.model.text, vocabulary=640, length=16, width=64, depth=1, heads=1)
    return replace(
        recipe,
        name="gan-generator-tiny",
        summary="The recipe gan-generator at 32 pixels, in seconds.",
        hardware="1 core",
        model=replace(networks.SIZES["tiny-32"], text=text),
        data=TextDrawingDataConfig(captions={"short": 1.0}, bpe_dropout=0.0, caption_dropout=0.0, validation=64),
        training=replace(recipe.training, steps=200, batch_size=32, ema_decay=0.98),
    )


def gan() -> Pipeline:
    """With a CLIP to choose."""
    return Pipeline(
        name="gan",
        summary="A GAN at 64 pixels: pictures from text in one pass.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        stages={
            "generator": gan_generator(),
            "clip": clip(),
            "model": ModelStage(name="gan-model", kind="gan", parts=("generator", "clip")),
        },
    )


def gan_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    return replace(
        gan(),
        name="gan-tiny",
        summary="A GAN at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        expected=STAINS,
        stages={**gan().stages, "generator": gan_generator_tiny(), "clip": clip_tiny()},
    )


def gan_class() -> Pipeline:
    """For classes, which the source tells beside captions."""
    return _for_classes(gan_generator(), "gan-class", "A GAN at 64 pixels for classes.")


def gan_class_tiny() -> Pipeline:
    """The same at 32 pixels."""
    whole = _for_classes(gan_generator_tiny(), "gan-class-tiny", "The recipe gan-class at 32 pixels, in a minute.")
    return replace(whole, expected=STAINS)


def _for_classes(recipe: Recipe, name: str, summary: str) -> Pipeline:
    generator = replace(
        recipe,
        name=name.replace("gan-class", "gan-class-generator"),
        summary=f"The generator of {name} and its critic.",
        model=replace(recipe.model, text=None),
        data=LabelDrawingDataConfig(label_dropout=0.0, validation=recipe.data.validation),
        captioned=False,
        suits=with_classes,
    )
    return replace(
        gan(),
        name=name,
        summary=summary,
        hardware=recipe.hardware,
        stages={"generator": generator, "model": ModelStage(name="gan-model", kind="gan", parts=("generator",))},
    )


def gan_scenes() -> Pipeline:
    """On drawn scenes of one thing, beside `adm-scenes`."""
    whole = _of_scenes(gan_class(), "gan-scenes", "A GAN on drawn scenes of one thing, to compare ADM with.", 10_000)
    return replace(whole, hardware="1 core", hours=1.1, expected="97 % of classes drawn right, on pale grounds alone")


def gan_scenes_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return _of_scenes(gan_class_tiny(), "gan-scenes-tiny", "The recipe gan-scenes at 32 pixels, in a minute.", 200)


def _of_scenes(whole: Pipeline, name: str, summary: str, steps: int) -> Pipeline:
    generator = whole.stages["generator"]
    assert isinstance(generator, Recipe)
    learns = replace(
        generator,
        data=replace(generator.data, **ALONE),
        objective=replace(generator.objective, augment=False),  # there are enough of them
        training=replace(generator.training, steps=steps),
    )
    return replace(whole, name=name, summary=summary, stages={**whole.stages, "generator": learns})
