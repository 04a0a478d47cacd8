"""DALL·E 1 on drawn scenes, whose truth is known, so that what it paints can be judged.

pinxit train dalle1-scenes --data scenes:250000 --out runs/dalle1-scenes
pinxit evaluate runs/dalle1-scenes --data scenes:1000:held-in --rerank 16
pinxit evaluate runs/dalle1-scenes --data scenes:1000:held-out --rerank 16
"""

from __future__ import annotations

from dataclasses import replace

from pinxit.models.dvae import DVAEConfig
from pinxit.models.token_transformer import TokenTransformerConfig
from pinxit.recipes.clip import CLIPDataConfig, clip
from pinxit.recipes.codecs import PictureDataConfig, dalle1_dvae
from pinxit.recipes.conditions import TextDataConfig
from pinxit.recipes.dalle1 import (
    dalle1_tiny,
    dalle1_transformer,
)
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import DataConfig
from pinxit.recipes.tokens import TokensStage

CAPTIONS = {"short": 1.0, "long": 0.1, "alt": 0.1}
"""Mostly what will be asked for."""

PROMPTS = (
    "a red circle",
    "a blue star",
    "a green square and a yellow heart",
    "three purple triangles",
    "two orange rings",
    "a red star left of a blue circle",
    "a yellow cross above a green square",
    "four pink hearts",
)

CODEC = DVAEConfig(size=64, codes=1_024, widths=(128, 256), blocks=2, vector=12, cosine=True, patch=4)

TRANSFORMER = TokenTransformerConfig(
    condition_vocabulary=640, condition_length=24, image_vocabulary=1_024, grid=(8, 8), width=256, depth=6, heads=4
)


def dalle1_scenes() -> Pipeline:
    """The whole of it, within 90 minutes on two cores."""
    dvae, transformer = dalle1_dvae(), dalle1_transformer()
    return Pipeline(
        name="dalle1-scenes",
        summary="DALL·E 1 on drawn scenes of shapes, to be judged by how it follows the text.",
        hardware="2 cores",
        hours=1.5,
        expected="81 to 84 % of held-in prompts followed at once, 95 % by the best of sixteen",
        stages={
            "dvae": replace(
                dvae,
                model=CODEC,
                objective=replace(
                    dvae.objective, bottleneck=replace(dvae.objective.bottleneck, continuous=3_000, anneal=3_500)
                ),
                data=PictureDataConfig(),
                training=replace(dvae.training, steps=7_000),
            ),
            "tokens": TokensStage(name="dalle1-tokens", data=DataConfig()),
            "clip": replace(
                clip(),
                data=CLIPDataConfig(captions=CAPTIONS),
                training=replace(clip().training, steps=800, batch_size=128),
            ),
            "transformer": replace(
                transformer,
                model=TRANSFORMER,
                data=TextDataConfig(captions=CAPTIONS, prompts=PROMPTS),
                training=replace(transformer.training, steps=3_600),
            ),
            "model": ModelStage(name="dalle1-model", defaults={"guidance": 2.0, "temperature": 0.8}),
        },
    )


def dalle1_scenes_tiny() -> Pipeline:
    """The same at 32 pixels, in a minute."""
    return replace(
        dalle1_tiny(), name="dalle1-scenes-tiny", summary="The recipe dalle1-scenes at 32 pixels, in a minute."
    )
