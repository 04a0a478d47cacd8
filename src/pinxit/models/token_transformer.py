"""The transformer over one stream of text and image tokens (Ramesh et al. 2021, section 2.2 and appendix B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pinxit.nn.attention import Cache
from pinxit.nn.linear import Linear
from pinxit.nn.transformer import Transformer, initialize_residual
from pinxit.tokens.masks import paper_patterns, stream_mask


@dataclass(frozen=True)
class TokenTransformerConfig:
    """The shape of the stream and of the network over it."""

    text_vocabulary: int
    """Entries of the tokenizer. One pad for each text position comes on top."""
    text_length: int
    """l, text positions."""
    image_vocabulary: int
    """k, codes of the codec."""
    grid: tuple[int, int]
    """Rows and columns of image tokens."""
    width: int
    depth: int
    heads: int
    attention: Literal["full", "paper"] = "full"
    """Every layer sees all that came before, or rows, columns and a window in turn as in the paper."""

    @property
    def image_length(self) -> int:
        """n, image tokens."""
        return self.grid[0] * self.grid[1]


SIZES = {
    # The 12-billion-parameter model of the paper.
    "paper": TokenTransformerConfig(
        text_vocabulary=16_384,
        text_length=256,
        image_vocabulary=8_192,
        grid=(32, 32),
        width=3_968,
        depth=64,
        heads=62,
        attention="paper",
    ),
    # For two cores, over the dVAE of the same name.
    "small-64": TokenTransformerConfig(
        text_vocabulary=1_024,
        text_length=32,
        image_vocabulary=1_024,
        grid=(8, 8),
        width=256,
        depth=5,
        heads=4,
    ),
    "tiny-32": TokenTransformerConfig(
        text_vocabulary=1_024, text_length=16, image_vocabulary=128, grid=(8, 8), width=64, depth=2, heads=4
    ),
}


class TokenTransformer(nn.Module):
    """Autoregressive over text tokens and then image tokens, row by row."""

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        texts = config.text_vocabulary + config.text_length
        self.text_embedding = nn.Embedding(texts, config.width)
        self.image_embedding = nn.Embedding(config.image_vocabulary, config.width)
        self.text_position = nn.Parameter(torch.zeros(config.text_length, config.width))
        self.row_position = nn.Parameter(torch.zeros(rows, 1, config.width))
        self.column_position = nn.Parameter(torch.zeros(columns, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads)
        self.norm = nn.LayerNorm(config.width)
        self.text_head = Linear(config.width, texts, bias=False)
        self.image_head = Linear(config.width, config.image_vocabulary, bias=False)
        self.patterns = paper_patterns(config.depth) if config.attention == "paper" else ()
        for pattern in dict.fromkeys(self.patterns):  # in order: data-parallel processes pair buffers by it
            self.register_buffer(
                f"{pattern}_mask", stream_mask(pattern, config.text_length, rows, columns), persistent=False
            )
        self._initialize()

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Text ids b l and image ids b n -> logits of text tokens 1 ... l-1 and of all image tokens.

        The last text position predicts the first image token; nothing predicts the first text token.
        """
        x = self.embed(text, image[:, :-1])
        x = self.norm(self.transformer(x, masks=self.masks(0, x.shape[1]), causal=True))
        last = self.config.text_length - 1
        return self.text_head(x[:, :last]), self.image_head(x[:, last:])

    def embed(self, text: Tensor, image: Tensor) -> Tensor:
        """Text ids b l and the first m image ids b m -> the stream, b l+m d."""
        position = (self.row_position + self.column_position).flatten(0, 1)
        image_part = self.image_embedding(image) + position[: image.shape[1]]
        return torch.cat([self.text_embedding(text) + self.text_position, image_part], 1)

    def masks(self, start: int, end: int) -> list[Tensor | None] | None:
        """Each layer's mask for queries at `start` ... `end - 1` of the stream; None where causal attention does."""
        return [getattr(self, f"{pattern}_mask")[start:end, :end] for pattern in self.patterns] or None

    def empty_captions(self, rows: int) -> Tensor:
        """The ids b l of no caption: nothing but pads. What classifier-free guidance compares with."""
        pads = torch.arange(self.config.text_length, device=self.text_position.device) + self.config.text_vocabulary
        return pads.expand(rows, -1)

    def _initialize(self) -> None:
        for parameter in (
            self.text_embedding.weight,
            self.image_embedding.weight,
            self.text_head.weight,
            self.image_head.weight,
            self.text_position,
            self.row_position,
            self.column_position,
        ):
            nn.init.normal_(parameter, std=0.02)
        initialize_residual(self.transformer)


class Continuation:
    """The logits of the next image token after `text` and the image tokens so far: a `tokens.sampler.NextLogits`.

    With a cache, each token passes the network once, and every call must continue the one before. Without, the whole
    stream passes at every call. Both give the same logits, and neither changes what it is given.
    """

    def __init__(self, network: TokenTransformer, text: Tensor, *, cached: bool = True) -> None:
        self.network = network
        self.text = text
        self.position = (network.row_position + network.column_position).flatten(0, 1).detach()
        self.cache: Cache | None = None
        if cached:
            capacity = network.config.text_length + network.config.image_length - 1
            self.cache = network.transformer.empty_cache(len(text), capacity, like=network.text_position)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """All image tokens so far, b m -> b k."""
        network, cache = self.network, self.cache
        start = cache.length if cache is not None else 0
        end = network.config.text_length + ids.shape[1]
        if start == 0:
            x = network.embed(self.text, ids)
        else:
            new = start - network.config.text_length
            x = network.image_embedding(ids[:, new:]) + self.position[new : ids.shape[1]]
        x = network.transformer(x, masks=network.masks(start, end), causal=True, cache=cache)
        logits: Tensor = network.image_head(network.norm(x[:, -1]))
        return logits
