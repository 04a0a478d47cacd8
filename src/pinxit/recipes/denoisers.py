"""Networks that tell noise from pictures: what a recipe learns from, and how it is put together.

The recipes themselves are those of each system: `ddpm`, `adm`, `glide`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import from_config, read_config, read_tensors, to_config
from pinxit.data.augment import random_mask
from pinxit.data.degrade import Damage, degraded
from pinxit.data.images import grid, to_pil
from pinxit.data.sample import BadSample, Pairs, Sample
from pinxit.diffusion.process import roughened
from pinxit.diffusion.schedules import at_most
from pinxit.errors import PinxitError
from pinxit.evaluation.health import health
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig, widened
from pinxit.models.text_encoder import TextEncoderConfig
from pinxit.objectives.denoising import Denoising, pictures
from pinxit.objectives.objective import Batch, Raw
from pinxit.progress import shown
from pinxit.recipes.codecs import PictureDataConfig, Pixels
from pinxit.recipes.conditions import PREVIEWS, LabelDataConfig, Labels, TextDataConfig, Texts, prompts_of
from pinxit.recipes.recipe import Context, Part, Recipe, Run, changes, held_batches, hold_back
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import LabelCondition
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

VALIDATION_BATCH = 64

CHECKED = 8
"""Samples that tell how a network is doing."""

Given = Callable[[Batch, bool], tuple[Tensor, Conditioning]]
"""A batch, and whether it is one to learn from -> its pixels, and what is asked."""

LOOKED_AT = 64
"""Pictures whose size tells whether there are any that a network can learn to draw."""

PREVIEW_STEPS = 20
"""Of previews, by a quick sampler."""


@dataclass(frozen=True)
class DrawingDataConfig(PictureDataConfig):
    """Pictures alone."""

    crop: float = 1.0
    flip: bool = False
    low_damage: Damage = "none"
    """For a network that enlarges: how the small pictures that it learns from are worse than pictures made smaller, but
    for noise: some blurred, or as BSR has it."""
    window: float = 1.0
    """The side of the part that is learnt from at once, as a share of the picture's: a network that enlarges, and knows
    neither attention nor positions, learns the same from quarters (Ramesh et al. 2022, section 2.3)."""
    known_dropout: float = 0.125
    """For a network that is shown a part of the picture: the share of those of which it is shown nothing."""
    embedding_dropout: float = 0.1
    """For a network that draws of embeddings: the share of them left out."""
    guidance: float = 3.0
    """By which previews are led, where there is something to draw for."""


@dataclass(frozen=True)
class TextDrawingDataConfig(DrawingDataConfig, TextDataConfig):
    """Pictures with their captions."""


@dataclass(frozen=True)
class LabelDrawingDataConfig(DrawingDataConfig, LabelDataConfig):
    """Pictures with their classes."""


@dataclass(frozen=True)
class Example:
    """A sample -> `pixels` 3 h w, and what a `Conditioning` holds of it, by its names there."""

    pixels: Pixels
    words: Texts | Labels | None = None
    low: int | None = None
    low_noise: float | None = None
    low_damage: Damage = "none"
    window: float = 1.0
    known: bool = False
    known_dropout: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a colour, a crop, a caption, a mask, and how noisy the small picture is."""
        if self.low and min(sample.image.size) < self.pixels.size:
            high, wide = sample.image.height, sample.image.width
            raise BadSample(
                sample.key,
                "too-small",
                f"{sample.key!r} is {wide} x {high} pixels; to learn to enlarge takes {self.pixels.size} a side.",
            )
        sample = self.pixels.coloured(sample, rng)
        made = self.pixels.cut(sample, rng)
        if isinstance(self.words, Texts):
            made["ids"] = self.words.ids(sample, rng)
        elif self.words:
            made["labels"] = self.words.ids(sample, rng)[0]
        if self.low:
            factor = made["pixels"].shape[-1] // self.low
            if self.window < 1:
                side = round(self.window * self.low)
                own = [
                    slice(factor * start, factor * (start + side)) for start in rng.integers(0, self.low - side + 1, 2)
                ]
                made["pixels"] = made["pixels"][:, own[0], own[1]].contiguous()
            small = degraded(made["pixels"], factor, self.low_damage, rng)
            if self.low_noise is not None:
                noise = torch.from_numpy(rng.standard_normal(small.shape, np.float32))
                made["low_level"] = torch.tensor(rng.uniform(0, self.low_noise), dtype=torch.float32)
                small = roughened(small[None], noise, made["low_level"][None])[0]
            made["low"] = small
        if self.known:
            mask = random_mask(made["pixels"].shape[-1], self.known_dropout, rng)
            made |= {"known": made["pixels"], "mask": torch.from_numpy(mask)}
        return made


