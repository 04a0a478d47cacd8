"""Systems that draw tokens, stage by stage: the codes of all pictures, a transformer over them, a folder of all parts.

The codec before them is trained by `recipes.codecs`; the recipes themselves are those of each system.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image

from pinxit.checkpoints.files import read_config, read_tensors, replace_folder, to_config, write_config, write_tensors
from pinxit.data.augment import moved
from pinxit.data.images import Colour, grid
from pinxit.data.loader import Transform
from pinxit.data.recolour import recolour, recolourable
from pinxit.data.sample import BadSample, Captions, Pairs, Sample, draw_caption
from pinxit.errors import PinxitError, unknown
from pinxit.jobs import encode
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig
from pinxit.objectives.masked_tokens import MaskedTokens, MaskedTokensConfig
from pinxit.objectives.next_token import NextToken, NextTokenConfig
from pinxit.objectives.objective import Objective
from pinxit.progress import shown, silent
from pinxit.recipes.clip import train_tokenizer
from pinxit.recipes.codecs import VALIDATION_BATCH
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, held_batches
from pinxit.systems.codec import Codec, read_codec_config
from pinxit.systems.conditions import Condition, NoCondition, TextCondition
from pinxit.systems.system import Settings, check
from pinxit.systems.token_drawing import DEFAULTS, TokenDrawer
from pinxit.text.tokenizer import Tokenizer, pad_per_position

# The codes, once.


@dataclass(frozen=True)
class Versions:
    """Each of the pairs as it is, then `moves` times moved, and where it can be recoloured `colours` times so as well.

    A version is always the same one.
    """

    pairs: Pairs
    moves: int
    colours: int
    background: Colour
    places: tuple[tuple[int, int], ...]
    """Position in the pairs, and the number of the version."""

    @classmethod
    def of(cls, pairs: Pairs, moves: int, colours: int, background: Colour) -> Versions:
        """Looks through the captions for what can be recoloured."""

        def count(index: int) -> int:
            try:
                return 1 + moves + (colours if colours and recolourable(pairs.captions_at(index)) else 0)
            except BadSample:
                return 1

        places = tuple((i, version) for i in range(len(pairs)) for version in range(count(i)))
        return cls(pairs, moves, colours, background, places)

    @property
    def name(self) -> str:
        return self.pairs.name

    @property
    def fingerprint(self) -> str:
        return self.pairs.fingerprint

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        position, version = self.places[index]
        sample = self.pairs[position]
        if version == 0:
            return sample
        rng = np.random.default_rng([position, version])
        if version > self.moves:
            sample = recolour(sample, rng)
        if self.moves:
            image = moved(sample.image, rng, scale=SCALE, shift=SHIFT, background=self.background)
            sample = replace(sample, image=image)
        return replace(sample, key=f"{sample.key}#{version}")

    def captions_at(self, index: int) -> Captions:
        return self[index].captions

    def meta_at(self, index: int) -> Mapping[str, Any]:
        return self[index].meta


SCALE, SHIFT = 0.08, 0.06
"""How far a version is moved: by a few pixels, which changes all its codes."""


@dataclass(frozen=True)
class TokensStage:
    """The codes of all pictures, and of varied versions of them."""

    name: str
    data: DataConfig
    moves: int = 0
    """How many more times a picture is encoded a little moved and scaled; for drawings on a plain ground."""
    colours: int = 0
    """How many more times it is encoded in other colours, where its captions allow that (`data.recolour`)."""
    codec: str = "dvae"
    """The stage before that makes the codes."""
    summary: str = "Encode the pictures once and keep the codes."

    settings: ClassVar[tuple[str, ...]] = ("data", "moves", "colours")

    def done(self, context: Context) -> bool:
        """Whether all codes are there, from this source, these settings and this codec."""
        try:
            made_from = encode.source_of(context.out)
            return made_from is not None and made_from == self._said(context, self._pairs(context))
        except PinxitError:
            return False

    def run(self, context: Context) -> None:
        """Encodes with the pipeline's codec; the processes share out the parts."""
        world = context.world
        pairs = self._pairs(context)
        codec = Codec.from_checkpoint(context.model(self.codec), world.device)
        versions = Versions.of(pairs, self.moves, self.colours, self.data.background)
        said = self._said(context, pairs)
        with shown("encoding") if world.leads else silent("encoding") as progress:
            encode.encode_parts(versions, codec, context.out, said, progress, rank=world.rank, size=world.size)
        world.wait()
        if world.leads:
            encode.conclude(versions, codec, context.out, said)
        world.wait()

    def _pairs(self, context: Context) -> Pairs:
        return context.pairs(self.data, read_codec_config(context.model(self.codec)).size)

    def _said(self, context: Context, pairs: Pairs) -> dict[str, Any]:
        recipe = {"data": to_config(self.data), "moves": self.moves, "colours": self.colours}
        return {"data": context.describe(pairs), "recipe": recipe, "codec": context.fingerprint(self.codec)}


