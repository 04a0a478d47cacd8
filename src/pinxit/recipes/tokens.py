"""Systems that draw tokens, stage by stage: the codes of all pictures, a transformer over them, a folder of all parts.

The codec before them is trained by `recipes.codecs`; the recipes themselves are those of each system.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
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
from pinxit.data.recolour import recolour, recolourable
from pinxit.data.sample import BadSample, Captions, Pairs, Sample, draw_caption
from pinxit.errors import PinxitError, unknown
from pinxit.jobs import encode
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.models.token_transformer import Continuation, TokenTransformer, TokenTransformerConfig
from pinxit.objectives.masked_tokens import MaskedTokens, MaskedTokensConfig
from pinxit.objectives.next_token import NextToken, NextTokenConfig
from pinxit.objectives.objective import Objective
from pinxit.progress import shown, silent
from pinxit.recipes.clip import train_tokenizer
from pinxit.recipes.codecs import VALIDATION_BATCH
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, held_batches
from pinxit.systems.codec import Codec, read_codec_config, size_of
from pinxit.systems.system import Settings, check
from pinxit.systems.token_drawing import DEFAULTS, STEPS
from pinxit.text.captions import clean
from pinxit.text.tokenizer import Tokenizer, pad_per_position
from pinxit.tokens.parallel import fill, noise
from pinxit.tokens.sampler import Choice, sample, uniforms

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
        return context.pairs(self.data, size_of(read_codec_config(context.model(self.codec))))

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

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a caption, or none, and its spelling."""
        ids: list[int] = []
        if rng.random() >= self.caption_dropout:
            caption = draw_caption(sample.key, sample.captions, self.captions, rng)
            ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, random.Random(int(rng.integers(2**63))))
        return {"condition": pad_per_position([ids], self.length, self.tokenizer.vocab_size)[0], "image": sample.codes}


def build_transformer(recipe: Recipe, context: Context, encoded: Encoded, *, codec: str = "dvae") -> Run:
    """The transformer over the codes that the stage before has kept; `codec` is the stage that made them."""
    asked, data = recipe.model, recipe.data
    assert isinstance(asked, TokenTransformerConfig)
    assert isinstance(data, TextDataConfig)
    draws = Codec.from_checkpoint(context.model(codec), torch.device("cpu"))
    if (asked.image_vocabulary, asked.grid) != (encoded.codes, encoded.shape):
        raise PinxitError(
            f"The codes are {encoded.shape} of {encoded.codes}, the transformer expects {asked.grid} of "
            f"{asked.image_vocabulary}. Set model.grid and model.image_vocabulary to fit."
        )
    training, held = encoded.hold_back(data.validation)
    tokenizer = train_tokenizer(training, asked.condition_vocabulary, data.captions, data.tokenizer_samples)
    config = replace(asked, condition_vocabulary=tokenizer.vocab_size)
    network = TokenTransformer(config)
    plain = Stream(tokenizer, config.condition_length, data.captions)

    shorts = (held.captions_at(i) for i in range(len(held)))
    prompts = data.prompts or tuple(next(iter(captions.values()))[0] for captions in islice(shorts, 16))

    def paint() -> Image.Image | None:
        return _paint(network, draws, tokenizer, prompts) if prompts else None

    wanted = recipe.objective
    if (asked.order == "masked") != isinstance(wanted, MaskedTokensConfig):
        raise PinxitError(
            f"model.order={asked.order} does not go with {type(wanted).__name__}: the network would be shown what it "
            "is to tell. The recipes maskgit-transformer and taming-transformer have what goes together."
        )
    objective: Objective
    if isinstance(wanted, MaskedTokensConfig):
        objective = MaskedTokens(network, wanted, paint)
    else:
        assert isinstance(wanted, NextTokenConfig)
        objective = NextToken(network, wanted, paint)

    return Run(
        objective=objective,
        samples=training,
        transform=replace(plain, bpe_dropout=data.bpe_dropout, caption_dropout=data.caption_dropout),
        config={"kind": "token_transformer", "config": to_config(config)},
        validation=held_batches(held, plain, VALIDATION_BATCH),
        tokenizer=tokenizer.to_json(),
    )


def _paint(network: TokenTransformer, codec: Codec, tokenizer: Tokenizer, prompts: Sequence[str]) -> Image.Image:
    ids = [tokenizer.encode_ids(clean(prompt)) for prompt in prompts]
    text = torch.from_numpy(pad_per_position(ids, network.config.condition_length, tokenizer.vocab_size))
    text, seeds, choice = text.to(network.condition_position.device), range(len(prompts)), Choice(top_p=0.95)
    count = network.config.image_length
    if network.config.order == "masked":
        hidden = torch.full((len(prompts), count), network.mask_id, device=text.device)
        codes = fill(lambda ids: network(text, ids)[1], hidden, network.mask_id, noise(seeds, STEPS, count), choice)
    else:
        codes = sample(Continuation(network, text), uniforms(seeds, count), choice)
    return grid(codec.decode(codes.cpu().view(-1, *network.config.grid)), 8)


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