class Seen(nn.Module):
    """What the loss is about, with the embeddings that a frozen CLIP has of the pictures, but for some left out."""

    def __init__(self, clip: CLIPSystem, dropout: float, *, unit: bool) -> None:
        super().__init__()
        self.clip, self.dropout, self.unit = clip.clip, dropout, unit

    def forward(self, batch: Batch, training: bool) -> tuple[Tensor, Conditioning]:
        """A batch -> its pixels, and what is asked, without some embeddings in training."""
        pixels, asked = pictures(batch, training)
        with torch.no_grad():
            side = self.clip.config.vision.size
            seen = pixels if pixels.shape[-1] == side else F.interpolate(pixels, side, mode="bicubic", antialias=True)
            embedding = self.clip.encode_image(seen, unit=self.unit)
            if training:
                embedding = embedding * (torch.rand(len(embedding), 1, device=embedding.device) >= self.dropout)
        return pixels, replace(asked, embedding=embedding)


def open_pictures(recipe: Recipe, context: Context) -> Pairs:
    """The pictures, at the size of the recipe's network."""
    return context.pairs(recipe.data, recipe.model.unet.size)


@dataclass(frozen=True)
class Words:
    """What pictures are drawn for."""

    plain: Texts | Labels | None = None
    varied: Texts | Labels | None = None
    """As training has them."""
    previews: Conditioning = field(default_factory=Conditioning)
    """What previews show, and what guidance leads them away from."""
    away: Conditioning | None = None
    text: TextEncoderConfig | None = None
    """With the ids that there are."""
    labels: tuple[str, ...] = ()

    @property
    def said(self) -> dict[str, Any]:
        """What config.json says of them."""
        return {"labels": list(self.labels)} if self.labels else {}

    @property
    def tokenizer(self) -> str | None:
        """The text of tokenizer.json."""
        return self.plain.tokenizer.to_json() if isinstance(self.plain, Texts) else None


def words_of(
    data: DrawingDataConfig,
    text: TextEncoderConfig | None,
    pairs: Pairs,
    training: Part,
    held: Part,
    like: Path | None = None,
) -> Words:
    """Texts, classes or nothing, as the data config says, by the tokenizer of the network in the folder `like`.

    Raises PinxitError where that knows other classes.
    """
    if isinstance(data, TextDrawingDataConfig):
        if text is None:
            raise PinxitError("This recipe learns from captions; model.text says how they are read. Give one.")
        if like and (like / "tokenizer.json").is_file():
            texts = Texts(Tokenizer.load(like / "tokenizer.json"), text.length, data.captions)
        else:
            texts = Texts.learnt(data, training, text.vocabulary, text.length, None)
        previews, away = (Conditioning(ids=texts.condition(some)) for some in (prompts_of(data.prompts, held), ("",)))
        known = replace(text, vocabulary=texts.tokenizer.vocab_size)
        return Words(texts, texts.varied(data), previews, away, text=known)
    if isinstance(data, LabelDrawingDataConfig):
        labels = Labels.told(data, metas_of(pairs))
        others = read_config(like).get("labels") if like else None
        if others and tuple(others) != labels.names:
            raise PinxitError(
                f"{like} knows {len(others)} classes ({others[0]!r} to {others[-1]!r}), by {data.label!r} here are "
                f"{len(labels.names)} others ({labels.names[0]!r} to {labels.names[-1]!r})."
            )
        condition = LabelCondition(labels.names)
        previews, away = (Conditioning(labels=condition(names)[:, 0]) for names in (labels.shown, ("",)))
        varied = replace(labels, dropout=data.label_dropout)
        return Words(labels, varied, previews, away, labels=labels.names)
    return Words()


