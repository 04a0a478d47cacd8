"""Codecs, at sizes for two cores: 64 pixels to 8x8 codes, so that they can be compared.

    pinxit train vqgan --data SRC --out runs/vqgan
    pinxit reconstruct photo.png --model runs/vqgan
    pinxit evaluate runs/vqgan --data SRC

The published sizes are named in `models`, such as `vqgan.SIZES["f16-16384"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from pinxit.checkpoints.files import to_config
from pinxit.data.augment import crop_square
from pinxit.data.images import to_tensor
from pinxit.data.recolour import recolour
from pinxit.data.sample import Pairs, Sample
from pinxit.evaluation.features import Eye, load_eye
from pinxit.models import dvae, vae, vqgan, vqvae
from pinxit.models.discriminator import Discriminator, DiscriminatorConfig
from pinxit.objectives.adversarial import AdversarialReconstruction, AdversaryConfig
from pinxit.objectives.bottlenecks import GaussianConfig, GumbelConfig, NearestConfig
from pinxit.objectives.objective import Objective
from pinxit.objectives.reconstruction import Reconstruction, ReconstructionConfig
from pinxit.recipes.recipe import UNMEASURED, Context, DataConfig, Recipe, Run, held_batches, hold_back
from pinxit.systems.codec import NETWORKS, kind_of
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class PictureDataConfig(DataConfig):
    """Pictures without their captions."""

    validation: int = 256
    """Pictures held back for validation, though never more than a tenth of all."""
    recolour: float = 0.0
    """The share of pictures that are shown in another colour (`data.recolour`)."""
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
    recolour: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a colour, a crop and a side."""
        return self.cut(self.coloured(sample, rng), rng)

    def coloured(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Now and then in another colour, which its captions say too."""
        return recolour(sample, rng) if rng.random() < self.recolour else sample

    def cut(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """In its own colours."""
        pixels = to_tensor(crop_square(sample.image, self.size, self.crop, rng))
        return {"pixels": pixels.flip(2) if self.flip and rng.random() < 0.5 else pixels}


@dataclass(frozen=True)
class CodecObjectiveConfig(ReconstructionConfig):
    """The reconstruction, and what else looks at it."""

    adversary: AdversaryConfig | None = None
    """A discriminator that takes part; none where this is left out."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


def open_source(recipe: Recipe, context: Context) -> Pairs:
    """The pictures, at the size of the recipe's codec."""
    return context.pairs(recipe.data, recipe.model.size)


def build_codec(recipe: Recipe, context: Context, pairs: Pairs) -> Run:
    """A codec over pictures alone."""
    config, data, wanted = recipe.model, recipe.data, recipe.objective
    assert isinstance(data, PictureDataConfig)
    assert isinstance(wanted, CodecObjectiveConfig)
    kind = kind_of(config)
    network = NETWORKS[kind].network(config)
    training, held = hold_back(pairs, data.validation)
    plain = Pixels(network.size)
    validation = held_batches(held, plain, max(1, VALIDATION_BATCH * 64**2 // max(network.size, 64) ** 2))
    examples = next(iter(validation()))["pixels"][:16] if validation else torch.empty(0, 3, 8, 8)
    eye = load_eye(context.parts.get("perceptual")) if wanted.perceptual else None
    if eye:
        context.world.say(f"How alike pictures look is told by {eye.name}.")
    reconstruction = Reconstruction(kind, network, wanted, examples, eye.distance if eye else None)
    objective: Objective = reconstruction
    if wanted.adversary:
        objective = AdversarialReconstruction(reconstruction, Discriminator(wanted.discriminator), wanted.adversary)
    return Run(
        objective=objective,
        samples=training,
        transform=replace(plain, crop=data.crop, flip=data.flip, recolour=data.recolour),
        config={"kind": kind, "config": to_config(config)},
        validation=validation,
        card=lambda metrics: _card(recipe, network, context.source, eye, metrics),
    )


def _card(recipe: Recipe, network: Any, source: str, eye: Eye | None, metrics: Mapping[str, float]) -> str:
    codes = "numbers" if network.codes is None else f"of {network.codes} codes"
    numbers = "\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items()) or "- none"
    learnt = f", with a distance told by {eye.name}" if eye else ""
    return f"""# {recipe.name}, {network.size} pixels to {"x".join(map(str, network.code_shape))} {codes}

A codec, trained by pinxit from scratch on `{source}`{learnt}. Licence of the weights: {recipe.licence}.

On pictures held back from training, through hard codes:

{numbers}
"""


def _codec(name: str, summary: str, expected: str, **settings: Any) -> Recipe:
    """What all have in common."""
    return Recipe(
        name=name,
        summary=summary,
        expected=expected,
        **{
            "hardware": "2 cores",
            "hours": 0.6,
            "data": PictureDataConfig(),
            "optimizer": OptimizerConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100, floor=0.02),
            "training": TrainingConfig(steps=10_000, batch_size=32, ema_decay=0.998, channels_last=True),
            "learns_from": open_source,
            "build": build_codec,
            "takes": ("perceptual",),
            **settings,
        },
    )


def _tiny(recipe: Recipe, **settings: Any) -> Recipe:
    """The same in seconds: 32 pixels."""
    return replace(
        recipe,
        name=f"{recipe.name}-tiny",
        summary=f"The recipe {recipe.name} at 32 pixels, in seconds.",
        **{
            "hardware": "1 core",
            "hours": None,
            "expected": UNMEASURED,
            "data": replace(recipe.data, validation=64, flip=False),
            "optimizer": replace(recipe.optimizer, lr=4e-3, warmup=10),
            "training": replace(recipe.training, steps=1_000, batch_size=16, ema_decay=0.98, precision="float32"),
            **settings,
        },
    )


def dalle1_dvae(size: str = "small-64") -> Recipe:
    """DALL·E 1's codec."""
    return _codec(
        name="dalle1-dvae",
        summary="The discrete VAE of DALL·E 1: pictures to 8x8 codes and back.",
        expected="on emoji 22 dB and three quarters of the codes used, after 12,000 steps",
        model=dvae.SIZES[size],
        objective=CodecObjectiveConfig(
            GumbelConfig(kl_weight=0.05, kl_warmup=500, temperature=(1.0, 1 / 16), anneal=4_000, continuous=3_000),
            distortion="logit-laplace",
            least_log_scale=-1.5,
        ),
        optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=100, floor=0.02),
    )


def dalle1_dvae_tiny() -> Recipe:
    """The same in seconds: 32 pixels to 8x8 of 128 codes."""
    recipe = dalle1_dvae("tiny-32")
    return _tiny(
        recipe,
        hours=0.004,
        expected="21 dB on 2,000 scenes, nearly all codes used: things are in place and mostly in their colours",
        objective=replace(
            recipe.objective,
            bottleneck=replace(recipe.objective.bottleneck, continuous=700, noise=0.02, anneal=200, kl_warmup=100),
            least_log_scale=0.0,  # nearer to plain squared error, which learns colours sooner
        ),
        optimizer=replace(recipe.optimizer, lr=7e-3, warmup=10),
    )


def vae_recipe(size: str = "small-64") -> Recipe:
    """The baseline of all codecs."""
    return _codec(
        name="vae",
        summary="A variational autoencoder: pictures to 8x8 of 16 numbers and back, by the ELBO alone.",
        expected="on emoji 23.6 dB after ten minutes, 1,450 steps",
        hours=1.2,
        model=vae.SIZES[size],
        objective=CodecObjectiveConfig(GaussianConfig(kl_weight=1.0, kl_warmup=500), distortion="gaussian"),
    )


def vae_tiny() -> Recipe:
    """The same in seconds."""
    return _tiny(vae_recipe("tiny-32"))


def kl(size: str = "small-64") -> Recipe:
    """What latent diffusion works in."""
    return _codec(
        name="kl",
        summary="The KL autoencoder of latent diffusion: pictures to 8x8 of 16 numbers and back.",
        turns=JUDGING,
        expected="on emoji 22.4 dB after ten minutes, 1,100 steps",
        hours=1.5,
        model=vae.SIZES[size],
        objective=CodecObjectiveConfig(
            GaussianConfig(kl_weight=1e-6),
            distortion="l1",
            perceptual=BY_CLIP,
            perceptual_start=ADVERSARY.start,
            adversary=ADVERSARY,
            discriminator=SMALL,
        ),
    )


def kl_tiny() -> Recipe:
    """The same in seconds."""
    return _seen(kl("tiny-32"))


NEAREST = NearestConfig(decay=0.95)
"""With the published 0.99 it takes 400 steps to tell that a code serves nothing, and few are used in a short run."""


def vqvae_recipe(size: str = "small-64") -> Recipe:
    """The first of the discrete ones."""
    return _codec(
        name="vqvae",
        summary="VQ-VAE: pictures to 8x8 of 1,024 codes and back, by squared error.",
        expected="on emoji 21.7 dB and all codes used after ten minutes, 2,200 steps",
        hours=0.8,
        model=vqvae.SIZES[size],
        objective=CodecObjectiveConfig(NEAREST),
    )


def vqvae_tiny() -> Recipe:
    """The same in seconds."""
    return _tiny(vqvae_recipe("tiny-32"), hours=0.02, expected="24 dB on 2,000 scenes, all codes used")


def vqvae2(size: str = "small-64-2") -> Recipe:
    """Two levels of codes."""
    return replace(
        vqvae_recipe(size),
        name="vqvae2",
        summary="VQ-VAE-2: pictures to 8x8 and 16x16 of 512 codes and back, by squared error.",
        hours=1.0,
        expected="on emoji 26.3 dB and all codes used after ten minutes, 1,700 steps",
    )


def vqvae2_tiny() -> Recipe:
    """The same in seconds."""
    return _tiny(vqvae2("tiny-32-2"))


BY_CLIP = 0.2
"""The weight of the distance by a CLIP, which is blind to hatching. At 1, as LPIPS has it, surfaces show some."""
ADVERSARY = AdversaryConfig(start=4_000, alone=1_000, warmup=1_000, weight=0.3, most=1.0)
SMALL = DiscriminatorConfig(width=32, layers=2)
JUDGING = {"discriminator": OptimizerConfig(lr=5e-4, betas=(0.5, 0.9), floor=0.1)}
"""Slower than the codec: at its rate the discriminator learns nothing at all, and what it says then is a hatch."""


def vqgan_recipe(size: str = "small-64") -> Recipe:
    """Codes that look right rather than be near."""
    return _codec(
        name="vqgan",
        summary="VQGAN: pictures to 8x8 of 1,024 codes and back, against a discriminator.",
        turns=JUDGING,
        expected="on emoji 21.0 dB and all codes used after ten minutes, 1,300 steps",
        hours=1.3,
        model=vqgan.SIZES[size],
        objective=CodecObjectiveConfig(
            NEAREST,
            distortion="l1",
            perceptual=BY_CLIP,
            perceptual_start=ADVERSARY.start,
            adversary=ADVERSARY,
            discriminator=SMALL,
        ),
    )


def vqgan_tiny() -> Recipe:
    """The same in seconds."""
    return _seen(vqgan_recipe("tiny-32"))


def vqgan_gumbel(size: str = "small-64") -> Recipe:
    """VQGAN with relaxed codes."""
    recipe = vqgan_recipe(size)
    return replace(
        recipe,
        name="vqgan-gumbel",
        summary="VQGAN over Gumbel-softmax codes.",
        hours=1.6,
        expected="on emoji 20.0 dB and nine tenths of the codes used after ten minutes, 1,100 steps",
        model=replace(recipe.model, quantizer="gumbel-cosine"),
        objective=replace(recipe.objective, bottleneck=dalle1_dvae().objective.bottleneck),
    )


def vqgan_gumbel_tiny() -> Recipe:
    """The same in seconds."""
    tiny = _seen(vqgan_gumbel("tiny-32"))
    sooner = replace(tiny.objective.bottleneck, kl_warmup=50, continuous=150, anneal=100)
    return replace(tiny, objective=replace(tiny.objective, bottleneck=sooner))


def _seen(recipe: Recipe) -> Recipe:
    """The tiny twin of a recipe with a perceptual distance, which costs most of it, and an adversary."""
    tiny = _tiny(recipe)
    adversary = AdversaryConfig(start=200, alone=50, warmup=100, most=1.0)
    objective = replace(
        recipe.objective,
        perceptual_start=0,
        adversary=adversary,
        discriminator=DiscriminatorConfig(width=16, layers=2),
    )
    return replace(tiny, objective=objective, training=replace(tiny.training, steps=400))
