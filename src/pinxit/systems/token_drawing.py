"""Grids of codes by a network over them: what all systems that draw tokens have in common."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.errors import PinxitError, unknown
from pinxit.models.pixelcnn import PixelCNN, PixelCNNConfig
from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig
from pinxit.nn.compiling import check_compiler, compiled
from pinxit.nn.packing import can_pack, packed
from pinxit.progress import Progress
from pinxit.systems.system import Settings
from pinxit.tokens.parallel import fill, noise
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

Prior = TokenTransformer | PixelCNN
"""A network that tells codes from those before them, or from all others."""

CodesNetworkConfig = TokenTransformerConfig | PixelCNNConfig


class Network(NamedTuple):
    """A row of the table of networks over codes."""

    file: str
    """The name of its safetensors."""
    config: type[Any]
    network: type[Any]


PRIORS = {
    "token_transformer": Network("transformer", TokenTransformerConfig, TokenTransformer),
    "pixelcnn": Network("pixelcnn", PixelCNNConfig, PixelCNN),
}
"""The kind of a checkpoint -> what it holds."""

BATCH = 32
"""Pictures that are drawn at once."""

STEPS = 12
"""Of drawing in any order, where nothing is asked."""

DEFAULTS: Settings = {
    "guidance": 1.0,
    "negative": None,
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "rerank": None,
    "size": None,
}
"""What is in force where a checkpoint and the person say nothing."""


def defaults_of(order: str) -> Settings:
    """The settings of drawing in an order: steps too, where that is any."""
    return Settings(**{**DEFAULTS, "steps": STEPS}) if order == "masked" else DEFAULTS


def prior_kind(config: CodesNetworkConfig) -> str:
    """The kind of checkpoint that a config is of."""
    return next(kind for kind, row in PRIORS.items() if isinstance(config, row.config))


class TokenDrawer:
    """A network over codes at work, one code after the other or many at once as it has learnt."""

    def __init__(self, network: Prior, twin: Prior | None = None) -> None:
        """`twin` draws in the place of `network`, where it is faster."""
        self.network = network
        self.twin = twin or network

    @classmethod
    def ready(cls, network: Prior, device: torch.device) -> TokenDrawer:
        """For a network that learns no more; on a CPU with its weights laid out for few rows, half as fast again."""
        network = network.to(device).eval().requires_grad_(False)
        return cls(network, packed(network) if device.type == "cpu" and can_pack() else None)

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """Draws in bfloat16, by a compiled network, or both."""
        if compile and isinstance(self.network, PixelCNN):
            raise PinxitError("A PixelCNN is asked in steps too small to compile. Leave compile out.")
        if compile:
            check_compiler(self.device)
        if compile or self.device.type != "cpu" or not can_pack():
            network = copy.deepcopy(self.network).bfloat16() if bf16 else self.network
            self.twin = compiled(network) if compile else network
        else:
            self.twin = packed(self.network, torch.bfloat16 if bf16 else None)

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return next(self.network.parameters()).device

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> TokenDrawer:
        """Reads config.json and the network's safetensors."""
        config = read_config(folder)
        if config["kind"] not in PRIORS:
            raise unknown("network over codes of kind", str(config["kind"]), PRIORS)
        row = PRIORS[config["kind"]]
        network = row.network(from_config(row.config, config.get("config", {})))
        load_network(folder, row.file, network)
        return cls.ready(network, device)

    @torch.inference_mode()
    def draw(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        *,
        away: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        given: Tensor | None = None,
        known: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes for each condition (b l, or vectors b w) and seed, int64 b h w, or b n of several grids, in batches.

        `away` (1 l or 1 w) is what guidance leads away from; no condition where there is none. `shape` (h w) is that of
        the picture where it is larger than what the network has learnt, which then slides over it as a window. Of the
        codes `given` (1 n) those stay that `known` (n, boolean) marks.
        """
        drawn: list[Tensor] = []
        conditions = conditions.to(self.device)
        away = self.network.no_condition(1) if away is None else away.to(self.device)
        shape = shape or self.network.config.shape
        for start in range(0, len(conditions), BATCH):
            rows = conditions[start : start + BATCH]

            def told(token: int, tokens: int, before: int = start, now: int = len(rows)) -> None:
                if progress:
                    progress(before * tokens + token * now, len(conditions) * tokens)

            both = rows if settings["guidance"] == 1 else torch.cat([rows, away.expand(len(rows), -1)])
            ids = torch.zeros(len(rows), math.prod(shape), dtype=torch.int64, device=self.device)
            done = torch.zeros(ids.shape[1], dtype=torch.bool)
            if given is not None and known is not None:
                ids, done = given.to(self.device).expand_as(ids).clone(), known.clone()
            self._slide(both, seeds[start : start + BATCH], settings, shape, ids, done, told)
            drawn.append(ids)
        return torch.cat(drawn).view(-1, *shape)

    def _slide(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        shape: tuple[int, ...],
        ids: Tensor,
        done: Tensor,
        progress: Progress,
    ) -> None:
        """Draws those of `ids` (b n) that are not `done` (n), window by window (Esser et al. 2021, section 3.3).

        A window sees half of the one before. A code's noise belongs to its place, whatever the windows are.
        """
        draw = self._in_any_order if self.network.config.order == "masked" else self._in_turn
        noises = self._noise(seeds, settings, len(done))
        places = list(windows(shape, self.network.config.shape))
        for number, place in enumerate(places):

            def told(token: int, tokens: int, before: int = number) -> None:
                progress(before * tokens + token, len(places) * tokens)

            ids[:, place] = draw(conditions, noises[..., place], settings, ids[:, place], done[place], told)
            done[place] = True

    def _noise(self, seeds: Sequence[int], settings: Settings, count: int) -> Tensor:
        if self.network.config.order == "masked":
            return noise(seeds, settings.get("steps") or STEPS, count)
        return uniforms(seeds, count)

    def _in_turn(
        self, conditions: Tensor, uniform: Tensor, settings: Settings, ids: Tensor, known: Tensor, progress: Progress
    ) -> Tensor:
        following = self.twin.following(conditions)
        return sample(
            following if settings["guidance"] == 1 else guide(following, settings["guidance"]),
            uniform,
            _choice(settings),
            given=ids,
            known=known,
            progress=progress,
        )

    def _in_any_order(
        self, conditions: Tensor, uniform: Tensor, settings: Settings, ids: Tensor, known: Tensor, progress: Progress
    ) -> Tensor:
        assert isinstance(self.twin, TokenTransformer)
        twin, mask_id = self.twin, self.twin.mask_id

        def told(ids: Tensor) -> Tensor:
            return twin(conditions, ids)[1]  # type: ignore[no-any-return]

        return fill(
            told if settings["guidance"] == 1 else guide(told, settings["guidance"]),
            ids.masked_fill(~known.to(ids.device), mask_id),
            mask_id,
            uniform,
            _choice(settings),
            progress=progress,
        )


def windows(shape: tuple[int, ...], window: tuple[int, ...]) -> Iterator[Tensor]:
    """The places of each window in the codes of `shape`, n of them, row by row, each half a window on."""
    places = torch.arange(math.prod(shape)).view(shape)
    if shape == window:
        yield places.flatten()
        return
    (rows, columns), (high, wide) = shape, window
    for top in _starts(rows, high):
        for left in _starts(columns, wide):
            yield places[top : top + high, left : left + wide].flatten()


def _starts(whole: int, part: int) -> list[int]:
    return sorted({*range(0, whole - part, part - part // 2), whole - part})


def _choice(settings: Settings) -> Choice:
    return Choice(settings["temperature"], settings["top_k"], settings["top_p"])
