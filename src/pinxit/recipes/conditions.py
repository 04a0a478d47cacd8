"""What a network over codes learns to draw for: texts, classes, embeddings of CLIP's, other pictures, or nothing.

The data config of a recipe says which; `asked_by` makes of it what the network is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pinxit.checkpoints.files import read_config
from pinxit.data.loader import Transform
from pinxit.data.sample import BadSample, Sample, draw_caption
from pinxit.data.views import VIEWS
from pinxit.errors import PinxitError
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.models.token_transformer import TokenTransformerConfig
from pinxit.recipes.clip import Captioned, train_tokenizer
from pinxit.recipes.recipe import Context
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import EmbeddingCondition, LabelCondition, TextCondition
from pinxit.systems.token_drawing import CodesNetworkConfig
from pinxit.text.tokenizer import Tokenizer, pad_per_position

PREVIEWS = 16

MOST = 10_000
"""Classes. What has more different values is no class."""


@dataclass(frozen=True)
class CodesDataConfig:
    """Codes alone, without anything to draw them for."""

    validation: int = 256
    """Pictures held back for validation, though never more than a tenth of all."""


@dataclass(frozen=True)
class TextDataConfig(CodesDataConfig):
    """Captions; the pictures are codes by now."""

    captions: Mapping[str, float] = field(default_factory=lambda: {"alt": 1.0, "short": 1.0, "long": 1.0})
    """Weights of the kinds of captions."""
    bpe_dropout: float = 0.1
    """Probability of passing over a merge, so that one caption is spelt in many ways (appendix B)."""
    caption_dropout: float = 0.1
    """The share of captions left out, so that guidance has something to compare with."""
    tokenizer_samples: int = 100_000
    """Samples whose captions the tokenizer is trained on."""
    prompts: tuple[str, ...] = ()
    """What the previews show; captions of pictures held back where there are none."""


@dataclass(frozen=True)
class LabelDataConfig(CodesDataConfig):
    """Classes, as the source tells them beside captions."""

    label: str = "folder"
    """Where the source says a picture's class: a field of its JSON, a column of its table, or the folder it lies in."""
    label_dropout: float = 0.1
    """The share of classes left out, so that guidance has something to compare with."""


@dataclass(frozen=True)
class EmbeddingDataConfig(CodesDataConfig):
    """The pictures' own embeddings by a CLIP; to draw, those of texts take their place."""

    embedding_dropout: float = 0.1
    """The share of embeddings left out, so that guidance has something to compare with."""
    noise: float = 0.5
    """Length of the noise that is added to an embedding (of length 1) before it is scaled to that length again, so that
    those of texts, which lie a little apart, are near to what has been learnt."""
    prompts: tuple[str, ...] = ()
    """What the previews show; captions of pictures held back where there are none."""


@dataclass(frozen=True)
class ViewDataConfig(CodesDataConfig):
    """The codes of something taken from the same picture (`data.views`)."""

    view_dropout: float = 0.1
    """The share of views left out, so that guidance has something to compare with."""


@dataclass(frozen=True)
class Conditioned:
    """What a network's data brings beside codes."""

    config: CodesNetworkConfig
    """With the ids that there are."""
    training: Transform
    validation: Transform
    previews: Tensor
    """What previews are drawn for, b l or b w."""
    tokenizer: str | None = None
    """The text of tokenizer.json."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What config.json says for the condition to be known again."""


def asked_by(config: CodesNetworkConfig, data: Any, context: Context, training: Encoded, held: Encoded) -> Conditioned:
    """The conditions that a data config is for."""
    if config.pad is not None and not isinstance(data, TextDataConfig):
        raise PinxitError(f"model.pad={config.pad} is an id of a text, and this recipe has none. Leave it out.")
    if isinstance(data, TextDataConfig):
        return _texts(config, data, training, held)
    if isinstance(data, LabelDataConfig):
        return _labels(config, data, training, held)
    if isinstance(data, EmbeddingDataConfig):
        return _embeddings(config, data, context, held)
    if isinstance(data, ViewDataConfig):
        return _views(config, data, context, held)
    alone = Alone(pad_per_position([[]], config.condition_length, 0)[0])
    nothing = torch.from_numpy(alone.nothing).expand(PREVIEWS, -1)
    return Conditioned(replace(config, condition_vocabulary=0), alone, alone, nothing)


