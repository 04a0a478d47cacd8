"""DDPM and improved DDPM: pictures like those of a folder, from noise.

pinxit train ddpm --data SRC --out runs/ddpm
pinxit generate "" --model runs/ddpm
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.models.denoiser import DenoiserConfig
from pinxit.models.unet import UNetConfig
from pinxit.objectives.denoising import DenoisingConfig
from pinxit.recipes.denoisers import DrawingDataConfig, build_denoiser, open_pictures
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import STAINS, UNMEASURED, Recipe
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

UNET = UNetConfig(
    size=64,
    channels=64,
    multipliers=(1, 2, 3),
    blocks=1,
    attention=(8,),
    scale_shift=False,
    resample="conv",
    patch=2,
)
"""DDPM's, at 32x32 and below."""

DDPM = DenoiserConfig(UNET, ProcessConfig(DiscreteConfig("linear"), target="v"))
"""The paper's network tells eps, any constant error of which ends up 150 times as large in the picture: after as many
steps its samples are still dusky and dotted. `--set base.model.process.target=eps` has it so."""

IMPROVED = DenoiserConfig(
    replace(UNET, scale_shift=True), ProcessConfig(DiscreteConfig("cosine"), target="v", learned_variance=True)
)


def ddpm_base() -> Recipe:
    """The one network."""
    return Recipe(
        name="ddpm-base",
        summary="DDPM's U-Net at 64 pixels: learns pictures alone.",
        hardware="1 core",
        hours=None,
        expected=UNMEASURED,
        model=DDPM,
        objective=DenoisingConfig(),
        data=DrawingDataConfig(),
        optimizer=OptimizerConfig(
            lr=2e-3, betas=(0.9, 0.99), matrices="muon", weight_decay=0.01, warmup=100, floor=0.02
        ),
        training=TrainingConfig(steps=2_000, batch_size=32, ema_decay=0.998, channels_last=True),
        learns_from=open_pictures,
        build=build_denoiser,
        takes=("start",),
    )


def ddpm_base_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return tiny(ddpm_base())


def improved_base() -> Recipe:
    """The cosine schedule, and the variance of steps learnt beside."""
    return replace(
        ddpm_base(),
        name="improved-ddpm-base",
        summary="Improved DDPM's U-Net at 64 pixels: learns pictures, and the variance of steps.",
        model=IMPROVED,
        objective=DenoisingConfig(learns="hybrid"),
    )


def improved_base_tiny() -> Recipe:
    """The same at 32 pixels, in seconds."""
    return tiny(improved_base())


def tiny(recipe: Recipe) -> Recipe:
    """A denoiser's recipe at 32 pixels, in seconds."""
    unet = replace(recipe.model.unet, size=32, channels=32, multipliers=(1, 2), blocks=1, attention=())
    return replace(
        recipe,
        name=f"{recipe.name}-tiny",
        summary=f"The recipe {recipe.name} at 32 pixels, in seconds.",
        hardware="1 core",
        model=replace(recipe.model, unet=unet),
        data=replace(recipe.data, validation=64),
        optimizer=replace(recipe.optimizer, lr=2e-3, warmup=20),
        training=replace(recipe.training, steps=200, batch_size=32, ema_decay=0.98),
    )


def ddpm() -> Pipeline:
    """Denoising diffusion."""
    whole = _whole("ddpm", "DDPM at 64 pixels: pictures like those of a folder.", ddpm_base())
    return replace(whole, hours=0.6, expected="60,000 drawn scenes: samples 1.3 times as rough as scenes")


def ddpm_tiny() -> Pipeline:
    """The same at 32 pixels."""
    whole = _whole("ddpm-tiny", "DDPM at 32 pixels in a minute, for tests and first tries.", ddpm_base_tiny())
    return replace(whole, expected=STAINS)


def improved_ddpm() -> Pipeline:
    """With learnt variances, which fewer steps are enough for."""
    whole = _whole("improved-ddpm", "Improved DDPM at 64 pixels.", improved_base())
    return replace(whole, hours=0.6, expected="60,000 drawn scenes: samples 1.2 times as rough as scenes")


def improved_ddpm_tiny() -> Pipeline:
    """The same at 32 pixels."""
    whole = _whole("improved-ddpm-tiny", "Improved DDPM at 32 pixels, in a minute.", improved_base_tiny())
    return replace(whole, expected=STAINS)


def _whole(name: str, summary: str, base: Recipe) -> Pipeline:
    return Pipeline(
        name=name,
        summary=summary,
        hardware=base.hardware,
        hours=None,
        expected=UNMEASURED,
        stages={"base": base, "model": ModelStage(name="ddpm-model", kind="ddpm", parts=("base",))},
    )
