"""DALL·E 1, stage by stage in the paper's order, at sizes for two cores.

    pinxit train dalle1 --data SRC --out runs/dalle1
    pinxit generate "a red apple" --model runs/dalle1

First the dVAE, then its codes for all pictures, CLIP, and the transformer over captions and codes; then one folder with
all that is needed to draw.
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.jobs.encode import Encoded
from pinxit.models import token_transformer
from pinxit.objectives.next_token import NextTokenConfig
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.codecs import dalle1_dvae, dalle1_dvae_tiny
from pinxit.recipes.conditions import TextDataConfig
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import DataConfig, Recipe
from pinxit.recipes.tokens import TokensStage, build_prior
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


def dalle1_tokens() -> TokensStage:
    """The codes for `dalle1-transformer`."""
    return TokensStage(name="dalle1-tokens", data=DataConfig())


def dalle1_tokens_tiny() -> TokensStage:
    """The codes for `dalle1-transformer-tiny`."""
    return TokensStage(name="dalle1-tokens-tiny", data=DataConfig())


def dalle1_transformer(size: str = "small-64") -> Recipe:
    """The transformer over 32 text tokens and 8x8 codes."""
    return Recipe(
        name="dalle1-transformer",
        summary="The transformer of DALL·E 1: captions to codes.",
        hardware="2 cores",
        hours=1.0,
        expected="as dalle1-emoji and dalle1-scenes tell",
        model=token_transformer.SIZES[size],
        objective=NextTokenConfig(),
        data=TextDataConfig(),
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.96), matrices="muon", weight_decay=4.5e-2, warmup=300),
        training=TrainingConfig(steps=10_000, batch_size=64, ema_decay=0.999),
        learns_from=lambda recipe, context: Encoded.load(context.part("tokens")),  # noqa: ARG005
        build=build_prior,
        needs=("tokens",),
        captioned=True,
    )


def dalle1_transformer_tiny() -> Recipe:
    """The same in seconds, over the codes of `dalle1-tokens-tiny`."""
    recipe = dalle1_transformer("tiny-32")
    return replace(
        recipe,
        name="dalle1-transformer-tiny",
        summary="The recipe dalle1-transformer over 8x8 of 128 codes, in seconds.",
        hardware="1 core",
        hours=0.005,
        expected="an image loss of 1.65 nats per code on 2,000 scenes (chance: 4.9)",
        data=TextDataConfig(
            captions={"short": 1.0, "long": 0.1, "alt": 0.1},
            bpe_dropout=0.0,
            validation=64,
        ),
        optimizer=replace(recipe.optimizer, lr=4e-3, warmup=20),
        training=replace(recipe.training, steps=800, batch_size=32, ema_decay=0.98),
    )


def dalle1_model() -> ModelStage:
    """The three parts in one folder."""
    return ModelStage(name="dalle1-model")


def dalle1_model_tiny() -> ModelStage:
    """The three tiny parts in one folder."""
    return ModelStage(name="dalle1-model-tiny")


def dalle1() -> Pipeline:
    """All of it at 64 pixels, on pictures of your own."""
    return Pipeline(
        name="dalle1",
        summary="DALL·E 1 at 64 pixels, from pictures with captions to pictures from text.",
        hardware="2 cores",
        hours=2.5,
        expected="recognisable pictures of what the captions name often",
        stages={
            "dvae": dalle1_dvae(),
            "tokens": dalle1_tokens(),
            "clip": replace(clip(), training=replace(clip().training, steps=1_500)),
            "transformer": dalle1_transformer(),
            "model": dalle1_model(),
        },
    )


def dalle1_tiny() -> Pipeline:
    """All of it at 32 pixels, in about a minute."""
    return Pipeline(
        name="dalle1-tiny",
        summary="DALL·E 1 at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        hours=0.017,
        expected="on 2,000 scenes, blobs that mostly have the colour asked for; neither shapes nor counts",
        stages={
            "dvae": dalle1_dvae_tiny(),
            "tokens": dalle1_tokens_tiny(),
            "clip": clip_tiny(),
            "transformer": dalle1_transformer_tiny(),
            "model": dalle1_model_tiny(),
        },
    )