# Nothing.


@dataclass(frozen=True)
class Alone:
    """An encoded sample -> `condition` l, which is nothing but pads, and `image` n."""

    nothing: npt.NDArray[np.int64]

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002
        """Draws nothing."""
        return {"condition": self.nothing, "image": sample.codes}


# Texts.


@dataclass(frozen=True)
class Texts:
    """An encoded sample -> `condition` l and `image` n, both ids."""

    tokenizer: Tokenizer
    length: int
    captions: Mapping[str, float]
    bpe_dropout: float = 0.0
    dropout: float = 0.0
    pad: int | None = None

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a caption, or none, and its spelling."""
        return {"condition": self.ids(sample, rng), "image": sample.codes}

    def ids(self, sample: Sample | EncodedSample, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Of one of its captions, l."""
        ids: list[int] = []
        if rng.random() >= self.dropout:
            caption = draw_caption(sample.key, sample.captions, self.captions, rng)
            ids = self.tokenizer.encode_ids(caption, self.bpe_dropout, rng)
        row: npt.NDArray[np.int64] = pad_per_position([ids], self.length, self.tokenizer.vocab_size, self.pad)[0]
        return row

    @classmethod
    def learnt(cls, data: TextDataConfig, captioned: Captioned, vocabulary: int, length: int, pad: int | None) -> Texts:
        """By a tokenizer trained on captions: each caption as it is."""
        tokenizer = train_tokenizer(captioned, vocabulary, data.captions, data.tokenizer_samples)
        return cls(tokenizer, length, data.captions, pad=pad)

    def varied(self, data: TextDataConfig) -> Texts:
        """As training has them: some left out, and spelt in many ways."""
        return replace(self, bpe_dropout=data.bpe_dropout, dropout=data.caption_dropout)

    @property
    def condition(self) -> TextCondition:
        """The same for whatever a person types."""
        return TextCondition(self.tokenizer, self.length, self.pad)


def _texts(config: CodesNetworkConfig, data: TextDataConfig, training: Encoded, held: Encoded) -> Conditioned:
    plain = Texts.learnt(data, training, config.condition_vocabulary, config.condition_length, config.pad)
    return Conditioned(
        replace(config, condition_vocabulary=plain.tokenizer.vocab_size),
        plain.varied(data),
        plain,
        plain.condition(prompts_of(data.prompts, held)),
        plain.tokenizer.to_json(),
    )


def prompts_of(wanted: tuple[str, ...], held: Captioned) -> tuple[str, ...]:
    """For previews: those of the recipe, or captions of pictures held back."""
    captions = (kinds for i in range(len(held)) if (kinds := held.captions_at(i)))
    return wanted or tuple(next(iter(kinds.values()))[0] for kinds in islice(captions, PREVIEWS)) or ("",)


# Classes.