def build_denoiser(recipe: Recipe, context: Context, pairs: Pairs) -> Run:
    """A denoiser for what its data config says: texts, classes or nothing."""
    config, data = recipe.model, recipe.data
    assert isinstance(config, DenoiserConfig)
    assert isinstance(data, DrawingDataConfig)
    _check_window(config, data.window)
    training, held = hold_back(pairs, data.validation)
    start = _start(context) if "start" in recipe.takes and "start" in context.parts else None
    like = context.model("base") if "base" in recipe.needs else start
    words = words_of(data, config.text, pairs, training, held, like)
    if words.text:
        config = replace(config, text=words.text)
    if words.labels:
        config = replace(config, classes=len(words.labels))
    given: Given = pictures
    said = dict(words.said)
    if config.embedding:
        clip = CLIPSystem.from_checkpoint(context.model("clip"), torch.device("cpu"))
        config = replace(config, embedding=clip.shape[0])
        given, said["clip"] = Seen(clip, data.embedding_dropout, unit=config.unit), clip.fingerprint
    network = Denoiser(config)
    if start:
        _go_on(network, start)
    size = config.unet.size
    plain = Example(
        Pixels(size),
        words.plain,
        config.low,
        0.0 if config.low_noise else None,
        window=data.window,
        known=config.known,
        known_dropout=data.known_dropout,
    )
    example = replace(
        plain,
        pixels=Pixels(size, data.crop, data.flip, data.recolour),
        words=words.varied,
        low_noise=config.low_noise or None,
        low_damage=data.low_damage,
    )
    validation = held_batches(held, plain, VALIDATION_BATCH)
    paint = _painter(network, words, getattr(data, "prompts", ()), data.guidance, validation, given)
    return Run(
        objective=Denoising(
            network, config.process, recipe.objective, paint, _checker(network, validation, given), given=given
        ),
        samples=training,
        transform=example,
        config={"kind": "denoiser", "config": to_config(config), **said},
        validation=validation,
        tokenizer=words.tokenizer,
    )


