"""ADM: pictures of a class, led by a classifier of noisy pictures.

pinxit train adm --data SRC --out runs/adm
pinxit generate "apple" --model runs/adm --gradient-guidance 2
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.checkpoints.files import to_config
from pinxit.data.sample import Pairs
from pinxit.models.noised_classifier import NoisedClassifier, NoisedClassifierConfig, half_of
from pinxit.objectives.denoising import DenoisingConfig
from pinxit.objectives.noised_classification import NoisedClassification
from pinxit.recipes import glide
from pinxit.recipes.codecs import Pixels
from pinxit.recipes.conditions import Labels
from pinxit.recipes.ddpm import tiny
from pinxit.recipes.denoisers import (
    VALIDATION_BATCH,
    DrawingDataConfig,
    Example,
    LabelDrawingDataConfig,
    build_denoiser,
    metas_of,
    open_pictures,
    with_classes,
)
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import STAINS, UNMEASURED, Context, Recipe, Run, held_batches, hold_back
from pinxit.training.loop import TrainingConfig

BASE = replace(glide.BASE, text=None, classes=2)
"""GLIDE's base, told a class."""


def adm_base() -> Recipe:
    """A class to 64 pixels."""
    return Recipe(
        name="adm-base",
        summary="ADM's U-Net at 64 pixels: draws pictures of a class.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        model=BASE,
        objective=DenoisingConfig(weighting="velocity"),
        data=LabelDrawingDataConfig(),
        optimizer=glide.LEARNING,
        training=TrainingConfig(steps=3_000, batch_size=64, ema_decay=0.999, channels_last=True),
        learns_from=open_pictures,
        build=build_denoiser,
        takes=("start",),
        suits=with_classes,
    )


def adm_base_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return tiny(adm_base())


def adm_classifier() -> Recipe:
    """The classes of noisy pictures."""
    base = adm_base()
    return replace(
        base,
        name="adm-classifier",
        summary="The classifier of noisy pictures that leads ADM.",
        model=NoisedClassifierConfig(half_of(BASE.unet), BASE.process, classes=2),
        objective=None,
        data=LabelDrawingDataConfig(label_dropout=0.0),
        optimizer=replace(base.optimizer, lr=1e-3, weight_decay=0.05),
        training=replace(base.training, steps=1_000),
        build=build_classifier,
        takes=(),
    )


def adm_classifier_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return tiny(adm_classifier())


def build_classifier(recipe: Recipe, context: Context, pairs: Pairs) -> Run:  # noqa: ARG001
    """A classifier of the source's classes."""
    config, data = recipe.model, recipe.data
    training, held = hold_back(pairs, data.validation)
    labels = Labels.told(data, metas_of(pairs))
    config = replace(config, classes=len(labels.names))
    size = config.unet.size
    plain = Example(Pixels(size), labels)
    return Run(
        objective=NoisedClassification(NoisedClassifier(config), config.process),
        samples=training,
        transform=replace(plain, pixels=Pixels(size, data.crop, data.flip, data.recolour)),
        config={"kind": "noised_classifier", "config": to_config(config), "labels": list(labels.names)},
        validation=held_batches(held, plain, VALIDATION_BATCH),
    )


def adm() -> Pipeline:
    """Both, in one folder."""
    return Pipeline(
        name="adm",
        summary="ADM at 64 pixels: pictures of a class by diffusion, led by a classifier.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        stages={
            "base": adm_base(),
            "noised_classifier": adm_classifier(),
            "model": ModelStage(
                name="adm-model",
                kind="adm",
                parts=("base", "noised_classifier"),
                defaults={"sampler": "ddim", "steps": 50, "gradient_guidance": 1.0},
            ),
        },
    )


def adm_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    return replace(
        adm(),
        name="adm-tiny",
        summary="ADM at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        expected=STAINS,
        stages={**adm().stages, "base": adm_base_tiny(), "noised_classifier": adm_classifier_tiny()},
    )


def adm_unconditional_base() -> Recipe:
    """Pictures alone to 64 pixels."""
    base = adm_base()
    return replace(
        base,
        name="adm-unconditional-base",
        summary="ADM's U-Net at 64 pixels: learns pictures alone.",
        model=replace(base.model, classes=None),
        data=DrawingDataConfig(),
        suits=None,
    )


def adm_unconditional_base_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return tiny(adm_unconditional_base())


def adm_unconditional() -> Pipeline:
    """Whose base draws whatever it likes, so that the classifier alone leads to a class."""
    return _unconditional(
        adm(),
        adm_unconditional_base(),
        name="adm-unconditional",
        summary="ADM at 64 pixels that draws pictures of any kind, and of a class where its classifier leads it there.",
    )


def adm_unconditional_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    return _unconditional(
        adm_tiny(),
        adm_unconditional_base_tiny(),
        name="adm-unconditional-tiny",
        summary="The recipe adm-unconditional at 32 pixels, in a minute.",
    )


def _unconditional(whole: Pipeline, base: Recipe, name: str, summary: str) -> Pipeline:
    model = whole.stages["model"]
    assert isinstance(model, ModelStage)
    # Ten times as much as where the base knows the class, as in ADM's paper (table 4).
    model = replace(model, defaults={**model.defaults, "gradient_guidance": 10.0})
    return replace(whole, name=name, summary=summary, stages={**whole.stages, "base": base, "model": model})


ALONE = {"label": "class", "exclude": {"class": ("several",)}}
"""Of drawn scenes: those of one thing, whose class is its colour and shape."""


def adm_scenes() -> Pipeline:
    """On drawn scenes of one thing, whose truth is known."""
    base, classifier = adm_base(), adm_classifier()
    return replace(
        adm(),
        name="adm-scenes",
        summary="ADM on drawn scenes of one thing, to be judged by whether it draws that.",
        hardware="1 core",
        hours=0.7,
        expected="98 % of classes drawn right without guidance, 99.6 % at a scale of 2",
        stages={
            **adm().stages,
            "base": replace(
                base,
                data=replace(base.data, **ALONE),
                training=replace(base.training, steps=2_000, batch_size=32, ema_decay=0.997, validate_every=300),
            ),
            "noised_classifier": replace(
                classifier,
                data=replace(classifier.data, **ALONE),
                training=replace(classifier.training, steps=400, ema_decay=0.99, validate_every=100),
            ),
        },
    )


def adm_scenes_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    whole = adm_tiny()
    stages = {
        name: replace(stage, data=replace(stage.data, **ALONE)) if isinstance(stage, Recipe) else stage
        for name, stage in whole.stages.items()
    }
    return replace(
        whole, name="adm-scenes-tiny", summary="The recipe adm-scenes at 32 pixels, in a minute.", stages=stages
    )