@dataclass(frozen=True)
class Labels:
    """An encoded sample -> `condition` 1, its class, and `image` n."""

    names: tuple[str, ...]
    label: str
    dropout: float = 0.0

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Leaves some out."""
        return {"condition": self.ids(sample, rng), "image": sample.codes}

    def ids(self, sample: Sample | EncodedSample, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Of its class, 1."""
        name = str(sample.meta.get(self.label, "")).strip()
        if name not in self.names:
            raise BadSample(sample.key, "no-class", f"{sample.key!r} has no {self.label!r} that is a class.")
        return np.array([len(self.names) if rng.random() < self.dropout else self.names.index(name)])

    @classmethod
    def told(cls, data: LabelDataConfig, metas: Sequence[Mapping[str, Any]]) -> Labels:
        """The classes that there are, in what the source says of its pictures."""
        told = [name for meta in metas if (name := str(meta.get(data.label, "")).strip())]
        names = tuple(sorted(set(told)))
        if not 1 < len(names) <= min(MOST, len(told) // 2):
            fields = ", ".join(sorted({name for meta in metas for name in meta})) or "nothing"
            raise PinxitError(
                f"data.label={data.label} has {len(names)} different values in {len(metas)} pictures, which makes no "
                f"classes. The source says of its pictures: {fields}. Give every stage that learns classes one of "
                "these: --set STAGE.data.label=NAME."
            )
        return cls(names, data.label)

    @property
    def shown(self) -> tuple[str, ...]:
        """For previews: each class, in turn."""
        return (self.names * PREVIEWS)[:PREVIEWS]


def _labels(config: CodesNetworkConfig, data: LabelDataConfig, training: Encoded, held: Encoded) -> Conditioned:
    plain = Labels.told(data, (*training.metas, *held.metas))
    return Conditioned(
        replace(config, condition_vocabulary=len(plain.names), condition_length=1),
        replace(plain, dropout=data.label_dropout),
        plain,
        LabelCondition(plain.names)(plain.shown),
        said={"labels": list(plain.names)},
    )


# What lies beside the codes: embeddings, or codes of something taken from the same picture.


@dataclass(frozen=True)
class Given:
    """An encoded sample -> `condition`, what lies beside its codes, and `image` n."""

    nothing: npt.NDArray[Any]
    """What stands for no condition."""
    dropout: float = 0.0
    noise: float = 0.0
    """Length of the noise on unit vectors."""

    def __call__(self, sample: EncodedSample, rng: np.random.Generator) -> dict[str, Any]:
        """Leaves some out, and draws noise."""
        beside = sample.beside
        assert beside is not None
        if self.noise:
            beside = beside + rng.normal(0, self.noise * len(beside) ** -0.5, len(beside)).astype(beside.dtype)
            beside = beside / np.linalg.norm(beside)
        return {"condition": self.nothing if rng.random() < self.dropout else beside, "image": sample.codes}


def _embeddings(config: CodesNetworkConfig, data: EmbeddingDataConfig, context: Context, held: Encoded) -> Conditioned:
    if not isinstance(config, TokenTransformerConfig):
        raise PinxitError("Embeddings are conditions of a token transformer; this recipe's network takes ids.")
    clip = CLIPSystem.from_checkpoint(context.model("clip"), torch.device("cpu"))
    plain = Given(np.zeros(clip.shape, np.float32))
    return Conditioned(
        replace(config, condition_vocabulary=0, condition_vector=clip.shape[0]),
        replace(plain, dropout=data.embedding_dropout, noise=data.noise),
        plain,
        EmbeddingCondition(clip)(prompts_of(data.prompts, held)),
    )


def _views(config: CodesNetworkConfig, data: ViewDataConfig, context: Context, held: Encoded) -> Conditioned:
    made_from = read_config(context.part("views"))
    if (view := made_from["source"]["recipe"].get("view")) is None:
        raise PinxitError(
            f"{context.part('views')} holds codes of whole pictures. Set views.view to {' or '.join(VIEWS)}."
        )
    length = int(np.prod(made_from["shape"]))
    plain = Given(pad_per_position([[]], length, made_from["codes"])[0])
    shown = [
        torch.from_numpy(beside) for i in range(min(PREVIEWS, len(held))) if (beside := held[i].beside) is not None
    ]
    return Conditioned(
        replace(config, condition_vocabulary=made_from["codes"], condition_length=length),
        replace(plain, dropout=data.view_dropout),
        plain,
        torch.stack(shown) if shown else torch.from_numpy(plain.nothing)[None],
        said={"view": view},
    )
