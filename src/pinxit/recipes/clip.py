"""CLIP from a folder of pictures with captions.

    pinxit train clip --data SRC --out runs/clip
    pinxit classify picture.png --labels cat,dog --model runs/clip

The paper's only augmentation, a random crop, and its optimizer but for Muon, by which matrices learn several times as
fast; the tokenizer is trained on the captions first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pinxit.checkpoints.files import to_config
from pinxit.data.augment import crop_square
from pinxit.data.images import to_tensor
from pinxit.data.recolour import recolour
from pinxit.data.sample import BadSample, Captions, Pairs, Sample, draw_caption
from pinxit.diffusion.process import Process
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, SIZES, CLIPConfig
from pinxit.objectives.contrastive import Contrastive
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, held_batches, hold_back
from pinxit.text.captions import clean, key
from pinxit.text.tokenizer import Tokenizer, frame
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

VALIDATION_BATCH = 256
"""Recall depends on how many there are to choose among."""


@dataclass(frozen=True)
class CLIPDataConfig(DataConfig):
    """Pictures, captions and how they are varied."""

    validation: int = 256
    """Pictures held back for validation, though never more than a tenth of all."""
    captions: Mapping[str, float] = field(default_factory=lambda: {"alt": 0.25, "short": 1.0, "long": 1.0})
    """Weights of the kinds of captions."""
    recolour: float = 0.0
    """The share of pictures that are shown in another colour, with a caption that says so (`data.recolour`)."""
    crop: float = 0.9
    """The least share of the centre square that a random crop keeps; 1 crops nothing more."""
    bpe_dropout: float = 0.1
    """Probability of passing over a merge, so that one caption is spelt in many ways."""
    tokenizer_samples: int = 100_000
    """Samples, spread evenly over all, whose captions the tokenizer is trained on."""
    template: str = "{}"
    """What labels are put into, to be like the captions."""

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise PinxitError(f"data.template={self.template} has no {{}} to put the label into.")


@dataclass(frozen=True)
class Pair:
    """A sample -> `pixels` 3 h w, `ids` l, and the keys by which the objective knows repeats."""

    tokenizer: Tokenizer
    size: int
    length: int
    captions: Mapping[str, float]
    crop: float = 1.0
    bpe_dropout: float = 0.0
    recolour: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a colour, a caption, its spelling and a crop."""
        if rng.random() < self.recolour:
            sample = recolour(sample, rng)
        caption = draw_caption(sample.key, sample.captions, self.captions, rng)
        ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, rng)
        return {
            "pixels": to_tensor(crop_square(sample.image, self.size, self.crop, rng)),
            "ids": frame([ids], self.length, self.tokenizer.start_id, self.tokenizer.end_id)[0],
            "caption_key": key(caption.lower()),
            "picture_key": key(sample.key),
        }


class Captioned(Protocol):
    """Whatever has captions, by position."""

    def __len__(self) -> int: ...

    def captions_at(self, index: int) -> Captions: ...


def train_tokenizer(pairs: Captioned, vocab_size: int, captions: Mapping[str, float], samples: int) -> Tokenizer:
    """BPE over the captions, of the kinds that have a weight, of at most `samples` samples spread over all pairs."""

    def texts() -> Iterator[str]:
        step = max(1, -(-len(pairs) // samples))
        for position in range(0, len(pairs), step):
            try:
                found = pairs.captions_at(position)
            except BadSample:
                continue
            for kind, weight in captions.items():
                yield from map(clean, found.get(kind, ()) if weight > 0 else ())

    return Tokenizer.train(texts(), vocab_size)


def build(recipe: Recipe, context: Context, pairs: Pairs) -> Run:
    """Trains the tokenizer, then puts network, objective and both transforms together."""
    asked, data = recipe.model, recipe.data
    assert isinstance(asked, CLIPConfig)
    assert isinstance(data, CLIPDataConfig)
    training, held = hold_back(pairs, data.validation)
    tokenizer = train_tokenizer(training, asked.text.vocab_size, data.captions, data.tokenizer_samples)
    config = asked.with_vocabulary(tokenizer.vocab_size)
    plain = Pair(tokenizer, config.vision.size, config.text.length, data.captions)

    process = recipe.objective
    noise = {"process": to_config(process)} if process else {}

    return Run(
        objective=Contrastive(CLIP(config), Process(process) if process else None),
        samples=training,
        transform=replace(plain, crop=data.crop, bpe_dropout=data.bpe_dropout, recolour=data.recolour),
        config={"kind": "clip", "config": to_config(config), "template": data.template, **noise},
        validation=held_batches(held, plain, VALIDATION_BATCH),
        tokenizer=tokenizer.to_json(),
        card=lambda metrics: card(config, context.source, recipe.licence, metrics),
    )


def card(config: CLIPConfig, source: str, licence: str, metrics: Mapping[str, float]) -> str:
    """The model's card."""
    numbers = "\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items()) or "- none"
    return f"""# CLIP, {config.vision.size} pixels

Trained by pinxit from scratch on `{source}`. Licence of the weights: {licence}.

On {VALIDATION_BATCH} pairs held back from training, or as many as there were:

{numbers}

It knows what its training pictures and captions show, and little else. Write labels and queries as the captions are.
"""


def clip() -> Recipe:
    """A CLIP for 64-pixel pictures, small enough for two cores."""
    return Recipe(
        name="clip",
        summary="CLIP: pictures and texts in one space, to classify, search and rerank.",
        hardware="2 cores",
        hours=1.0,
        expected="on 10,000 emoji, recall at 1 above 0.21 in batches of 256 (chance: 0.004) by step 100 of 3,000",
        model=SIZES["small-64"],
        objective=None,
        data=CLIPDataConfig(),
        optimizer=OptimizerConfig(lr=4e-3, betas=(0.9, 0.98), eps=1e-6, matrices="muon", weight_decay=0.2, warmup=100),
        training=TrainingConfig(steps=3_000, batch_size=256),
        learns_from=lambda recipe, context: context.pairs(recipe.data, recipe.model.vision.size),
        build=build,
        captioned=True,
    )


def clip_tiny() -> Recipe:
    """The same in seconds: 32 pixels, for tests and first tries."""
    return replace(
        clip(),
        name="clip-tiny",
        summary="The recipe clip at 32 pixels, in seconds.",
        hardware="1 core",
        hours=0.005,
        expected="on 2,000 scenes, recall at 1 near 0.3 among 64 held-back pictures (chance: 0.016)",
        model=SIZES["tiny-32"],
        data=CLIPDataConfig(validation=64),
        optimizer=replace(clip().optimizer, warmup=20),
        training=TrainingConfig(steps=100, batch_size=64, ema_decay=0.99),
    )