# The transformer over conditions and codes.


@dataclass(frozen=True)
class TextDataConfig:
    """Captions for the transformer; the pictures are codes by now."""

    captions: Mapping[str, float] = field(default_factory=lambda: {"alt": 1.0, "short": 1.0, "long": 1.0})
    """Weights of the kinds of captions."""
    validation: int = 256
    """Pictures held back for validation, though never more than a tenth of all."""
    bpe_dropout: float = 0.1
    """Probability of passing over a merge, so that one caption is spelt in many ways (appendix B)."""
    caption_dropout: float = 0.1
    """The share of captions left out, so that guidance has something to compare with."""
    tokenizer_samples: int = 100_000
    """Samples whose captions the tokenizer is trained on."""
    prompts: tuple[str, ...] = ()
    """What the previews show; captions of pictures held back where there are none."""


@dataclass(frozen=True)
class Stream:
    """An encoded sample -> `condition` l and `image` n, both ids."""

    tokenizer: Tokenizer
    length: int
    captions: Mapping[str, float]
    bpe_dropout: float = 0.0
    caption_dropout: float = 0.0
    pad: int | None = None

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a caption, or none, and its spelling."""
        ids: list[int] = []
        if rng.random() >= self.caption_dropout:
            caption = draw_caption(sample.key, sample.captions, self.captions, rng)
            ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, random.Random(int(rng.integers(2**63))))
        condition = pad_per_position([ids], self.length, self.tokenizer.vocab_size, self.pad)[0]
        return {"condition": condition, "image": sample.codes}


@dataclass(frozen=True)
class CodesDataConfig:
    """Codes alone, without anything to draw them after."""

    validation: int = 256
    """Pictures held back for validation, though never more than a tenth of all."""


@dataclass(frozen=True)
class Alone:
    """An encoded sample -> `condition` l, which is nothing but pads, and `image` n."""

    length: int

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        """Draws nothing."""
        return {"condition": np.arange(self.length), "image": sample.codes}


@dataclass(frozen=True)
class Asked:
    """What a transformer's data brings beside codes."""

    config: TokenTransformerConfig
    """With the ids that there are."""
    training: Transform
    validation: Transform
    condition: Condition
    prompts: tuple[str, ...]
    """Of the previews."""
    tokenizer: str | None = None
    """The text of tokenizer.json."""


def asked_by(config: TokenTransformerConfig, data: Any, training: Encoded, held: Encoded) -> Asked:
    """The conditions that a data config is for."""
    length = config.condition_length
    if isinstance(data, CodesDataConfig):
        alone = Alone(length)
        return Asked(replace(config, condition_vocabulary=0), alone, alone, NoCondition(length), ("",) * PREVIEWS)
    assert isinstance(data, TextDataConfig)
    tokenizer = train_tokenizer(training, config.condition_vocabulary, data.captions, data.tokenizer_samples)
    plain = Stream(tokenizer, length, data.captions, pad=config.pad)
    shorts = (held.captions_at(i) for i in range(len(held)))
    return Asked(
        replace(config, condition_vocabulary=tokenizer.vocab_size),
        replace(plain, bpe_dropout=data.bpe_dropout, caption_dropout=data.caption_dropout),
        plain,
        TextCondition(tokenizer, length, config.pad),
        data.prompts or tuple(next(iter(captions.values()))[0] for captions in islice(shorts, PREVIEWS)),
        tokenizer.to_json(),
    )


