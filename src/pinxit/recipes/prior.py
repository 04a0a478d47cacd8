"""unCLIP's priors: from texts to the CLIP embeddings of pictures of them, which were encoded once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pinxit.checkpoints.files import to_config
from pinxit.data.sample import BadSample, draw_caption
from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.evaluation.prior_health import prior_errors, prior_health
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.models.ar_prior import ARPrior, ARPriorConfig
from pinxit.models.clip import CLIP
from pinxit.models.prior import Prior, PriorConfig, Read, read
from pinxit.objectives.denoising import Denoising, DenoisingConfig
from pinxit.objectives.next_token import NextToken, NextTokenConfig
from pinxit.objectives.objective import Batch, Raw
from pinxit.recipes.recipe import UNMEASURED, Context, Recipe, Run, held_batches
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.prior_drawing import PriorDrawer
from pinxit.text.tokenizer import Tokenizer, frame
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

VALIDATION_BATCH = 256

CHECKED = 128
"""Held back texts for which embeddings are drawn, to see how near they come."""


NEAR = 4_096
"""Pictures that tell how near texts are."""


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
            ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, rng)
        framed = frame([ids], self.length, self.tokenizer.start_id, self.tokenizer.end_id)[0]
        return {"embedding": sample.codes, "ids": framed}


class Given(nn.Module):
    """What the loss is about: embeddings in the prior's units, and texts as its frozen CLIP reads them."""

    def __init__(self, clip: CLIP, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, batch: Batch, training: bool) -> tuple[Tensor, Read]:  # noqa: ARG002
        """A batch of `Captioned` -> values b d, and b texts."""
        with torch.no_grad():
            return (batch["embedding"] - self.mean) / self.std, read(self.clip, batch["ids"])


class ARGiven(nn.Module):
    """What the loss of an autoregressive prior is about: codes of embeddings, and what is told before them."""

    def __init__(self, prior: ARPrior, clip: CLIP, dropout: float) -> None:
        super().__init__()
        self.prior, self.clip, self.dropout = prior, clip, dropout

    def forward(self, batch: Batch, training: bool) -> tuple[Tensor, Tensor]:
        """A batch of `Captioned` -> conditions b l+2+d, and codes b k. In training some conditions are left out."""
        prior, ids, rows = self.prior, batch["ids"], batch["embedding"]
        with torch.no_grad():
            texts = self.clip.encode_text(ids)
            condition = prior.condition(ids, prior.nearness((rows * texts).sum(1)), texts)
            if training:
                dropped = torch.rand(len(rows), 1, device=rows.device) < self.dropout
                condition = torch.where(dropped, prior.transformer.no_condition(len(rows)), condition)
            return condition, prior.encode(rows)


def load_embeddings(recipe: Recipe, context: Context) -> Encoded:  # noqa: ARG001
    """The embeddings that the stage before has kept."""
    encoded = Encoded.load(context.part("embeddings"))
    if encoded.codes is not None or len(encoded.shape) != 1:
        raise PinxitError(
            f"{context.part('embeddings')} holds codes. A prior learns from embeddings, encoded by a CLIP."
        )
    return encoded


@dataclass(frozen=True)
class Prepared:
    """What both priors learn from."""

    clip: CLIPSystem
    training: Encoded
    held: Encoded
    rows: Tensor
    """All embeddings to train on, n d."""
    plain: Captioned


def prepared(context: Context, data: PriorDataConfig, encoded: Encoded) -> Prepared:
    """Embeddings, and the CLIP that made them."""
    clip = CLIPSystem.from_checkpoint(context.model("clip"), torch.device("cpu"))
    if encoded.shape != clip.shape or encoded.encoder not in (None, clip.fingerprint):
        raise PinxitError(
            f"{context.part('embeddings')} holds embeddings of {encoded.shape[0]} numbers by the CLIP "
            f"{encoded.encoder}; {context.model('clip')} makes {clip.shape[0]} and is {clip.fingerprint}. Give the "
            "CLIP that made them."
        )
    training, held = encoded.hold_back(data.validation)
    rows = torch.from_numpy(training.values.astype(np.float32))
    return Prepared(clip, training, held, rows, Captioned(clip.tokenizer, clip.clip.config.text.length, data.captions))


