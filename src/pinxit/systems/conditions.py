"""What a network over codes draws for: a text, a class, an embedding of CLIP's, another picture, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from pinxit.checkpoints.files import read_config
from pinxit.data.images import fit, opaque
from pinxit.data.views import NAMES, VIEWS, View
from pinxit.errors import PinxitError, unknown
from pinxit.models.text_encoder import TextEncoderConfig
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.token_drawing import CodesNetworkConfig
from pinxit.text.captions import clean
from pinxit.text.tokenizer import ForeignTokenizer, Tokenizer, pad_per_position, read_tokenizer


class Condition(Protocol):
    """Prompts -> what the network is given: ids b l, or vectors b w. An empty prompt asks for nothing in particular."""

    def __call__(self, prompts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class TextCondition:
    """The tokens of the text; shorter ones are padded with `pad`, or the pads of their positions, longer ones cut."""

    tokenizer: Tokenizer | ForeignTokenizer
    length: int
    pad: int | None = None

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Texts -> ids b l."""
        ids = [self.tokenizer.encode_ids(clean(prompt)) for prompt in prompts]
        return torch.from_numpy(pad_per_position(ids, self.length, self.tokenizer.vocab_size, self.pad))


@dataclass(frozen=True)
class LabelCondition:
    """One of some classes, by its name; none in particular is the id after theirs."""

    labels: tuple[str, ...]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Names -> ids b 1."""
        for prompt in prompts:
            if prompt and prompt not in self.labels:
                raise unknown("class", prompt, self.labels)
        return torch.tensor([[self.labels.index(prompt) if prompt else len(self.labels)] for prompt in prompts])


@dataclass(frozen=True)
class EmbeddingCondition:
    """CLIP's embedding of the text, in the place of that of a picture, by which the network has learnt."""

    clip: CLIPSystem

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors b w; zeros for the empty one."""
        asked = torch.tensor([bool(prompt) for prompt in prompts])
        return self.clip.encode_text(list(prompts)) * asked[:, None]


@dataclass(frozen=True)
class NoCondition:
    """Nothing: the network knows pictures alone."""

    length: int

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Empty prompts -> pads b l."""
        if any(prompts):
            raise PinxitError('This model draws without a text. Give an empty prompt, "".')
        return torch.from_numpy(pad_per_position([[]] * len(prompts), self.length, 0))


@dataclass(frozen=True)
class ViewCondition:
    """What a view takes from a picture, by its codes (`data.views`)."""

    view: View
    codec: Codec

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Empty prompts -> pads b l."""
        if any(prompts):
            raise PinxitError(
                f"This model draws from the {NAMES[self.view]} of a picture. Give one: `pinxit translate`."
            )
        assert self.codec.codes is not None
        length = math.prod(self.codec.shape)
        return torch.from_numpy(pad_per_position([[]] * len(prompts), length, self.codec.codes))

    def of(self, image: Image.Image, *, as_it_is: bool = False) -> Tensor:
        """The codes 1 l of the view of a picture; of the picture itself where it is such a view already."""
        image = fit(opaque(image), self.codec.size)
        return self.codec.encode(image if as_it_is else VIEWS[self.view](image)).flatten(1)


def read_text_condition(folder: Path, vocabulary: int, length: int, pad: int | None = None) -> TextCondition:
    """The texts that the network in a checkpoint folder knows, by the tokenizer beside it."""
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    if tokenizer.vocab_size != vocabulary:
        raise PinxitError(f"The tokenizer has {tokenizer.vocab_size} ids, the network knows {vocabulary}.")
    return TextCondition(tokenizer, length, pad)


def read_condition(folder: Path, config: CodesNetworkConfig, codec: Codec, clip: CLIPSystem | None) -> Condition:
    """The condition of the network in a checkpoint folder: it holds a tokenizer, or config.json tells which."""
    if config.condition_vector is not None:
        if clip is None:
            raise PinxitError(f"{folder} draws for embeddings of a CLIP, which is not there.")
        return EmbeddingCondition(clip)
    if (folder / "tokenizer.json").is_file():
        return read_text_condition(folder, config.condition_vocabulary, config.condition_length, config.pad)
    said = read_config(folder)
    if labels := said.get("labels"):
        return LabelCondition(tuple(labels))
    if view := said.get("view"):
        if view not in VIEWS:
            raise unknown("view", str(view), VIEWS)
        return ViewCondition(view, codec)
    return NoCondition(config.condition_length)


def check_alike(folder: Path, text: TextEncoderConfig | None, classes: int | None, base: Condition) -> None:
    """Raises PinxitError where the network in a checkpoint folder reads what `base` knows in another way."""
    told = read_word_condition(folder, text, classes)
    if isinstance(told, TextCondition) and isinstance(base, TextCondition):
        alike = told.length == base.length and told.tokenizer.to_json() == base.tokenizer.to_json()
    else:
        alike = isinstance(told, NoCondition) or told == base
    if not alike:
        raise PinxitError(f"{folder} knows other texts or classes than the base: they were not trained to go together.")


def read_word_condition(folder: Path, text: TextEncoderConfig | None, classes: int | None) -> Condition:
    """Of a network that draws pixels: a text, a class or nothing, by what it reads."""
    if text:
        return read_text_condition(folder, text.vocabulary, text.length)
    if classes:
        labels = read_config(folder).get("labels") or [str(number) for number in range(classes)]
        if len(labels) != classes:
            raise PinxitError(f"{folder} names {len(labels)} classes; its network knows {classes}.")
        return LabelCondition(tuple(labels))
    return NoCondition(0)
