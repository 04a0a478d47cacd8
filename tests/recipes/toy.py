"""A recipe that learns the mean colour of pictures, and a pipeline around it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pinxit.checkpoints.files import replace_folder, to_config, write_config
from pinxit.data.images import fit, to_tensor
from pinxit.data.loader import stack
from pinxit.data.sample import Pairs, Sample
from pinxit.objectives.objective import Batch, Numbers, Objective
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, hold_back
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig


@dataclass(frozen=True)
class ModelConfig:
    width: int
    kernel: Literal["box", "hat"] = "box"
    depth: int | None = None
    bias: bool = True


@dataclass(frozen=True)
class ColourDataConfig(DataConfig):
    validation: int = 4
    captions: Mapping[str, float] = field(default_factory=lambda: {"alt": 1.0, "short": 1.0, "long": 1.0})


class MeanColour(Objective):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 3))

    def networks(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        mean = batch["pixels"].mean(dim=(2, 3))
        return (self.net(torch.randn_like(mean)) - mean).square().mean(), {"brightness": mean.mean()}


def build(recipe: Recipe, context: Context, pairs: Pairs) -> Run:  # noqa: ARG001
    def transform(sample: Sample, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG001
        return {"pixels": to_tensor(fit(sample.image, 16))}

    seen, held = hold_back(pairs, recipe.data.validation)

    def validation() -> Iterator[Batch]:
        yield stack([transform(held[i], np.random.default_rng(0)) for i in range(len(held))])

    return Run(
        objective=MeanColour(recipe.model.width),
        samples=seen,
        transform=transform,
        config={"kind": "toy", "config": to_config(recipe.model)},
        validation=validation,
        card=lambda metrics: f"# Mean colour\n\n{dict(metrics)}\n",
    )


def mean_colour() -> Recipe:
    return Recipe(
        name="mean-colour",
        summary="The mean colour of pictures.",
        hardware="one core",
        hours=0.001,
        expected="a grey",
        model=ModelConfig(width=4),
        objective=None,
        data=ColourDataConfig(),
        optimizer=OptimizerConfig(lr=0.01),
        training=TrainingConfig(
            steps=4, batch_size=4, log_every=2, validate_every=2, preview_every=4, checkpoint_every=2
        ),
        learns_from=lambda recipe, context: context.pairs(recipe.data, 16),
        build=build,
    )


@dataclass(frozen=True)
class Count:
    """A stage that trains nothing: counts the weights of the stage before."""

    name: str = "count"
    summary: str = "Counts weights."
    times: int = 1

    def done(self, context: Context) -> bool:
        return (context.out / "config.json").exists()

    def run(self, context: Context) -> None:
        weights = sum(path.stat().st_size for path in context.model("mean").glob("*.safetensors"))
        with replace_folder(context.out) as partial:
            write_config(partial, {"kind": "count", "weights": weights * self.times})


def pipeline() -> Pipeline:
    return Pipeline(
        name="two",
        summary="Mean colours, counted.",
        hardware="one core",
        hours=0.002,
        expected="a number",
        stages={"mean": mean_colour(), "count": Count()},
    )
