"""Gated PixelCNN over codes (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders").

Over one grid, as the prior of VQ-VAE, or over a coarse one and a finer one given it, as that of VQ-VAE-2 (Razavi et al.
2019, section 3.2; without its attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.linear import Linear


@dataclass(frozen=True)
class PixelCNNConfig:
    """The shape of the codes and of the network over them."""

    condition_vocabulary: int
    """Ids of the condition: the tokenizer's entries or classes. One pad for each position comes on top; nothing but
    pads is no condition, which is all that an unconditional network knows (0 ids)."""
    condition_length: int
    """l, positions of the condition; what they hold is averaged."""
    image_vocabulary: int
    """k, codes of each codebook."""
    grids: tuple[int, ...]
    """Sides of the square grids of codes, coarsest first; each twice that of the one before."""
    width: int
    depth: int
    """Gated layers over each grid."""
    kernel: int = 5
    """Side of the square that a layer looks at, of which it sees what has been drawn. Odd."""

    order: ClassVar[Literal["raster"]] = "raster"
    condition_vector: ClassVar[None] = None
    pad: ClassVar[None] = None
    predicts_condition: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.kernel < 3:
            raise PinxitError(f"kernel={self.kernel}: give an odd number of at least 3.")
        if not self.grids or any(2 * coarse != fine for coarse, fine in zip(self.grids, self.grids[1:], strict=False)):
            raise PinxitError(f"grids={list(self.grids)}: give at least one side, and after each twice as many.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes of a picture: h w of a single grid, n of several."""
        return self.grids * 2 if len(self.grids) == 1 else (self.image_length,)

    @property
    def image_length(self) -> int:
        """n, codes of all grids."""
        return sum(side**2 for side in self.grids)


SIZES = {
    # Over the VQ-VAEs of the same names.
    "small-64": PixelCNNConfig(
        condition_vocabulary=1_024, condition_length=32, image_vocabulary=1_024, grids=(8,), width=192, depth=10
    ),
    "small-64-2": PixelCNNConfig(
        condition_vocabulary=1_024, condition_length=32, image_vocabulary=512, grids=(8, 16), width=160, depth=8
    ),
    "tiny-32": PixelCNNConfig(
        condition_vocabulary=1_024, condition_length=16, image_vocabulary=128, grids=(8,), width=64, depth=4
    ),
    "tiny-32-2": PixelCNNConfig(
        condition_vocabulary=1_024, condition_length=16, image_vocabulary=64, grids=(4, 8), width=64, depth=4
    ),
}


def gate(x: Tensor) -> Tensor:
    """b 2d h w -> b d h w (equation 2)."""
    signal, opening = x.chunk(2, 1)
    return signal.tanh() * opening.sigmoid()


class GatedLayer(nn.Module):
    """One step down and one step across (figure 2).

    The vertical stack knows the rows above, the horizontal one what lies left of it as well. Both start from codes that
    are shifted by one, so that later on a place may see itself: no kernel needs a mask.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(width, 2 * width, (self.reach + 1, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, self.reach + 1))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.context = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def down(self, padded: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Vertical features with `reach` rows above and columns about them -> the next ones, what goes across."""
        x = self.vertical(padded)
        return gate(x + context), self.link(x)

    def across(self, x: Tensor, padded: Tensor, from_above: Tensor, context: Tensor) -> Tensor:
        """Horizontal features, the same with `reach` columns on their left, and `down`'s -> the next ones."""
        out: Tensor = x + self.out(gate(self.horizontal(padded) + from_above + context))
        return out


