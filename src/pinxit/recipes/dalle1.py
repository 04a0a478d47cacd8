"""DALL·E 1, stage by stage, as the paper trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from pinxit.checkpoints.files import to_config
from pinxit.data.images import to_tensor
from pinxit.data.loader import Loader
from pinxit.data.sample import Pairs, Sample
from pinxit.models.dvae import DVAE, SIZES, DVAEConfig
from pinxit.objectives.objective import Batch
from pinxit.objectives.reconstruction import RelaxedCodes, RelaxedCodesConfig
from pinxit.recipes.clip import crop_square
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, hold_back
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


@dataclass(frozen=True)
class PictureDataConfig(DataConfig):
    """Pictures without their captions."""

    crop: float = 0.85
    """The least share of the centre square that a random crop keeps."""
    flip: bool = True
    """Mirror every second picture: codes know no left and right."""


@dataclass(frozen=True)
class Pixels:
    """A sample -> `pixels` 3 h w."""

    size: int
    crop: float = 1.0
    flip: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a crop and a side."""
        pixels = to_tensor(crop_square(sample.image, self.size, self.crop, rng))
        return {"pixels": pixels.flip(2) if self.flip and rng.random() < 0.5 else pixels}


def build_dvae(recipe: Recipe, context: Context, pairs: Pairs) -> Run:
    """The dVAE over pictures alone."""
    config, data = recipe.model, recipe.data
    assert isinstance(config, DVAEConfig)
    assert isinstance(data, PictureDataConfig)
    training, held = hold_back(pairs, data.validation)
    plain = Pixels(config.size)

    def validation() -> Iterator[Batch]:
        batch = min(64, len(held))
        return islice(iter(Loader(held, batch_size=batch, transform=plain, seed=0, shuffle=False)), len(held) // batch)

    examples = torch.cat([batch["pixels"] for batch in validation()])[:16] if len(held) else torch.empty(0, 3, 8, 8)
    return Run(
        objective=RelaxedCodes(DVAE(config), recipe.objective, examples),
        samples=training,
        transform=replace(plain, crop=data.crop, flip=data.flip),
        config={"kind": "dvae", "config": to_config(config)},
        validation=validation if len(held) else None,
        card=lambda metrics: dvae_card(config, context.data, data.licence, metrics),
    )


def dvae_card(config: DVAEConfig, source: str, licence: str, metrics: Mapping[str, float]) -> str:
    """The model's card."""
    numbers = "\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items()) or "- none"
    return f"""# dVAE, {config.size} pixels to {config.grid}x{config.grid} of {config.codes} codes

The discrete VAE of DALL·E 1, trained by pinxit from scratch on `{source}`. Licence of the weights: {licence}.

On pictures held back from training, through hard codes:

{numbers}
"""


def dalle1_dvae() -> Recipe:
    """Codes for 64-pixel pictures."""
    return Recipe(
        name="dalle1-dvae",
        summary="The discrete VAE of DALL·E 1: pictures to 8x8 codes and back.",
        hardware="2 cores",
        hours=0.6,
        expected="",
        model=SIZES["small-64"],
        objective=RelaxedCodesConfig(
            kl_weight=0.05,
            kl_warmup=500,
            temperature=(1.0, 1 / 16),
            anneal=4_000,
            continuous=3_000,
            least_log_scale=-1.5,
        ),
        data=PictureDataConfig(size=64),
        optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100, floor=0.02),
        training=TrainingConfig(steps=10_000, batch_size=32, ema_decay=0.998, channels_last=True),
        build=build_dvae,
    )
