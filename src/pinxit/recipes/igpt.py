"""iGPT (Chen et al. 2020, "Generative Pretraining from Pixels"): colours of a palette, row by row, after nothing.

pinxit train igpt --data SRC --out runs/igpt
pinxit generate "" --model runs/igpt
pinxit complete sketch.png "" --model runs/igpt
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pinxit.jobs.encode import Encoded
from pinxit.models.token_transformer import SIZES, TokenTransformerConfig
from pinxit.objectives.next_token import NextTokenConfig
from pinxit.recipes.conditions import CodesDataConfig
from pinxit.recipes.model import ModelStage
from pinxit.recipes.palette import palette, palette_tiny
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import UNMEASURED, DataConfig, Recipe
from pinxit.recipes.tokens import TokensStage, build_prior
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

SIDE, SIDE_TINY = 24, 16
"""Pixels, each a token. The paper's least is 32, which is more than two cores can learn in hours."""


def igpt_transformer() -> Recipe:
    """The published palette under a network for two cores."""
    return Recipe(
        name="igpt-transformer",
        summary="The transformer of iGPT: the next pixel's colour from all before it.",
        hardware="1 core",
        hours=0.9,
        expected="on emoji 0.97 nats a pixel, and pictures that look like emoji",
        model=replace(SIZES["igpt-s"], grid=(SIDE, SIDE), width=192, depth=6, heads=3),
        objective=NextTokenConfig(),
        data=CodesDataConfig(),
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.95), matrices="muon", weight_decay=0.01, warmup=300),
        training=TrainingConfig(steps=1_600, batch_size=32, ema_decay=0.999),
        learns_from=lambda recipe, context: Encoded.load(context.part("tokens")),  # noqa: ARG005
        build=partial(build_prior, codec="codec"),
        needs=("tokens",),
    )


def igpt_transformer_tiny() -> Recipe:
    """16x16 pixels of 32 colours."""
    recipe = igpt_transformer()
    model: TokenTransformerConfig = recipe.model
    return replace(
        recipe,
        name="igpt-transformer-tiny",
        hours=None,
        expected=UNMEASURED,
        summary="The recipe igpt-transformer over 16x16 pixels of 32 colours.",
        hardware="1 core",
        model=replace(model, image_vocabulary=32, grid=(SIDE_TINY, SIDE_TINY), width=64, depth=2, heads=4),
        data=CodesDataConfig(validation=64),
        optimizer=replace(recipe.optimizer, lr=4e-3, warmup=20),
        training=replace(recipe.training, steps=400, batch_size=16, ema_decay=0.98),
    )


def igpt() -> Pipeline:
    """The palette, the pixels as its colours, the transformer, and one folder of all."""
    small = palette()
    return Pipeline(
        name="igpt",
        summary=f"iGPT at {SIDE} pixels: pictures, and the rest of pictures, pixel by pixel.",
        hardware="1 core",
        hours=1.0,
        expected=igpt_transformer().expected,
        stages={
            "codec": replace(small, model=replace(small.model, size=SIDE)),
            "tokens": TokensStage(name="igpt-tokens", data=DataConfig(), encoder="codec"),
            "transformer": igpt_transformer(),
            "model": ModelStage(name="igpt-model", kind="igpt", parts=("codec", "transformer")),
        },
    )


def igpt_tiny() -> Pipeline:
    """The same at 16 pixels."""
    whole, small = igpt(), palette_tiny()
    return replace(
        whole,
        name="igpt-tiny",
        hours=None,
        expected=UNMEASURED,
        summary=f"iGPT at {SIDE_TINY} pixels in a minute, for tests and first tries.",
        hardware="1 core",
        stages={
            **whole.stages,
            "codec": replace(small, model=replace(small.model, size=SIDE_TINY)),
            "transformer": igpt_transformer_tiny(),
        },
    )
