"""AdamW with decay groups, Muon for matrices, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError

UNDECAYED = ("embedding", "position")
"""Parameters with one of these in their name are spared weight decay."""

ENDS = ("stem", "head", "projection")
"""In the names of first and last layers, which stay with AdamW."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), Muon for matrices where asked; a linear warm-up, a cosine to a floor."""

    lr: float
    """The highest learning rate, reached after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW, as `eps`; Muon's momentum is 0.95."""
    eps: float = 1e-8
    matrices: Literal["adamw", "muon"] = "adamw"
    """What the matrices between embeddings and heads learn by, and the kernels of convolutions: Muon (Jordan et al.
    2024) makes each step orthogonal, as large as one of AdamW's at the same `lr` (Liu et al. 2025, section 2.2). All
    else learns by AdamW."""
    weight_decay: float = 0.0
    warmup: int = 0
    """Steps over which the learning rate rises from zero."""
    schedule: Literal["cosine", "constant"] = "cosine"
    floor: float = 0.05
    """The share of `lr` that the cosine ends at."""
    clip: float = 1.0
    """Gradients are scaled down to this norm, together; 0 leaves them."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise PinxitError(f"optimizer.lr is {self.lr}: allowed is more than 0.")
        for name in ("weight_decay", "warmup", "floor", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PinxitError(f"optimizer.{name} is {getattr(self, name)}: allowed is 0 or more.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise PinxitError(f"optimizer.betas is {self.betas}: allowed is 0 to less than 1 each.")


def make_optimizers(
    module: nn.Module, named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """Over the `named` parameters of `module`: AdamW in two groups, after Muon where the config asks for it.

    No weight decay for vectors and scalars (biases, norms, temperatures), for `nn.Embedding`, and for what is called an
    embedding or a position: decay would only shrink what no later weight makes up for.
    """
    embeddings = {
        id(weight) for part in module.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()
    }
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, value in named:
        if value.ndim <= 1 or id(value) in embeddings or any(word in name.lower() for word in UNDECAYED):
            spared.append(value)
        elif config.matrices == "muon" and value.ndim in (2, 4) and not any(word in name.lower() for word in ENDS):
            matrices.append(value)
        else:
            decayed.append(value)
    made: list[torch.optim.Optimizer] = []
    if config.matrices == "muon":
        if not matrices:
            raise PinxitError(
                "optimizer.matrices is muon, but this network has no matrices between embeddings and heads: "
                "allowed here is adamw."
            )
        adjust = "match_rms_adamw"
        made.append(Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn=adjust))
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if groups:
        made.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True))
    return made


class Muon(torch.optim.Muon):
    """torch's, for kernels of convolutions as well: matrices with a row for each output (Jordan et al. 2024)."""

    def __init__(self, values: Sequence[nn.Parameter], **options: Any) -> None:
        super().__init__([nn.Parameter(_matrix(value, value.detach())) for value in values], **options)
        self.param_groups[0]["params"] = list(values)

    def step(self, closure: Any = None) -> Any:
        """In the steps of the base class, each kernel is a matrix over its own memory."""
        group, values = self.param_groups[0], self.param_groups[0]["params"]
        group["params"] = [self._as_matrix(value) for value in values]
        told = super().step(closure)  # type: ignore[no-untyped-call]
        for value, matrix in zip(values, group["params"], strict=True):
            if matrix in self.state:
                self.state[value] = self.state.pop(matrix)
        group["params"] = values
        return told

    def _as_matrix(self, value: nn.Parameter) -> nn.Parameter:
        matrix = nn.Parameter(_matrix(value, value.detach()))
        matrix.grad = None if value.grad is None else _matrix(value, value.grad)
        if value in self.state:
            self.state[matrix] = self.state.pop(value)
        return matrix


def _matrix(kernel: Tensor, value: Tensor) -> Tensor:
    """A kernel, or its gradient, as a matrix, in the order in which the kernel lies in memory: its own is no copy."""
    return (value if kernel.ndim == 2 or kernel.is_contiguous() else value.permute(0, 2, 3, 1)).flatten(1)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) in a run of `steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return config.lr * (config.floor + (1 - config.floor) * cosine)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Sets it for every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
