"""Grids of codes by a token transformer: what all systems that draw tokens have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.errors import PinxitError, unknown
from pinxit.models.token_transformer import Continuation, TokenTransformer, TokenTransformerConfig
from pinxit.nn.packing import can_pack, packed
from pinxit.progress import Progress
from pinxit.systems.system import Settings, check
from pinxit.tokens.parallel import fill, noise
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

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
}
"""What is in force where a checkpoint and the person say nothing."""


def defaults_of(config: TokenTransformerConfig) -> Settings:
    """The settings that a transformer is drawn with: steps too, where it draws in any order."""
    return Settings(**{**DEFAULTS, "steps": STEPS}) if config.order == "masked" else DEFAULTS


class TokenDrawer:
    """A token transformer at work, one token after the other or many at once as it has learnt."""

    def __init__(self, network: TokenTransformer, twin: TokenTransformer | None = None) -> None:
        """`twin` draws in the place of `network`, where it is faster."""
        self.network = network
        self.twin = twin or network

    @classmethod
    def ready(cls, network: TokenTransformer, device: torch.device) -> TokenDrawer:
        """For a network that learns no more; on a CPU with its weights laid out for few rows, half as fast again."""
        network = network.to(device).eval().requires_grad_(False)
        return cls(network, packed(network) if device.type == "cpu" and can_pack() else None)

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.network.condition_position.device

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> TokenDrawer:
        """Reads config.json and transformer.safetensors."""
        network = TokenTransformer(from_config(TokenTransformerConfig, read_config(folder).get("config", {})))
        load_network(folder, "transformer", network)
        return cls.ready(network, device)

    @torch.inference_mode()
    def draw(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        *,
        away: Tensor | None = None,
        given: Tensor | None = None,
        known: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """A grid of codes for each condition (b l, or vectors b w) and seed, int64 b h w, in batches.

        `away` (1 l or 1 w) is what guidance leads away from; no condition where there is none. `given` (1 m or 1 n) are
        the first codes of each, or those that `known` (n, boolean) marks.
        """
        drawn: list[Tensor] = []
        conditions = conditions.to(self.device)
        away = self.network.no_condition(1) if away is None else away.to(self.device)
        for start in range(0, len(conditions), BATCH):
            rows = conditions[start : start + BATCH]

            def told(token: int, tokens: int, before: int = start, now: int = len(rows)) -> None:
                if progress:
                    progress(before * tokens + token * now, len(conditions) * tokens)

            both = rows if settings["guidance"] == 1 else torch.cat([rows, away.expand(len(rows), -1)])
            draw = self._in_any_order if self.network.config.order == "masked" else self._in_turn
            drawn.append(draw(both, seeds[start : start + BATCH], settings, given, known, told))
        return torch.cat(drawn).view(-1, *self.network.config.grid)

    def _in_turn(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        given: Tensor | None,
        known: Tensor | None,
        progress: Progress,
    ) -> Tensor:
        following = Continuation(self.twin, conditions)
        return sample(
            following if settings["guidance"] == 1 else guide(following, settings["guidance"]),
            uniforms(seeds, self.network.config.image_length),
            _choice(settings),
            given=None if given is None else given.expand(len(seeds), -1),
            known=known,
            progress=progress,
        )

    def _in_any_order(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        given: Tensor | None,
        known: Tensor | None,
        progress: Progress,
    ) -> Tensor:
        count = self.network.config.image_length
        ids = torch.full((len(seeds), count), self.network.mask_id, device=self.device)
        if given is not None:
            place = torch.arange(count) < given.shape[1] if known is None else known
            ids[:, place] = given.to(self.device)[:, place[: given.shape[1]]]

        def told(ids: Tensor) -> Tensor:
            return self.twin(conditions, ids)[1]  # type: ignore[no-any-return]

        return fill(
            told if settings["guidance"] == 1 else guide(told, settings["guidance"]),
            ids,
            self.network.mask_id,
            noise(seeds, settings.get("steps") or STEPS, count),
            _choice(settings),
            progress=progress,
        )


def _choice(settings: Settings) -> Choice:
    return Choice(settings["temperature"], settings["top_k"], settings["top_p"])


def read_defaults(folder: Path, given: Any, known: Settings) -> Settings:
    """The `defaults` of a checkpoint's config.json, once they make sense."""
    try:
        if not isinstance(given, dict):
            raise PinxitError("they are no object.")
        for name in given:
            if name not in known:
                raise unknown("setting", name, known)
        asked = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]
        check(1, 0, asked)
    except PinxitError as fault:
        raise PinxitError(f"The defaults in {folder / 'config.json'} cannot be used: {fault}") from None
    return asked