def build_prior(recipe: Recipe, context: Context, encoded: Encoded) -> Run:
    """A diffusion prior over the embeddings of one CLIP."""
    data, made = recipe.data, prepared(context, recipe.data, encoded)
    known, model = made.clip.clip.config, recipe.model
    assert isinstance(model, PriorConfig)
    if not model.unit:
        raise PinxitError("model.unit=false is for public weights: embeddings are kept at length 1. Leave it true.")
    config = replace(model, embedding=known.width, length=known.text.length, text_width=known.text.width)
    prior = Prior(config)
    prior.mean.copy_(made.rows.mean(0))
    prior.std.copy_(made.rows.std(0).clamp_min(1e-4))
    validation = held_batches(made.held, made.plain, VALIDATION_BATCH)
    given = Given(made.clip.clip, prior.mean.clone(), prior.std.clone())
    return Run(
        objective=Denoising(
            prior,
            config.process,
            recipe.objective,
            check=_checker(prior, made, given, validation),
            name="prior",
            given=given,
        ),
        samples=made.training,
        transform=replace(made.plain, bpe_dropout=data.bpe_dropout, dropout=data.caption_dropout),
        config={"kind": "prior", "config": to_config(config), "clip": made.clip.fingerprint},
        validation=validation,
    )


def build_ar_prior(recipe: Recipe, context: Context, encoded: Encoded) -> Run:
    """An autoregressive prior over the same."""
    data, made = recipe.data, prepared(context, recipe.data, encoded)
    known, model = made.clip.clip.config, recipe.model
    assert isinstance(model, ARPriorConfig)
    config = replace(
        model,
        embedding=known.width,
        length=known.text.length,
        vocabulary=known.text.vocab_size,
        dimensions=min(model.dimensions, known.width),
    )
    prior = ARPrior(config)
    prior.fit(made.rows, _dots(made))
    return Run(
        objective=NextToken(
            prior, recipe.objective, name="ar_prior", given=ARGiven(prior, made.clip.clip, data.caption_dropout)
        ),
        samples=made.training,
        transform=replace(made.plain, bpe_dropout=data.bpe_dropout),
        config={"kind": "ar_prior", "config": to_config(config), "clip": made.clip.fingerprint},
        validation=held_batches(made.held, made.plain, VALIDATION_BATCH),
    )


def _dots(made: Prepared) -> Tensor:
    """How near some pictures are to their texts."""
    count = min(len(made.training), NEAR)
    texts = captioned(made.training, [i * len(made.training) // count for i in range(count)], made.plain.captions)
    return (made.clip.encode_text(list(texts.values())) * made.rows[list(texts)]).sum(1)


def captioned(encoded: Encoded, places: Sequence[int], kinds: Mapping[str, float]) -> dict[int, str]:
    """Place -> a caption of one of the kinds; samples without one are left out."""
    found, rng = {}, np.random.default_rng(0)
    for place in places:
        with contextlib.suppress(BadSample):
            found[place] = draw_caption(encoded.keys[place], encoded.captions_at(place), kinds, rng)
    return found


def _checker(
    prior: Prior, made: Prepared, given: Given, validation: Callable[[], Any] | None
) -> Callable[[float | None, Raw | None], dict[str, float]] | None:
    """Tells the prior how far off it is, and sees how near what it draws comes to the pictures held back."""
    if validation is None:
        return None
    held, clip = made.held, made.clip
    texts = captioned(held, range(min(CHECKED, len(held))), made.plain.captions)
    wanted = torch.from_numpy(held.values[list(texts)].astype(np.float32))

    def check(lag: float | None, raw: Raw | None) -> dict[str, float]:  # noqa: ARG001
        prior.errors.copy_(prior_errors(prior, lambda batch: given(batch, False), validation()))
        return prior_health(PriorDrawer(prior, clip), list(texts.values()), wanted, lag)

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
        optimizer=OptimizerConfig(
            lr=4e-3, betas=(0.9, 0.96), matrices="muon", weight_decay=0.06, warmup=100, floor=0.02
        ),
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


def dalle2_ar_prior() -> Recipe:
    """Over the same embeddings."""
    recipe = dalle2_prior()
    return replace(
        recipe,
        name="dalle2-ar-prior",
        summary="unCLIP's autoregressive prior: the same, number by number over the principal components.",
        model=ARPriorConfig(
            embedding=128,
            length=64,
            vocabulary=2_048,
            dimensions=48,
            buckets=64,
            width=256,
            depth=6,
            heads=4,
        ),
        objective=NextTokenConfig(),
        optimizer=OptimizerConfig(lr=4e-3, betas=(0.9, 0.96), matrices="muon", weight_decay=0.045, warmup=100),
        build=build_ar_prior,
    )


def dalle2_ar_prior_tiny() -> Recipe:
    """The same over the CLIP of `clip-tiny`, in seconds."""
    recipe, tiny = dalle2_ar_prior(), dalle2_prior_tiny()
    return replace(
        recipe,
        name="dalle2-ar-prior-tiny",
        summary="The recipe dalle2-ar-prior for pictures of 32 pixels, in seconds.",
        hardware="1 core",
        model=replace(recipe.model, dimensions=24, buckets=32, dots=16, width=64, depth=2, heads=2),
        data=tiny.data,
        optimizer=tiny.optimizer,
        training=tiny.training,
    )
