"""PixelCNN over the codes of VQ-VAE and VQ-VAE-2 (van den Oord et al. 2017; Razavi et al. 2019).

pinxit train pixelcnn --data SRC --out runs/pixelcnn
pinxit train pixelcnn2 --data SRC --out runs/pixelcnn2
pinxit generate "a red apple" --model runs/pixelcnn2
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pinxit.jobs.encode import Encoded
from pinxit.models import pixelcnn as network
from pinxit.objectives.next_token import NextTokenConfig
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.codecs import vqvae2, vqvae2_tiny, vqvae_recipe, vqvae_tiny
from pinxit.recipes.conditions import TextDataConfig
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import UNMEASURED, DataConfig, Recipe
from pinxit.recipes.tokens import TokensStage, build_prior
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


def prior(size: str = "small-64") -> Recipe:
    """Gated PixelCNN over the codes of VQ-VAE, after texts."""
    return Recipe(
        name="pixelcnn-prior",
        summary="Gated PixelCNN: captions to the codes of a VQ-VAE.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        model=network.SIZES[size],
        objective=NextTokenConfig(),
        data=TextDataConfig(),
        optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=300),
        training=TrainingConfig(steps=10_000, batch_size=64, ema_decay=0.999, channels_last=True),
        learns_from=lambda recipe, context: Encoded.load(context.part("tokens")),  # noqa: ARG005
        build=partial(build_prior, codec="codec"),
        needs=("tokens",),
        captioned=True,
    )


def prior_tiny(size: str = "tiny-32") -> Recipe:
    """The same in seconds."""
    recipe = prior(size)
    return replace(
        recipe,
        name="pixelcnn-prior-tiny",
        summary="The recipe pixelcnn-prior over 8x8 of 128 codes, in seconds.",
        hardware="1 core",
        data=TextDataConfig(captions={"short": 1.0}, bpe_dropout=0.0, validation=64),
        optimizer=replace(recipe.optimizer, lr=3e-3, warmup=20),
        training=replace(recipe.training, steps=800, batch_size=32, ema_decay=0.98),
    )


def pixelcnn() -> Pipeline:
    """All of it at 64 pixels, on pictures of your own."""
    return Pipeline(
        name="pixelcnn",
        summary="VQ-VAE at 64 pixels with a gated PixelCNN over its codes.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        stages={
            "codec": vqvae_recipe(),
            "tokens": TokensStage(name="pixelcnn-tokens", data=DataConfig(), encoder="codec"),
            "clip": clip(),
            "prior": prior(),
            "model": ModelStage(name="pixelcnn-model", kind="pixelcnn", parts=("codec", "clip", "prior")),
        },
    )


def pixelcnn_tiny() -> Pipeline:
    """All of it at 32 pixels, in about a minute."""
    whole = pixelcnn()
    return replace(
        whole,
        name="pixelcnn-tiny",
        summary="The recipe pixelcnn at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        stages={**whole.stages, "codec": vqvae_tiny(), "clip": clip_tiny(), "prior": prior_tiny()},
    )


def pixelcnn2() -> Pipeline:
    """The same with two levels: what is drawn first is coarse."""
    whole = pixelcnn()
    return replace(
        whole,
        name="pixelcnn2",
        summary="VQ-VAE-2 at 64 pixels with a PixelCNN over its coarse codes, and one over the fine ones given those.",
        stages={
            **whole.stages,
            "codec": vqvae2(),
            "prior": replace(
                prior("small-64-2"), name="pixelcnn2-prior", summary="Two PixelCNNs: captions to coarse and fine codes."
            ),
        },
    )


def pixelcnn2_tiny() -> Pipeline:
    """The same at 32 pixels."""
    whole = pixelcnn_tiny()
    return replace(
        whole,
        name="pixelcnn2-tiny",
        summary="The recipe pixelcnn2 at 32 pixels in a minute, for tests and first tries.",
        stages={
            **whole.stages,
            "codec": vqvae2_tiny(),
            "prior": replace(
                prior_tiny("tiny-32-2"),
                name="pixelcnn2-prior-tiny",
                summary="The recipe pixelcnn2-prior over 4x4 and 8x8 of 64 codes, in seconds.",
            ),
        },
    )
