"""unCLIP's priors: from texts to the CLIP embeddings of pictures of them, which were encoded once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pinxit.checkpoints.files import to_config
from pinxit.data.sample import draw_caption
from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.evaluation.prior_health import prior_errors, prior_health
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.models.clip import CLIP
from pinxit.models.prior import Prior, PriorConfig, Read, read
from pinxit.objectives.denoising import Denoising, DenoisingConfig
from pinxit.objectives.objective import Batch
from pinxit.recipes.recipe import UNMEASURED, Context, Recipe, Run, held_batches
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.prior_drawing import PriorDrawer
from pinxit.text.tokenizer import Tokenizer, frame
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

VALIDATION_BATCH = 256

CHECKED = 128
"""Held back texts for which embeddings are drawn, to see how near they come."""


@dataclass(frozen=True)
class PriorDataConfig:
    """Captions; the pictures are embeddings by now."""

    validation: int = 512
    """Pictures held back for validation, though never more than a tenth of all."""
    captions: Mapping[str, float] = field(default_factory=lambda: {"alt": 0.25, "short": 1.0, "long": 1.0})
    """Weights of the kinds of captions."""
    bpe_dropout: float = 0.1
    """Probability of passing over a merge, so that one caption is spelt in many ways."""
    caption_dropout: float = 0.1
    """The share of captions left out, so that guidance has something to compare with."""


@dataclass(frozen=True)
class Captioned:
    """An encoded sample -> `embedding` d and `ids` l, framed as CLIP reads them."""

    tokenizer: Tokenizer
    length: int
    captions: Mapping[str, float]
    bpe_dropout: float = 0.0
    dropout: float = 0.0

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a caption, or none, and its spelling."""
        ids: list[int] = []
        if rng.random() >= self.dropout:
            caption = draw_caption(sample.key, sample.captions, self.captions, rng)
            ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, random.Random(int(rng.integers(2**63))))
        framed = frame([ids], self.length, self.tokenizer.start_id, self.tokenizer.end_id)[0]
        return {"embedding": sample.codes, "ids": framed}


class Given(nn.Module):
    """What the loss is about: embeddings in the prior's units, and texts as its frozen CLIP reads them."""

    def __init__(self, clip: CLIP, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, batch: Batch) -> tuple[Tensor, Read]:
        """A batch of `Captioned` -> values b d, and b texts."""
        with torch.no_grad():
            return (batch["embedding"] - self.mean) / self.std, read(self.clip, batch["ids"])


def load_embeddings(recipe: Recipe, context: Context) -> Encoded:  # noqa: ARG001
    """The embeddings that the stage before has kept."""
    encoded = Encoded.load(context.part("embeddings"))
    if encoded.codes is not None or len(encoded.shape) != 1:
        raise PinxitError(
            f"{context.part('embeddings')} holds codes. A prior learns from embeddings, encoded by a CLIP."
        )
    return encoded


def build_prior(recipe: Recipe, context: Context, encoded: Encoded) -> Run:
    """A diffusion prior over the embeddings of one CLIP."""
    clip = CLIPSystem.from_checkpoint(context.model("clip"), torch.device("cpu"))
    model, data, known = recipe.model, recipe.data, clip.clip.config
    assert isinstance(model, PriorConfig)
    if encoded.shape != clip.shape:
        raise PinxitError(
            f"The embeddings have {encoded.shape[0]} numbers, those of {context.model('clip')} {clip.shape[0]}."
        )
    config = replace(model, embedding=clip.shape[0], length=known.text.length, text_width=known.text.width)
    training, held = encoded.hold_back(data.validation)
    rows = torch.from_numpy(training.values.astype(np.float32))
    prior = Prior(config)
    prior.mean.copy_(rows.mean(0))
    prior.std.copy_(rows.std(0).clamp_min(1e-4))
    plain = Captioned(clip.tokenizer, known.text.length, data.captions)
    validation = held_batches(held, plain, VALIDATION_BATCH)
    given = Given(clip.clip, prior.mean.clone(), prior.std.clone())
    return Run(
        objective=Denoising(
            prior,
            config.process,
            recipe.objective,
            check=_checker(prior, clip, given, held, validation),
            name="prior",
            given=given,
        ),
        samples=training,
        transform=replace(plain, bpe_dropout=data.bpe_dropout, dropout=data.caption_dropout),
        config={"kind": "prior", "config": to_config(config), "clip": clip.fingerprint},
        validation=validation,
    )


def _checker(
    prior: Prior, clip: CLIPSystem, given: Given, held: Encoded, validation: Callable[[], Any] | None
) -> Callable[[float | None], dict[str, float]] | None:
    """Tells the prior how far off it is, and sees how near what it draws comes to the pictures held back."""
    if validation is None:
        return None
    some = range(min(CHECKED, len(held)))
    texts = [next(iter(held.captions_at(i).values()))[0] for i in some]
    wanted = torch.from_numpy(held.values[: len(some)].astype(np.float32))

    def check(lag: float | None) -> dict[str, float]:
        prior.errors.copy_(prior_errors(prior, given, validation()))
        return prior_health(PriorDrawer(prior, clip), texts, wanted, lag)

    return check


def dalle2_prior() -> Recipe:
    """For small pictures' CLIPs."""
    return Recipe(
        name="dalle2-prior",
        summary="unCLIP's diffusion prior: from a text to the CLIP embedding of a picture of it.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        model=PriorConfig(
            embedding=128,
            length=64,
            text_width=128,
            width=256,
            depth=6,
            heads=4,
            process=ProcessConfig(DiscreteConfig("cosine"), target="x0"),
        ),
        objective=DenoisingConfig(),
        data=PriorDataConfig(),
        optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.96), weight_decay=0.06, warmup=200, floor=0.02),
        training=TrainingConfig(steps=5_000, batch_size=256, ema_decay=0.999),
        learns_from=load_embeddings,
        build=build_prior,
        needs=("embeddings", "clip"),
        captioned=True,
    )


def dalle2_prior_tiny() -> Recipe:
    """The same over the CLIP of `clip-tiny`, in seconds."""
    recipe = dalle2_prior()
    return replace(
        recipe,
        name="dalle2-prior-tiny",
        summary="The recipe dalle2-prior for pictures of 32 pixels, in seconds.",
        hardware="1 core",
        model=replace(recipe.model, width=64, depth=2, heads=2),
        data=PriorDataConfig(captions={"short": 1.0}, bpe_dropout=0.0, validation=64),
        optimizer=replace(recipe.optimizer, warmup=20),
        training=replace(recipe.training, steps=300, batch_size=64, ema_decay=0.98),
    )
