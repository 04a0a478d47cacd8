"""GLIDE's transformer over the tokens of a text (Nichol et al. 2021, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.transformer import Transformer, initialize_residual


@dataclass(frozen=True)
class TextEncoderConfig:
    """Its shape."""

    vocabulary: int
    """Ids of a text; those above are the pads of each position."""
    length: int
    width: int
    depth: int
    heads: int
    stands: Literal["last", "mean", "words"] = "last"
    """What stands for the whole text: its last position, as in GLIDE, which has to learn first to gather the others; or
    the mean of all, by which little training goes far; or of those that are no pads, which tell short texts apart."""
    token_shift: bool = False
    """Whether tokens see their neighbours before the first block (as in RWKV, Peng et al. 2023).

    Which colour is whose is then there to be looked at. Attention takes very long to learn that from the errors of
    pictures: nothing is gained until it both blends words and looks for what it has blended.
    """

    def __post_init__(self) -> None:
        if self.token_shift and self.width % 4:
            raise PinxitError(
                f"token_shift exchanges quarters of a width, and {self.width} has none: give a multiple of 4."
            )


class TextEncoder(nn.Module):
    """Every token looks at every other, pads among them, each of which has a vector of its own."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary + config.length, config.width)
        self.positions = nn.Parameter(torch.empty(config.length, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads)
        self.norm = nn.LayerNorm(config.width)
        # Blocks add to what a token is. Were that small, the first would drown it, and all tokens come out alike.
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.positions, std=0.5)
        initialize_residual(self.transformer)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids b l -> b l w."""
        tokens = self.tokens(ids)
        if self.config.token_shift:
            tokens = _shifted(tokens)
        out: Tensor = self.norm(self.transformer(tokens + self.positions))
        return out

    def whole(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Tokens b l w, as they come out of ids b l -> what stands for the text, b w: zeros for no "words"."""
        match self.config.stands:
            case "last":
                return tokens[:, -1]
            case "mean":
                return tokens.mean(1)
            case "words":
                words = (ids < self.config.vocabulary)[:, :, None]
                return (tokens * words).sum(1) / words.sum(1).clamp_min(1)


def _shifted(tokens: Tensor) -> Tensor:
    """Tokens b l w of which a quarter is that of the token before, and another that of the one after."""
    quarter = tokens.shape[2] // 4
    before = F.pad(tokens[:, :-1, -2 * quarter : -quarter], (0, 0, 1, 0))
    after = F.pad(tokens[:, 1:, -quarter:], (0, 0, 0, 1))
    return torch.cat([tokens[:, :, : -2 * quarter], before, after], 2)
