"""A run small enough to be repeated hundreds of times: a network that learns a noisy line."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pinxit.checkpoints.files import save_checkpoint
from pinxit.data.loader import Loader
from pinxit.objectives.objective import Batch, Numbers, Objective
from pinxit.training.distributed import World
from pinxit.training.loop import TrainingConfig, train
from pinxit.training.optimizers import OptimizerConfig


class Line(Objective):
    """Fits y = 3x - 1 through dropout and noise, so that a wrong seed or position shows."""

    def __init__(self, noise: float = 0.1, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.noise = noise
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.teacher = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).requires_grad_(False)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        noise = self.noise * torch.randn_like(batch["x"])
        error = self.net(batch["x"] + noise) - batch["y"]
        loss = error.square().mean()
        return loss, {"error": error.detach().abs().mean(), "step_seen": step}

    def preview(self) -> Image.Image | None:
        return Image.new("RGB", (4, 4))


def transform(sample: float, rng: np.random.Generator) -> dict[str, Any]:
    x = np.float32(sample + 0.01 * rng.standard_normal())
    return {"x": np.array([x]), "y": np.array([3 * x - 1], dtype=np.float32)}


def loader(config: TrainingConfig, world: World | None = None) -> Loader:
    world = world or World()
    return Loader(
        list(np.linspace(-1, 1, 50)),
        batch_size=config.batch_size // config.accumulate,
        transform=transform,
        seed=config.seed,
        rank=world.rank,
        world=world.size,
        workers=config.workers,
    )


def held_back() -> Iterator[Batch]:
    for x in (-0.5, 0.0, 0.5):
        yield {"x": torch.tensor([[x]]), "y": torch.tensor([[3 * x - 1]])}


def config(**changes: Any) -> TrainingConfig:
    given = {
        "steps": 12,
        "batch_size": 8,
        "log_every": 3,
        "validate_every": 5,
        "preview_every": 5,
        "checkpoint_every": 4,
    }
    return TrainingConfig(**{**given, **changes})


OPTIMIZER = OptimizerConfig(lr=0.01, warmup=2, weight_decay=0.1)
CONSTANT = replace(OPTIMIZER, schedule="constant")


def run(
    out: Path,
    objective: Objective | None = None,
    world: World | None = None,
    optimizer: OptimizerConfig = OPTIMIZER,
    turns: Mapping[str, OptimizerConfig] | None = None,
    **changes: Any,
) -> Objective:
    """Trains the toy in `out`, from where it was; returns the objective."""
    objective = objective or Line()
    settings = config(**changes)

    def save_model(folder: Path, *, step: int, metrics: Mapping[str, float]) -> None:
        save_checkpoint(folder, {"kind": "toy", "step": step, "metrics": metrics}, dict(objective.networks()))

    train(
        objective,
        loader(settings, world),
        settings,
        optimizer,
        out=out,
        save_model=save_model,
        validation=held_back,
        world=world,
        turns=turns,
    )
    return objective