class Level(nn.Module):
    """One grid of codes, given a condition and maybe the coarser grid."""

    def __init__(self, config: PixelCNNConfig, side: int, *, given_coarse: bool) -> None:
        super().__init__()
        width = config.width
        self.grid = side
        self.embedding = nn.Embedding(config.image_vocabulary, width)
        self.condition_embedding = nn.Embedding(config.condition_vocabulary + config.condition_length, width)
        self.condition_out = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width))
        if given_coarse:
            self.coarse_embedding = nn.Embedding(config.image_vocabulary, width)
            self.coarse = nn.Sequential(
                *(layer for _ in range(2) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())),
                nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            )
        self.layers = nn.ModuleList(GatedLayer(width, config.kernel) for _ in range(config.depth))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, config.image_vocabulary, 1)
        )

    def gated_layers(self) -> list[GatedLayer]:
        """The layers by their type."""
        return cast("list[GatedLayer]", list(self.layers))

    def context(self, condition: Tensor, coarse: Tensor | None) -> Tensor:
        """Ids b l, and those of the coarser grid b n -> what every place is told, b d h w, or b d 1 1 of them all."""
        asked: Tensor = self.condition_out(self.condition_embedding(condition).mean(1))[:, :, None, None]
        if coarse is None:
            return asked
        codes = self.coarse_embedding(coarse.view(-1, self.grid // 2, self.grid // 2)).permute(0, 3, 1, 2)
        out: Tensor = asked + self.coarse(codes)
        return out

    def forward(self, ids: Tensor, context: Tensor) -> Tensor:
        """Ids b n -> logits b n k of each, from those before it."""
        codes = self.embedding(ids.view(-1, self.grid, self.grid)).permute(0, 3, 1, 2)  # b d h w
        v = F.pad(codes, (0, 0, 1, 0))[:, :, :-1]
        h = F.pad(codes, (1, 0))[..., :-1]
        for layer in self.gated_layers():
            told = layer.context(context)
            v, from_above = layer.down(F.pad(v, (layer.reach, layer.reach, layer.reach, 0)), told)
            h = layer.across(h, F.pad(h, (layer.reach, 0)), from_above, told)
        logits: Tensor = self.head(h)
        return logits.flatten(2).transpose(1, 2)


class PixelCNN(nn.Module):
    """A `Level` for each grid of codes: what one level draws is the next one's condition."""

    def __init__(self, config: PixelCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(
            Level(config, side, given_coarse=place > 0) for place, side in enumerate(config.grids)
        )

    def forward(self, condition: Tensor, image: Tensor) -> tuple[None, Tensor]:
        """Condition b l and ids b n, the coarsest grid's first -> nothing of the condition, logits b n k of all ids."""
        logits, coarse, start = [], None, 0
        for level in self.each_level():
            ids = image[:, start : start + level.grid**2].contiguous()
            logits.append(level(ids, level.context(condition, coarse)))
            coarse, start = ids, start + level.grid**2
        return None, torch.cat(logits, 1)

    def each_level(self) -> list[Level]:
        """The levels by their type, coarsest first."""
        return cast("list[Level]", list(self.levels))

    def no_condition(self, rows: int) -> Tensor:
        """What stands for no condition, and guidance compares with: nothing but pads b l."""
        device = next(self.parameters()).device
        pads = torch.arange(self.config.condition_length, device=device) + self.config.condition_vocabulary
        return pads.expand(rows, -1)

    def following(self, condition: Tensor) -> PixelContinuation:
        """The logits of one code after the other, for the sampler."""
        return PixelContinuation(self, condition)


class PixelContinuation:
    """The logits of the next code after `condition` and the codes so far: a `tokens.sampler.NextLogits`.

    With a cache, the vertical stack is asked once a row and the horizontal one once a place, over features that were
    kept. Without, the whole grid passes at every call. Both give the same logits. Every call must continue the one
    before.
    """

    def __init__(self, network: PixelCNN, condition: Tensor, *, cached: bool = True) -> None:
        self.network = network
        self.condition = condition
        self.cached = cached
        self.walks: dict[int, _Walk] = {}
        """That over the grid which is being drawn, by its number."""

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """All codes so far, b m -> b k."""
        ids, start, number = ids.to(self.condition.device), 0, 0
        levels = self.network.each_level()
        while ids.shape[1] >= start + levels[number].grid ** 2:
            start, number = start + levels[number].grid ** 2, number + 1
        level = levels[number]
        coarse = ids[:, start - (level.grid // 2) ** 2 : start].contiguous() if number else None
        own = ids[:, start:]
        if not self.cached:
            padded = F.pad(own, (0, level.grid**2 - own.shape[1]))
            logits: Tensor = level(padded, level.context(self.condition, coarse))[:, own.shape[1]]
            return logits
        if number not in self.walks:
            self.walks = {number: _Walk(level, level.context(self.condition, coarse), len(self.condition))}
        return self.walks[number].to(own)


class _Walk:
    """The features of one level, up to a place."""

    def __init__(self, level: Level, context: Tensor, rows: int) -> None:
        self.level = level
        side = level.grid
        self.told = [layer.context(context).expand(-1, -1, side, side) for layer in level.gated_layers()]
        width = level.embedding.embedding_dim
        self.above = [
            context.new_zeros(rows, width, layer.reach + side, side + 2 * layer.reach) for layer in level.gated_layers()
        ]
        self.left = [context.new_zeros(rows, width, 1, layer.reach + side) for layer in level.gated_layers()]
        self.from_above: list[Tensor] = []
        self.done = 0

    def to(self, ids: Tensor) -> Tensor:
        """Walks on to the place after `ids`, b m -> its logits b k."""
        while self.done <= ids.shape[1]:
            row, column = divmod(self.done, self.level.grid)
            if column == 0:
                self._down(ids, row)
            x = self._across(ids, row, column)
            self.done += 1
        logits: Tensor = self.level.head(x)
        return logits[:, :, 0, 0]

    def _down(self, ids: Tensor, row: int) -> None:
        side = self.level.grid
        v = self.above[0].new_zeros(len(ids), self.level.embedding.embedding_dim, 1, side)
        if row:
            v = self.level.embedding(ids[:, (row - 1) * side : row * side]).transpose(1, 2)[:, :, None]
        self.from_above = []
        for layer, told, above, left in zip(self.level.gated_layers(), self.told, self.above, self.left, strict=True):
            above[:, :, layer.reach + row, layer.reach : layer.reach + side] = v[:, :, 0]
            v, across = layer.down(above[:, :, row : row + layer.reach + 1], told[:, :, row : row + 1])
            self.from_above.append(across)
            left.zero_()

    def _across(self, ids: Tensor, row: int, column: int) -> Tensor:
        h = self.left[0].new_zeros(len(ids), self.level.embedding.embedding_dim, 1, 1)
        if column:
            h = self.level.embedding(ids[:, row * self.level.grid + column - 1])[:, :, None, None]
        for layer, told, left, from_above in zip(
            self.level.gated_layers(), self.told, self.left, self.from_above, strict=True
        ):
            left[..., layer.reach + column] = h[..., 0]
            h = layer.across(
                h,
                left[..., column : column + layer.reach + 1],
                from_above[..., column : column + 1],
                told[:, :, row : row + 1, column : column + 1],
            )
        return h
