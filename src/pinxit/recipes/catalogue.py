"""The recipes by name."""

from __future__ import annotations

from collections.abc import Callable

from pinxit.errors import unknown
from pinxit.recipes import (
    codecs,
    codecs_paper,
    dalle1,
    dalle1_emoji,
    dalle1_paper,
    dalle1_scenes,
    glide,
    igpt,
    palette,
    pixelcnn,
    taming,
)
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe, Stage

RECIPES: dict[str, Callable[[], Recipe | Pipeline | Stage]] = {
    "clip": clip,
    "clip-tiny": clip_tiny,
    "palette": palette.palette,
    "palette-tiny": palette.palette_tiny,
    "vae": codecs.vae_recipe,
    "vae-tiny": codecs.vae_tiny,
    "kl": codecs.kl,
    "kl-tiny": codecs.kl_tiny,
    "vqvae": codecs.vqvae_recipe,
    "vqvae-tiny": codecs.vqvae_tiny,
    "vqvae2": codecs.vqvae2,
    "vqvae2-tiny": codecs.vqvae2_tiny,
    "vqgan": codecs.vqgan_recipe,
    "vqgan-tiny": codecs.vqgan_tiny,
    "vqgan-gumbel": codecs.vqgan_gumbel,
    "vqgan-gumbel-tiny": codecs.vqgan_gumbel_tiny,
    "kl-f8": codecs_paper.kl_f8,
    "kl-f8-tiny": codecs_paper.kl_f8_tiny,
    "vqvae-paper": codecs_paper.vqvae_paper,
    "vqvae-paper-tiny": codecs_paper.vqvae_paper_tiny,
    "vqvae2-paper": codecs_paper.vqvae2_paper,
    "vqvae2-paper-tiny": codecs_paper.vqvae2_paper_tiny,
    "vqgan-f16": codecs_paper.vqgan_f16,
    "vqgan-f16-tiny": codecs_paper.vqgan_f16_tiny,
    "taming": taming.taming,
    "taming-tiny": taming.taming_tiny,
    "taming-class": taming.taming_class,
    "taming-class-tiny": taming.taming_class_tiny,
    "taming-clip": taming.taming_clip,
    "taming-clip-tiny": taming.taming_clip_tiny,
    "taming-edges": taming.taming_edges,
    "taming-edges-tiny": taming.taming_edges_tiny,
    "taming-transformer": taming.taming_transformer,
    "taming-transformer-tiny": taming.taming_transformer_tiny,
    "pixelcnn": pixelcnn.pixelcnn,
    "pixelcnn-tiny": pixelcnn.pixelcnn_tiny,
    "pixelcnn2": pixelcnn.pixelcnn2,
    "pixelcnn2-tiny": pixelcnn.pixelcnn2_tiny,
    "igpt": igpt.igpt,
    "igpt-tiny": igpt.igpt_tiny,
    "igpt-transformer": igpt.igpt_transformer,
    "igpt-transformer-tiny": igpt.igpt_transformer_tiny,
    "maskgit": taming.maskgit,
    "maskgit-tiny": taming.maskgit_tiny,
    "maskgit-transformer": taming.maskgit_transformer,
    "maskgit-transformer-tiny": taming.maskgit_transformer_tiny,
    "dalle1": dalle1.dalle1,
    "dalle1-tiny": dalle1.dalle1_tiny,
    "dalle1-emoji": dalle1_emoji.dalle1_emoji,
    "dalle1-emoji-tiny": dalle1_emoji.dalle1_emoji_tiny,
    "dalle1-scenes": dalle1_scenes.dalle1_scenes,
    "dalle1-scenes-tiny": dalle1_scenes.dalle1_scenes_tiny,
    "dalle1-paper": dalle1_paper.dalle1_paper,
    "dalle1-paper-tiny": dalle1_paper.dalle1_paper_tiny,
    "dalle1-dvae": codecs.dalle1_dvae,
    "dalle1-dvae-tiny": codecs.dalle1_dvae_tiny,
    "dalle1-tokens": dalle1.dalle1_tokens,
    "dalle1-tokens-tiny": dalle1.dalle1_tokens_tiny,
    "dalle1-transformer": dalle1.dalle1_transformer,
    "dalle1-transformer-tiny": dalle1.dalle1_transformer_tiny,
    "dalle1-model": dalle1.dalle1_model,
    "dalle1-model-tiny": dalle1.dalle1_model_tiny,
    "glide": glide.glide,
    "glide-tiny": glide.glide_tiny,
    "glide-base": glide.glide_base,
    "glide-base-tiny": glide.glide_base_tiny,
    "glide-scenes": glide.glide_scenes,
    "glide-scenes-tiny": glide.glide_scenes_tiny,
}
"""Name -> the function that makes the recipe. Every NAME has a twin NAME-tiny, which runs in seconds on one core."""


def find(name: str) -> Recipe | Pipeline | Stage:
    """The recipe of that name; the error for another one names the nearest."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
