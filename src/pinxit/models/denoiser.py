"""A U-Net with all that tells it what to draw: DDPM, ADM, GLIDE and unCLIP's decoder by what their configs leave out.

Ho et al. 2020; Dhariwal and Nichol 2021; Nichol et al. 2021; Ramesh et al. 2022, section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.models.text_encoder import TextEncoder, TextEncoderConfig
from pinxit.models.unet import Guide, UNet, UNetConfig
from pinxit.nn.embeddings import embed_times
from pinxit.nn.linear import Linear

EMBEDDING_TOKENS = 4
"""Tokens that an embedding becomes, beside those of the text."""


UNSAID: dict[str, Any] = {
    each.name: each.default for each in fields(UNetConfig) if each.name in ("beside", "tokens", "outputs")
}
"""What a `UNetConfig` has where nothing is said of what follows from the rest of a `DenoiserConfig`."""


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of the U-Net, the process it knows, and what it can be asked for.

    What follows from that, `unet.beside`, `unet.tokens` and `unet.outputs`, is left out: `whole_unet` has it.
    """

    unet: UNetConfig
    process: ProcessConfig
    classes: int | None = None
    """How many there are; the id after the last is none in particular."""
    text: TextEncoderConfig | None = None
    embedding: int | None = None
    """d of CLIP's embeddings, of which it draws pictures."""
    unit: bool = True
    """Whether those are of length 1, or as CLIP's towers give them."""
    reads: int | None = None
    """w of what CLIP reads at every token of a text, for one that has no text encoder of its own: Karlo's."""
    low: int | None = None
    """Side of the small picture that it enlarges."""
    low_filter: Literal["bilinear", "bicubic"] = "bilinear"
    """How that is stretched; the latter against aliasing, as Karlo does."""
    low_noise: float = 0.0
    """How noisy the small pictures may be that it learns from, from 0 to 1; above 0 it is told how noisy one is (Ho et
    al. 2022, "Cascaded Diffusion Models", section 4.2)."""
    low_skip: bool = False
    """Whether what it tells is added to that, stretched: nothing is to be told then of what is flat. For target x0."""
    known: bool = False
    """Whether it can be shown a part of the picture, and where that is."""

    def __post_init__(self) -> None:
        if self.reads and (self.text or not self.embedding):
            raise PinxitError(
                f"reads={self.reads} with embedding={self.embedding} and text={self.text}: a network that reads by "
                "CLIP draws of its embeddings, and has no text of its own."
            )
        if not 0 <= self.low_noise <= 1:
            raise PinxitError(f"low_noise={self.low_noise}: give a share from 0, of no noise, to 1, of nothing else.")
        if self.low_noise and not self.low:
            raise PinxitError(f"low_noise={self.low_noise} without low: leave it out, or give low, a side in pixels.")
        if self.low_skip and not (self.low and self.process.target == "x0"):
            raise PinxitError(
                f"low_skip=true with low={self.low} and target={self.process.target}: it needs low, and x0."
            )
        if self.low and (self.low >= self.unet.size or self.unet.size % self.low):
            raise PinxitError(f"low={self.low} cannot become size={self.unet.size}: sizes are multiples, of 2 or more.")
        for name, value in self._derived.items():
            if (given := getattr(self.unet, name)) not in (UNSAID[name], value):
                raise PinxitError(
                    f"unet.{name}={given} does not go with the rest: leave it out, or give {value}, which follows."
                )
        object.__setattr__(self, "unet", replace(self.unet, **{name: UNSAID[name] for name in self._derived}))

    @property
    def whole_unet(self) -> UNetConfig:
        """The U-Net's shape, with what follows from the rest."""
        return replace(self.unet, **self._derived)

    @property
    def _derived(self) -> dict[str, Any]:
        """What of the U-Net follows from the rest; tokens do not that are as wide as nothing else is, as Karlo's."""
        tokens = self.text.width if self.text else self.unet.time_width if self.embedding else None
        return {
            "beside": 3 * bool(self.low) + 4 * self.known,
            "outputs": self.unet.inputs * (1 + self.process.learned_variance),
            **({"tokens": tokens} if not (self.reads and self.unet.tokens) else {}),
        }

    @property
    def local(self) -> bool:
        """Whether it enlarges each part of a picture as any other, so that it can learn from parts, and enlarge
        pictures of other sizes than those it has learnt from: without attention, positions or what tells of the whole.
        """
        unet = self.unet
        return bool(self.low) and not (
            unet.attention or unet.middle or unet.positions or self.embedding or self.known or self.text
        )

    def enlarging(self, low: int) -> DenoiserConfig:
        """The same for small pictures of another size."""
        assert self.low
        return replace(self, low=low, unet=replace(self.unet, size=low * self.unet.size // self.low))


WORDS = ("labels", "ids", "embedding", "read", "read_mask", "read_embedding")
"""What a `Conditioning` holds that guidance exchanges; the rest are pictures."""


@dataclass(frozen=True)
class Conditioning:
    """What pictures are to show: one value for all that a denoiser may be asked for, each of b."""

    labels: Tensor | None = None
    """Classes, int64 b."""
    ids: Tensor | None = None
    """Texts, int64 b l."""
    embedding: Tensor | None = None
    """CLIP's embeddings of pictures, rows b d; `Denoiser.no_embedding` for none in particular."""
    read: Tensor | None = None
    """What that CLIP reads at every token of a text, b l w."""
    read_mask: Tensor | None = None
    """b l, True up to the end of the text."""
    read_embedding: Tensor | None = None
    """What it reads in all, b d."""
    low: Tensor | None = None
    """Small pictures, b 3 h' w' in [-1, 1]."""
    low_level: Tensor | None = None
    """How noisy they are, b from 0 to 1 (`process.roughened`)."""
    known: Tensor | None = None
    """Pictures of which a part is known, b 3 h w in [-1, 1]."""
    mask: Tensor | None = None
    """b 1 h w: 1 where they are known."""

    def joined(self, other: Conditioning) -> Conditioning:
        """A batch of both, the other's after these."""
        both = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Conditioning(**{name: torch.cat(pair) for name, pair in both.items() if pair[0] is not None})

    def instead(self, other: Conditioning) -> Conditioning:
        """The same for another's only class, text or embedding; what pictures it is shown stays."""
        count = len(next(value for field in fields(self) if (value := getattr(self, field.name)) is not None))
        words = {name: getattr(other, name) for name in WORDS}
        return replace(
            self,
            **{name: value.expand(count, *value.shape[1:]) for name, value in words.items() if value is not None},
        )

    def rows(self, start: int, end: int) -> Conditioning:
        """Some of the batch."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Conditioning(**{name: value[start:end] for name, value in values.items() if value is not None})

    def to(self, device: torch.device) -> Conditioning:
        """The same on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})


