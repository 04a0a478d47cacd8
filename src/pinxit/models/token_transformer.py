"""The one transformer over image tokens and what they are drawn for.

DALL·E's stream of text and image tokens (Ramesh et al. 2021, section 2.2 and appendix B), Taming's conditions (Esser et
al. 2021, section 3.2), iGPT's raster (Chen et al. 2020) and MaskGIT's masks (Chang et al. 2022, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.attention import Cache
from pinxit.nn.linear import Linear
from pinxit.nn.transformer import Activation, Transformer, initialize_residual
from pinxit.tokens.masks import paper_patterns, stream_mask


@dataclass(frozen=True)
class TokenTransformerConfig:
    """The shape of the stream and of the network over it."""

    condition_vocabulary: int
    """Ids of the condition: the tokenizer's entries, classes, or codes of another picture. Nothing but pads is no
    condition, which is all that an unconditional network knows (0 ids)."""
    condition_length: int
    """l, positions of the condition."""
    image_vocabulary: int
    """k, codes of the codec."""
    grid: tuple[int, int]
    """Rows and columns of image tokens."""
    width: int
    depth: int
    heads: int
    attention: Literal["full", "paper"] = "full"
    """Every layer sees all that came before, or rows, columns and a window in turn as in DALL·E's paper."""
    activation: Activation = "gelu"
    order: Literal["raster", "masked"] = "raster"
    """Tokens are told from those before them, row by row; or in any order from all others, hidden ones being masked
    (Chang et al. 2022, "MaskGIT")."""
    predicts_condition: bool = True
    """The condition is told as well, each id from those before it, as DALL·E learns its texts."""
    condition_vector: int | None = None
    """The condition is a vector of this width, an embedding of CLIP's, spread over its l positions; or where it has ids
    as well, those with the vector behind the last of them."""
    pad: int | None = None
    """The id of the condition that stands for no token, where its vocabulary has one. Otherwise each position has a
    pad of its own, on top of the vocabulary, as DALL·E has them."""
    positions: Literal["axes", "each"] = "axes"
    """An image token's place is a vector for its row plus one for its column, as DALL·E has it, or one for each."""

    def __post_init__(self) -> None:
        if self.order == "masked" and (self.attention != "full" or self.predicts_condition):
            raise PinxitError("order=masked goes with attention=full and predicts_condition=false.")
        if self.condition_vector is not None and self.predicts_condition:
            raise PinxitError("condition_vector goes with predicts_condition=false.")
        if self.pad is not None and not 0 <= self.pad < self.condition_vocabulary:
            raise PinxitError(
                f"pad={self.pad} is none of the {self.condition_vocabulary} ids of the condition. Give one of them, or "
                "none for a pad of each position."
            )

    @property
    def condition_ids(self) -> int:
        """Ids of the condition, pads among them."""
        return self.condition_vocabulary + (self.condition_length if self.pad is None else 0)

    @property
    def vector_length(self) -> int:
        """Positions that a vector of the condition takes."""
        if self.condition_vector is None:
            return 0
        return 1 if self.condition_vocabulary else self.condition_length

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes of a picture, h w."""
        return self.grid

    @property
    def image_length(self) -> int:
        """n, image tokens."""
        return self.grid[0] * self.grid[1]


def _igpt(width: int, depth: int, heads: int) -> TokenTransformerConfig:
    return TokenTransformerConfig(
        condition_vocabulary=0,
        condition_length=1,
        image_vocabulary=512,
        grid=(32, 32),
        width=width,
        depth=depth,
        heads=heads,
        activation="quick_gelu",
        predicts_condition=False,
        positions="each",
    )


SIZES = {
    # The 12-billion-parameter model of the paper.
    "paper": TokenTransformerConfig(
        condition_vocabulary=16_384,
        condition_length=256,
        image_vocabulary=8_192,
        grid=(32, 32),
        width=3_968,
        depth=64,
        heads=62,
        attention="paper",
    ),
    # iGPT's (section 3.3), over 32x32 pixels of 512 colours.
    "igpt-s": _igpt(512, 24, 8),
    "igpt-m": _igpt(1_024, 36, 8),
    "igpt-l": _igpt(1_536, 48, 16),
    # For two cores, over the dVAE of the same name.
    "small-64": TokenTransformerConfig(
        condition_vocabulary=1_024,
        condition_length=32,
        image_vocabulary=1_024,
        grid=(8, 8),
        width=256,
        depth=5,
        heads=4,
    ),
    "tiny-32": TokenTransformerConfig(
        condition_vocabulary=1_024, condition_length=16, image_vocabulary=128, grid=(8, 8), width=64, depth=2, heads=4
    ),
}


class TokenTransformer(nn.Module):
    """Over the positions of a condition and then image tokens, row by row."""

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        masked = config.order == "masked"
        self.condition_embedding = nn.Embedding(config.condition_ids, config.width)
        if config.condition_vector is not None:
            self.condition_input = Linear(config.condition_vector, config.vector_length * config.width)
        self.image_embedding = nn.Embedding(config.image_vocabulary + masked, config.width)
        self.condition_position = nn.Parameter(torch.zeros(config.condition_length, config.width))
        if config.positions == "each":
            self.image_position = nn.Parameter(torch.zeros(rows * columns, config.width))
        else:
            self.row_position = nn.Parameter(torch.zeros(rows, 1, config.width))
            self.column_position = nn.Parameter(torch.zeros(columns, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, activation=config.activation)
        self.norm = nn.LayerNorm(config.width)
        if config.predicts_condition:
            self.condition_head = Linear(config.width, config.condition_ids, bias=False)
        self.image_head = Linear(config.width, config.image_vocabulary, bias=False)
        self.patterns = paper_patterns(config.depth) if config.attention == "paper" else ()
        for pattern in dict.fromkeys(self.patterns):  # in order: data-parallel processes pair buffers by it
            mask = stream_mask(pattern, config.condition_length, rows, columns)
            self.register_buffer(f"{pattern}_mask", mask, persistent=False)
        self._initialize()

    def forward(self, condition: Tensor, image: Tensor) -> tuple[Tensor | None, Tensor]:
        """Condition b l (or vectors b w) and image ids b n -> logits of condition ids 1 ... l-1 and of all image ids.

        In raster order the last position of the condition predicts the first image token, and nothing predicts the
        first of the condition. In any order, image ids of `mask_id` are hidden, and every position predicts itself.
        """
        last = self.config.condition_length - 1
        if self.config.order == "masked":
            x = self.norm(self.transformer(self.embed(condition, image)))
            return None, self.image_head(x[:, last + 1 :])
        x = self.embed(condition, image[:, :-1])
        x = self.norm(self.transformer(x, masks=self.masks(0, x.shape[1]), causal=True))
        return self.condition_head(x[:, :last]) if self.config.predicts_condition else None, self.image_head(
            x[:, last:]
        )

    def embed(self, condition: Tensor, image: Tensor) -> Tensor:
        """Condition b l (or vectors b w) and the first m image ids b m -> the stream, b l+m d."""
        image_part = self.image_embedding(image) + self.places()[: image.shape[1]]
        return torch.cat([self.embed_condition(condition) + self.condition_position, image_part], 1)

    def places(self) -> Tensor:
        """What is added to each image token for where it lies, n d."""
        if self.config.positions == "each":
            return self.image_position
        return (self.row_position + self.column_position).flatten(0, 1)

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Ids b l; vectors b w, of which one that is all zeros is no condition; or floats of both b l-1+w -> b l d."""
        if self.config.condition_vector is None:
            found: Tensor = self.condition_embedding(condition)
            return found
        length = self.config.condition_length - self.config.vector_length
        ids, vector = condition[:, :length], condition[:, length:]
        vectors = self.condition_input(vector.to(self.condition_position.dtype)).unflatten(
            1, (self.config.vector_length, -1)
        )
        if length:
            return torch.cat([self.condition_embedding(ids.long()), vectors], 1)
        given = condition.any(1)[:, None, None]
        return torch.where(given, vectors, self.condition_embedding.weight.to(vectors.dtype))

    def masks(self, start: int, end: int) -> list[Tensor | None] | None:
        """Each layer's mask for queries at `start` ... `end - 1` of the stream; None where causal attention does."""
        return [getattr(self, f"{pattern}_mask")[start:end, :end] for pattern in self.patterns] or None

    def no_condition(self, rows: int) -> Tensor:
        """What stands for no condition, and guidance compares with: nothing but pads b l, or zeros b w, or both."""
        device = self.condition_position.device
        length = self.config.condition_length - self.config.vector_length
        if self.config.pad is not None:
            pads = torch.full((rows, length), self.config.pad, device=device)
        else:
            pads = (torch.arange(length, device=device) + self.config.condition_vocabulary).expand(rows, -1)
        if self.config.condition_vector is None:
            return pads
        return torch.cat([pads.float(), torch.zeros(rows, self.config.condition_vector, device=device)], 1)

    def following(self, condition: Tensor) -> Continuation:
        """The logits of one image token after the other, for the sampler."""
        return Continuation(self, condition)

    @property
    def mask_id(self) -> int:
        """The image id that hides a token, in a network that tells them in any order."""
        return self.config.image_vocabulary

    def _initialize(self) -> None:
        named = dict(self.named_parameters())
        for name in (
            "condition_embedding.weight",
            "condition_input.weight",
            "image_embedding.weight",
            "condition_head.weight",
            "image_head.weight",
            "condition_position",
            "row_position",
            "column_position",
            "image_position",
        ):
            if name in named:
                nn.init.normal_(named[name], std=0.02)
        initialize_residual(self.transformer)


class Continuation:
    """The logits of the next image token after `condition` and the image tokens so far: a `tokens.sampler.NextLogits`.

    With a cache, each token passes the network once, and every call must continue the one before. Without, the whole
    stream passes at every call. Both give the same logits, and neither changes what it is given.
    """

    def __init__(self, network: TokenTransformer, condition: Tensor, *, cached: bool = True) -> None:
        self.network = network
        self.condition = condition
        self.places = network.places().detach()
        self.cache: Cache | None = None
        if cached:
            capacity = network.config.condition_length + network.config.image_length - 1
            self.cache = network.transformer.empty_cache(len(condition), capacity, like=network.condition_position)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """All image tokens so far, b m -> b k."""
        network, cache = self.network, self.cache
        start = cache.length if cache is not None else 0
        end = network.config.condition_length + ids.shape[1]
        if start == 0:
            x = network.embed(self.condition, ids)
        else:
            new = start - network.config.condition_length
            x = network.image_embedding(ids[:, new:]) + self.places[new : ids.shape[1]]
        x = network.transformer(x, masks=network.masks(start, end), causal=True, cache=cache)
        logits: Tensor = network.image_head(network.norm(x[:, -1]))
        return logits
