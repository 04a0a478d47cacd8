"""Codecs with their papers' own sizes and settings, for people with many GPUs and for comparison.

    pinxit train vqgan-f16 --data SRC --out runs/vqgan-f16 --part perceptual=LPIPS

LPIPS is read by `pinxit convert`; without it the shipped CLIP tells how alike pictures look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pinxit.models import vae, vqgan, vqvae
from pinxit.models.discriminator import DiscriminatorConfig
from pinxit.objectives.adversarial import AdversaryConfig
from pinxit.objectives.bottlenecks import GaussianConfig, NearestConfig
from pinxit.recipes.codecs import (
    CodecObjectiveConfig,
    kl,
    kl_tiny,
    vqgan_recipe,
    vqgan_tiny,
    vqvae2,
    vqvae2_tiny,
    vqvae_recipe,
    vqvae_tiny,
)
from pinxit.recipes.recipe import Recipe
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


def vqgan_f16() -> Recipe:
    """Esser et al. 2021, with the settings of their release; the number of steps is ours, which they do not tell."""
    return _published(
        vqgan_recipe(),
        "vqgan-f16",
        "VQGAN with the published size and settings: 256 pixels to 16x16 of 1,024 codes.",
        model=vqgan.SIZES["f16-1024"],
        objective=CodecObjectiveConfig(
            NearestConfig(moved_by="gradient", dead=0.0),
            distortion="l1",
            perceptual=1.0,
            adversary=AdversaryConfig(start=250_001),
            discriminator=DiscriminatorConfig(),
        ),
        optimizer=_adam(lr=4.5e-6 * 96, betas=(0.5, 0.9)),
        training=TrainingConfig(steps=500_000, batch_size=96, ema_decay=0.0, channels_last=True),
    )


def kl_f8() -> Recipe:
    """Rombach et al. 2022: what Stable Diffusion works in."""
    return _published(
        kl(),
        "kl-f8",
        "The KL autoencoder with the published size and settings: 256 pixels to 32x32 of 4 numbers.",
        model=vae.SIZES["kl-f8"],
        objective=CodecObjectiveConfig(
            GaussianConfig(kl_weight=1e-6),
            distortion="l1",
            perceptual=1.0,
            adversary=AdversaryConfig(start=50_001, weight=0.5),
            discriminator=DiscriminatorConfig(),
        ),
        optimizer=_adam(lr=4.5e-6 * 96, betas=(0.5, 0.9)),
        training=TrainingConfig(steps=246_803, batch_size=96, ema_decay=0.0, channels_last=True),
    )


def vqvae_paper() -> Recipe:
    """Van den Oord et al. 2017, section 4.1."""
    return _published(
        vqvae_recipe(),
        "vqvae-paper",
        "VQ-VAE with the published size and settings: 128 pixels to 32x32 of 512 codes.",
        model=vqvae.SIZES["paper"],
        objective=CodecObjectiveConfig(NearestConfig(dead=0.0)),
        optimizer=_adam(lr=2e-4, betas=(0.9, 0.999)),
        training=TrainingConfig(steps=250_000, batch_size=128, ema_decay=0.0, channels_last=True),
    )


def vqvae2_paper() -> Recipe:
    """Razavi et al. 2019, as public implementations have it."""
    return _published(
        vqvae2(),
        "vqvae2-paper",
        "VQ-VAE-2 with the sizes and settings of public implementations: 256 pixels to 32x32 and 64x64 of 512 codes.",
        model=vqvae.SIZES["paper-2"],
        objective=CodecObjectiveConfig(NearestConfig(dead=0.0)),
        optimizer=_adam(lr=3e-4, betas=(0.9, 0.999)),
        training=TrainingConfig(steps=5_600_000, batch_size=128, ema_decay=0.0, channels_last=True),
    )


def vqgan_f16_tiny() -> Recipe:
    """The way of it in seconds."""
    return replace(vqgan_tiny(), name="vqgan-f16-tiny")


def kl_f8_tiny() -> Recipe:
    """The way of it in seconds."""
    return replace(kl_tiny(), name="kl-f8-tiny")


def vqvae_paper_tiny() -> Recipe:
    """The way of it in seconds."""
    return replace(vqvae_tiny(), name="vqvae-paper-tiny")


def vqvae2_paper_tiny() -> Recipe:
    """The way of it in seconds."""
    return replace(vqvae2_tiny(), name="vqvae2-paper-tiny")


def _adam(lr: float, betas: tuple[float, float]) -> OptimizerConfig:
    """Adam as it is, at one rate."""
    return OptimizerConfig(lr=lr, betas=betas, schedule="constant", clip=0.0)


def _published(recipe: Recipe, name: str, summary: str, **settings: Any) -> Recipe:
    return replace(
        recipe, name=name, summary=summary, hardware="8 GPUs or more", hours=None, expected="not run here", **settings
    )
