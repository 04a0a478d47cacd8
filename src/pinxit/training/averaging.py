"""The exponential moving average of the weights, which is what gets validated and shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.objectives.objective import Raw


class Average:
    """Averages of every trained parameter of `networks`: average <- d * average + (1 - d) * parameter.

    d is `decay`, but at most (1 + step) / (10 + step), so that short runs are not held back by their first weights. A
    decay of 0 keeps no average: the weights stand for themselves. Buffers are not averaged.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        parameters = nn.ModuleDict(networks).named_parameters()  # each once, also where networks share
        self.live = {name: value for name, value in parameters if value.requires_grad} if decay else {}
        self.kept = [value.detach().clone() for value in self.live.values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the weights in, after step `step` (from 0)."""
        if self.kept:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.kept, list(self.live.values()), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The networks hold the averages inside, their own weights again afterwards. Nothing is copied.

        Within itself it is the other way round: there the networks hold their own weights.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @property
    def raw(self) -> Raw | None:
        """Inside of `in_place`, where the networks hold their own weights; None where nothing is averaged."""
        return self.in_place if self.live else None

    def _swap(self) -> None:
        for index, value in enumerate(self.live.values()):
            value.data, self.kept[index] = self.kept[index], value.data
        torch.clear_autocast_cache()  # which knows weights by their parameter, and would go on with the others

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names."""
        return dict(zip(self.live, self.kept, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores them."""
        if odd := state.keys() ^ self.live.keys():
            raise PinxitError(f"The saved averages do not fit: {sorted(odd)[0]!r} is on one side only.")
        for name, kept in zip(self.live, self.kept, strict=True):
            kept.copy_(state[name])