def _check_window(config: DenoiserConfig, window: float) -> None:
    """Raises PinxitError where a network cannot learn from parts of pictures, or from such."""
    if window == 1:
        return
    if not (config.local and config.low):
        raise PinxitError(
            f"data.window={window}: parts of pictures are for a network that enlarges, without attention, positions or "
            "what tells of whole pictures. Give 1."
        )
    unet = config.unet
    side = round(window * config.low) * (unet.size // config.low)
    if not 0 < window < 1 or side < 1 or side % unet.factor:
        raise PinxitError(
            f"data.window={window} makes parts of {side} of {unet.size} pixels; give a share whose parts are a "
            f"multiple of {unet.factor}."
        )


def _start(context: Context) -> Path:
    """The folder of the network that training starts from: that which was given, or the base in it."""
    folder = context.model("start")
    base = catalogue.part(folder, "base")
    return base if (base / "config.json").is_file() else folder


def _go_on(network: Denoiser, folder: Path) -> None:
    """From the weights of a network that is alike, but for what it is shown beside the noisy picture."""
    begun = from_config(DenoiserConfig, read_config(folder).get("config", {}))
    try:
        network.load_state_dict(widened(read_tensors(folder, "denoiser"), network))
    except RuntimeError:
        differs = changes(to_config(begun), to_config(network.config)).items()
        told = "; ".join(f"{name} is {was} there and {new} here" for name, (was, new) in list(differs)[:5])
        raise PinxitError(
            f"Training cannot start from {folder}, whose network is another: {told}. Give one that is alike."
        ) from None
    if begun.process.target != (target := network.config.process.target):
        logger.warning(
            "Training starts from a network that tells %s, and has to learn to tell %s.", begun.process.target, target
        )


def large_enough(recipe: Recipe, context: Context) -> None:
    """Raises PinxitError where of some pictures, spread over all, none has the size that is to be drawn."""
    pairs, size = open_pictures(recipe, context), recipe.model.unet.size
    sides: list[int] = []
    for index in range(0, len(pairs), max(1, -(-len(pairs) // LOOKED_AT))):
        with contextlib.suppress(BadSample):
            sides.append(min(pairs[index].image.size))
    if max(sides, default=size) < size:
        raise PinxitError(
            f"{recipe.name} learns to draw {size} pixels a side, the largest of {len(sides)} pictures has {max(sides)}."
            f" Give larger ones, or what is trained already: --part {context.out.name}=MODEL."
        )


def with_classes(recipe: Recipe, context: Context) -> None:
    """Raises PinxitError where none of some pictures, spread over all, has the label whose values are to be classes."""
    pairs: Pairs = recipe.learns_from(recipe, context)  # type: ignore[assignment]
    places = range(0, len(pairs), max(1, -(-len(pairs) // LOOKED_AT)))
    some = metas_of(Part(pairs, tuple(places)))
    if not any(str(meta.get(recipe.data.label, "")).strip() for meta in some):
        fields = ", ".join(sorted({name for meta in some for name in meta})) or "nothing"
        raise PinxitError(
            f"{recipe.name}: none of {len(some)} pictures looked at has data.label={recipe.data.label}, whose values "
            f"would be classes. The source says of its pictures: {fields}. Give every stage that learns classes one of "
            "these: --set STAGE.data.label=NAME."
        )


def metas_of(pairs: Pairs) -> list[Mapping[str, Any]]:
    """What the source says of each picture that can be read; the others are counted and named by whoever reads them."""
    found: list[Mapping[str, Any]] = []
    with shown("looking for classes") as progress:
        for index in range(len(pairs)):
            with contextlib.suppress(BadSample):
                found.append(pairs.meta_at(index))
            progress(index + 1, len(pairs))
    return found


def _checker(
    network: Denoiser,
    validation: Callable[[], Any] | None,
    given: Given,
) -> Callable[[float | None, Raw | None], dict[str, float]] | None:
    """Looks at samples for what held back pictures show."""
    if validation is None:
        return None
    pixels, asked = given({name: value[:CHECKED] for name, value in next(iter(validation())).items()}, False)
    return lambda lag, raw: health(NoiseDrawer(network), asked, pixels, lag, raw)


def _painter(
    network: Denoiser,
    words: Words,
    prompts: tuple[str, ...],
    guidance: float,
    validation: Callable[[], Any] | None,
    given: Given,
) -> Callable[[], Image.Image | None]:
    """Draws the previews: always the same prompts, or pictures held back, and the same noise."""
    config, previews, away = network.config, words.previews, words.away
    if config.low or config.known or config.embedding:
        if prompts:
            raise PinxitError(
                "data.prompts: the previews of a network that is shown pictures are of those held back. Leave it out."
            )
        if validation is None:
            return lambda: None
        batch = {name: value[:PREVIEWS] for name, value in next(iter(validation())).items()}
        previews = given(batch, False)[1]
        if previews.embedding is not None:
            away = replace(away or Conditioning(), embedding=network.no_embedding[None])
    rows = next((len(value) for value in vars(previews).values() if value is not None), PREVIEWS)
    led = guidance if away and not config.low else 1.0  # what enlarges is not guided in a cascade either
    how = Drawing("dpm-solver", at_most(PREVIEW_STEPS, config.process.schedule), led)

    def paint() -> Image.Image:
        drawn = NoiseDrawer(network).draw(previews, range(rows), how, away=away)
        return grid([to_pil(picture) for picture in drawn], 8)

    return paint
