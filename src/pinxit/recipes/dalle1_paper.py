"""DALL·E 1 with the paper's own sizes and settings (Ramesh et al. 2021, appendices A and B).

    pinxit recipes dalle1-paper

To read, to compare with and to take parts from. It cannot be trained as it is yet: the loop keeps all weights on every
device, and 12 billion with their gradients and averages need 250 GB.

Where the paper steers by hand or by its hardware, the nearest plain thing stands:

- learning rates follow one cosine to the paper's last value, which the dVAE reaches after 1.2 million updates there and
  the transformer by halving whenever its loss stands still;
- gradients are clipped at 4 throughout, where the paper does so during warm-up only;
- pictures are encoded once as they are, where the paper crops them anew each time;
- nothing is scaled by block, since bfloat16 does not need that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pinxit.models import clip as clip_model
from pinxit.models import dvae, token_transformer
from pinxit.objectives.bottlenecks import GumbelConfig
from pinxit.recipes.clip import clip
from pinxit.recipes.codecs import CodecObjectiveConfig, PictureDataConfig, dalle1_dvae
from pinxit.recipes.conditions import TextDataConfig
from pinxit.recipes.dalle1 import (
    dalle1_model,
    dalle1_tiny,
    dalle1_tokens,
    dalle1_transformer,
    dalle1_transformer_tiny,
)
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


def dalle1_paper() -> Pipeline:
    """256 pixels, 32x32 of 8,192 codes, 12 billion parameters."""
    return Pipeline(
        name="dalle1-paper",
        summary="DALL·E 1 with the paper's sizes and settings, to compare with and to take parts from.",
        hardware="Published: 64 GPUs of 16 GB for the dVAE, 1,024 for the transformer",
        hours=None,
        expected="not run here",
        stages={
            "dvae": _published(
                dalle1_dvae(),
                "64 GPUs of 16 GB",
                model=dvae.SIZES["paper"],
                objective=CodecObjectiveConfig(
                    GumbelConfig(kl_weight=6.6, kl_warmup=5_000, temperature=(1.0, 1 / 16), anneal=150_000),
                    distortion="logit-laplace",
                ),
                data=PictureDataConfig(),
                optimizer=OptimizerConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, floor=1.25e-2, clip=0.0),
                training=TrainingConfig(steps=3_000_000, batch_size=512, ema_decay=0.999, channels_last=True),
            ),
            "tokens": dalle1_tokens(),
            "clip": _published(
                clip(),
                "256 GPUs",
                model=clip_model.SIZES["vit-b32"],
                optimizer=OptimizerConfig(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, warmup=2_000),
                training=TrainingConfig(steps=390_625, batch_size=32_768),  # 32 epochs of 400 million pairs
            ),
            "transformer": _published(
                dalle1_transformer(),
                "1,024 GPUs of 16 GB",
                model=token_transformer.SIZES["paper"],
                data=TextDataConfig(caption_dropout=0.0, tokenizer_samples=1_000_000),
                optimizer=OptimizerConfig(
                    lr=4.5e-4, betas=(0.9, 0.96), weight_decay=4.5e-2, warmup=5_000, floor=1 / 32, clip=4.0
                ),
                training=TrainingConfig(steps=430_000, batch_size=1_024, ema_decay=0.9996),
            ),
            "model": dalle1_model(),
        },
    )


def _published(recipe: Recipe, hardware: str, **settings: Any) -> Recipe:
    return replace(recipe, hardware=f"Published: {hardware}", hours=None, expected="not run here", **settings)


def dalle1_paper_tiny() -> Pipeline:
    """`dalle1-tiny` with what of the paper's settings shows in a minute: the masks, and every caption given."""
    tiny = dalle1_tiny()
    transformer = dalle1_transformer_tiny()
    return replace(
        tiny,
        name="dalle1-paper-tiny",
        summary="The recipe dalle1-tiny with the paper's masks and no captions left out.",
        stages={
            **tiny.stages,
            "transformer": replace(
                transformer,
                model=replace(transformer.model, attention="paper"),
                data=replace(transformer.data, caption_dropout=0.0),
            ),
        },
    )