PREVIEWS = 16


def build_transformer(recipe: Recipe, context: Context, encoded: Encoded, *, codec: str = "dvae") -> Run:
    """The transformer over the codes that the stage before has kept; `codec` is the stage that made them."""
    model, wanted = recipe.model, recipe.objective
    assert isinstance(model, TokenTransformerConfig)
    if (model.image_vocabulary, model.grid) != (encoded.codes, encoded.shape):
        raise PinxitError(
            f"The codes are {encoded.shape} of {encoded.codes}, the transformer expects {model.grid} of "
            f"{model.image_vocabulary}. Set model.grid and model.image_vocabulary to fit."
        )
    if (model.order == "masked") != isinstance(wanted, MaskedTokensConfig):
        raise PinxitError(
            f"model.order={model.order} does not go with {type(wanted).__name__}: the network would be shown what it "
            "is to tell. The recipes maskgit-transformer and taming-transformer have what goes together."
        )
    draws = Codec.from_checkpoint(context.model(codec), torch.device("cpu"))
    training, held = encoded.hold_back(recipe.data.validation)
    asked = asked_by(model, recipe.data, training, held)
    network = TokenTransformer(asked.config)

    def paint() -> Image.Image | None:
        if not asked.prompts:
            return None
        seeds, settings = range(len(asked.prompts)), Settings(**{**DEFAULTS, "top_p": 0.95})
        codes = TokenDrawer(network).draw(asked.condition(asked.prompts), seeds, settings)
        return grid(draws.decode(codes.cpu()), 8)

    objective: Objective
    if isinstance(wanted, MaskedTokensConfig):
        objective = MaskedTokens(network, wanted, paint)
    else:
        assert isinstance(wanted, NextTokenConfig)
        objective = NextToken(network, wanted, paint)
    return Run(
        objective=objective,
        samples=training,
        transform=asked.training,
        config={"kind": "token_transformer", "config": to_config(asked.config)},
        validation=held_batches(held, asked.validation, VALIDATION_BATCH),
        tokenizer=asked.tokenizer,
    )


# The system: all parts in one folder.


@dataclass(frozen=True)
class ModelStage:
    """One folder with all that drawing needs, in half precision."""

    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling settings that this model draws best with."""
    licence: str = "that of the training pictures"
    card: str = "# DALL·E 1\n"
    """The model's card, in Markdown."""
    kind: str = "dalle1"
    """Of the system that the parts make."""
    parts: tuple[str, ...] = ("dvae", "clip", "transformer")
    """The stages whose products go in, each under its name."""
    summary: str = "Put all parts into one folder."

    settings: ClassVar[tuple[str, ...]] = ("defaults", "licence")

    def __post_init__(self) -> None:
        for name in self.defaults:
            if name not in DEFAULTS:
                raise unknown("sampling setting", name, DEFAULTS)
        check(1, 0, cast("Settings", self.defaults))

    def done(self, context: Context) -> bool:
        """Whether the folder holds these very parts and says the same of them."""
        try:
            config, said = read_config(context.out), self._said(context)
            card = (context.out / "README.md").read_text(encoding="utf-8")
        except (PinxitError, OSError):
            return False
        return {name: config.get(name) for name in said} == said and card == self.card

    def run(self, context: Context) -> None:
        """Copies the parts."""
        if context.world.leads:
            folders = {part: context.model(part) for part in self.parts}
            with replace_folder(context.out) as partial:
                write_config(partial, {"kind": self.kind, "parts": list(folders), **self._said(context)})
                (partial / "README.md").write_text(self.card, encoding="utf-8")
                for part, folder in folders.items():
                    _copy_part(folder, partial / part)
        context.world.wait()

    def _said(self, context: Context) -> dict[str, Any]:
        made_from = {part: context.fingerprint(part) for part in self.parts}
        return {"defaults": dict(self.defaults), "licence": self.licence, "made_from": made_from}


def _copy_part(source: Path, target: Path) -> None:
    target.mkdir()
    write_config(target, read_config(source))
    for file in sorted(source.glob("*.safetensors")):
        write_tensors(target, file.stem, read_tensors(source, file.stem), torch.float16)
    if (source / "tokenizer.json").exists():
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