class Denoiser(nn.Module):
    """Noisy pictures, their times and what was asked -> what the process wants to be told."""

    no_embedding: Tensor
    """d: what stands in the place of an embedding where there is none; zeros, but for Karlo, which has learnt it."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        unet = config.whole_unet
        told, base = unet.time_width, unet.channels
        self.unet = UNet(unet)
        self.labels = nn.Embedding(config.classes, told) if config.classes else None
        if config.low_noise:
            self.low_level = nn.Sequential(Linear(base, told), nn.SiLU(), Linear(told, told))
        if config.text:
            self.text = TextEncoder(config.text)
            self.text_to_time = Linear(config.text.width, told)
        if config.embedding:
            assert unet.tokens
            self.embedding_to_time = Linear(config.embedding, told)
            self.embedding_to_tokens = Linear(config.embedding, EMBEDDING_TOKENS * unet.tokens)
            self.register_buffer("no_embedding", torch.zeros(config.embedding))
            if config.reads:
                self.read = nn.Sequential(Linear(config.reads, unet.tokens), nn.LayerNorm(unet.tokens))
                self.read_to_time = Linear(config.embedding, told)

    def forward(self, x: Tensor, times: Tensor, asked: Conditioning) -> Tensor:
        """Noisy values b c h w, times b of a thousand -> b outputs h w."""
        return self.drawing(x, times, self.guide(asked))

    def drawing(self, x: Tensor, times: Tensor, guide: Guide) -> Tensor:
        """The same for what `guide` has made of the asked, which sampling does once."""
        out: Tensor = self.unet(x, times, guide)
        if self.config.low_skip:
            assert guide.beside is not None
            low = guide.beside[:, -self.config.unet.inputs :].float()
            out = torch.cat([out[:, : low.shape[1]].float() + low, out[:, low.shape[1] :].float()], 1)
        return out

    def guide(self, asked: Conditioning) -> Guide:
        """What the U-Net is told."""
        added: list[Tensor] = []
        tokens: list[Tensor] = []
        mask: Tensor | None = None
        if self.labels is not None and asked.labels is not None:
            some = asked.labels < self.labels.num_embeddings
            added.append(self.labels(asked.labels * some) * some[:, None])
        if self.config.embedding:
            assert asked.embedding is not None
            # Numbers of unit vectors are small beside all else that is told, and would be learnt from slowly.
            seen = asked.embedding * (self.config.embedding**0.5 if self.config.unit else 1.0)
            tokens.append(self.embedding_to_tokens(seen).unflatten(1, (EMBEDDING_TOKENS, -1)))
            added.append(self.embedding_to_time(seen))
        if self.config.text:
            assert asked.ids is not None
            tokens.append(self.text(asked.ids))
            added.append(self.text_to_time(self.text.whole(tokens[-1], asked.ids)))
        if self.config.reads:
            assert asked.read is not None
            assert asked.read_mask is not None
            assert asked.read_embedding is not None
            tokens.append(self.read(asked.read))
            added.append(self.read_to_time(asked.read_embedding))
            mask = F.pad(asked.read_mask, (EMBEDDING_TOKENS, 0), value=True)
        if self.config.low_noise:
            assert asked.low_level is not None
            added.append(self.low_level(embed_times(1_000 * asked.low_level, self.config.unet.channels)))
        total = torch.stack(added).sum(0) if added else None
        return Guide(total, torch.cat(tokens, 1) if tokens else None, mask, self._beside(asked))

    def _beside(self, asked: Conditioning) -> Tensor | None:
        """What is known, blanked where it is not, and where it is; then the enlarged small picture."""
        beside: list[Tensor] = []
        if self.config.known and asked.known is not None:
            assert asked.mask is not None
            beside += [asked.known * asked.mask, asked.mask]
        if self.config.low:
            assert asked.low is not None
            size = [side * self.config.unet.size // self.config.low for side in asked.low.shape[2:]]
            sharp = self.config.low_filter == "bicubic"
            low = F.interpolate(asked.low, size, mode=self.config.low_filter, antialias=sharp)
            if self.config.known and not beside:
                beside.append(low.new_zeros(len(low), 4, *size))
            beside.append(low)
        return torch.cat(beside, 1) if beside else None


def _adm(
    size: int,
    channels: int,
    multipliers: tuple[float, ...],
    *,
    blocks: int = 2,
    betas: Literal["linear", "cosine"] = "linear",
    attention: tuple[int, ...] = (32, 16, 8),
    heads: int | None = None,
    low: int | None = None,
    dropout: float = 0.0,
    classes: int | None = 1_000,
) -> DenoiserConfig:
    return DenoiserConfig(
        UNetConfig(
            size,
            channels,
            multipliers,
            blocks,
            attention,
            heads=heads,
            dropout=dropout,
        ),
        ProcessConfig(DiscreteConfig(betas), learned_variance=True),
        classes=classes,
        low=low,
    )


def _glide(size: int, multipliers: tuple[float, ...], blocks: int, *, low: int | None, known: bool) -> DenoiserConfig:
    text = TextEncoderConfig(vocabulary=50_257, length=128, width=512, depth=16, heads=8)
    return DenoiserConfig(
        UNetConfig(
            size,
            192,
            multipliers,
            blocks,
            (32, 16, 8),
        ),
        ProcessConfig(DiscreteConfig("linear" if low else "cosine"), learned_variance=True),
        text=text,
        low=low,
        known=known,
    )


SIZES = {
    # Published: guided-diffusion's.
    "adm-64": _adm(64, 192, (1, 2, 3, 4), blocks=3, betas="cosine", dropout=0.1),
    "adm-128": _adm(128, 256, (1, 1, 2, 3, 4), heads=4),
    "adm-256": _adm(256, 256, (1, 1, 2, 2, 4, 4)),
    "adm-256-unconditional": _adm(256, 256, (1, 1, 2, 2, 4, 4), classes=None),
    "adm-512": _adm(512, 256, (0.5, 1, 1, 2, 2, 4, 4)),
    "adm-64-to-256": _adm(256, 192, (1, 1, 2, 2, 4, 4), heads=4, low=64),
    "adm-128-to-512": _adm(512, 192, (1, 1, 2, 2, 4, 4), attention=(32, 16), low=128),
    # Published: glide-text2im's.
    "glide-base": _glide(64, (1, 2, 3, 4), 3, low=None, known=False),
    "glide-upsample": _glide(256, (1, 1, 2, 2, 4, 4), 2, low=64, known=False),
    "glide-base-inpaint": _glide(64, (1, 2, 3, 4), 3, low=None, known=True),
    "glide-upsample-inpaint": _glide(256, (1, 1, 2, 2, 4, 4), 2, low=64, known=True),
    # Published: Karlo's, which enlarges by two networks of one shape.
    "karlo-decoder": DenoiserConfig(
        UNetConfig(64, 320, (1, 2, 3, 4), 3, (32, 16, 8), tokens=1_536),
        ProcessConfig(DiscreteConfig("cosine"), learned_variance=True),
        embedding=768,
        unit=False,
        reads=768,
    ),
    "karlo-upsample": DenoiserConfig(
        UNetConfig(256, 320, (1, 2, 3, 4), 3, (), middle=False, scale_shift=False),
        ProcessConfig(DiscreteConfig("cosine")),
        low=64,
        low_filter="bicubic",
    ),
    # Table 3 of unCLIP's paper: the decoder of 3.5B parameters, and what enlarges, of 700M and 300M.
    "dalle2-decoder": DenoiserConfig(
        UNetConfig(64, 512, (1, 2, 3, 4), 3, (32, 16, 8), dropout=0.1),
        ProcessConfig(DiscreteConfig("cosine"), learned_variance=True),
        text=TextEncoderConfig(vocabulary=50_257, length=256, width=2_048, depth=24, heads=32),
        embedding=1_024,
    ),
    "dalle2-upsample": DenoiserConfig(
        UNetConfig(256, 320, (1, 2, 3, 4), 3, (), middle=False, dropout=0.1),
        ProcessConfig(DiscreteConfig("cosine")),
        low=64,
        low_noise=0.5,
    ),
    "dalle2-upsample-1024": DenoiserConfig(
        UNetConfig(1_024, 192, (1, 1, 2, 2, 4, 4), 2, (), middle=False),
        ProcessConfig(DiscreteConfig("linear")),
        low=256,
        low_noise=0.5,
    ),
}


OF_EMBEDDINGS = ("no_embedding", "embedding_to_time.", "embedding_to_tokens.")
"""What a network that draws of embeddings has besides."""


def widened(state: Mapping[str, Tensor], network: Denoiser) -> dict[str, Tensor]:
    """The weights of a network that is told less: what it reads the rest with is zero.

    Of what is shown beside the noisy picture (Nichol et al. 2021, section 2.5), so that it starts by telling what it
    told before; and of the embedding of a picture, whose tokens take a little of its attention even so.
    """
    name = "unet.encoder.stem.weight"
    wanted, found = network.unet.encoder.stem.weight, state.get(name)
    full = {
        key: value.new_zeros(value.shape)
        for key, value in network.state_dict().items()
        if key.startswith(OF_EMBEDDINGS)
    }
    full |= state
    if found is None or found.shape[1] == wanted.shape[1]:
        return full
    more = found.new_zeros(wanted.shape[0], wanted.shape[1], *wanted.shape[2:])
    patch = network.config.unet.patch**2
    inputs = network.config.unet.inputs * patch
    known = 4 * patch * network.config.known
    more[:, :inputs] = found[:, :inputs]
    more[:, inputs + known :] = found[:, inputs:]
    return {**full, name: more}
