"""What a run needs to go on as if it had not stopped: weights, averages, optimizers, the position in the data.

`checkpoints/step-0001000/` is a checkpoint folder of kind "training" with `weights`, `average` and `optimizer` as
safetensors, and beside them `model/`, the model as it stood, for whoever wants to try it before the run ends.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinxit.checkpoints.files import read_config, read_tensors, replace_folder, write_config, write_tensors
from pinxit.errors import PinxitError
from pinxit.objectives.objective import Objective
from pinxit.training.averaging import Average
from pinxit.training.optimizers import Muon

KEEP = 2
STEP = re.compile(r"step-(\d{7,})")


@dataclass
class State:
    """All that changes from step to step, apart from the data's position."""

    objective: Objective
    optimizers: Mapping[str, Sequence[torch.optim.Optimizer]]
    """By turn."""
    average: Average

    def save(
        self,
        folder: Path,
        step: int,
        data: Mapping[str, Any],
        metrics: Mapping[str, float],
        save_model: Callable[[Path], None],
    ) -> None:
        """Writes `folder`, whole or not at all. `data` is the position in the data."""
        slots = {
            f"{turn}/{slot}/{name}": value
            for turn, optimizers in self.optimizers.items()
            for optimizer in optimizers
            for name, parameter in self.objective.parameters_of(turn)
            for slot, value in optimizer.state.get(parameter, {}).items()
        }
        with replace_folder(folder) as partial:
            write_config(partial, {"kind": "training", "step": step, "data": data, "metrics": metrics})
            write_tensors(partial, "weights", trained_state(self.objective))
            write_tensors(partial, "average", self.average.state_dict())
            write_tensors(partial, "optimizer", slots)
            with self.average.in_place():
                save_model(partial / "model")

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores what `save` wrote; returns its "step", "data" and "metrics"."""
        config = read_config(folder)
        if config["kind"] != "training" or not config.keys() >= {"step", "data", "metrics"}:
            raise PinxitError(f"{folder} is no state of a training run.")
        weights, average, slots = (read_tensors(folder, name) for name in ("weights", "average", "optimizer"))
        live = trained_state(self.objective)
        if odd := sorted(weights.keys() ^ live.keys()):
            raise PinxitError(f"{folder} does not fit the recipe: {odd[0]!r} is on one side only.")
        for name, value in live.items():
            if weights[name].shape != value.shape:
                shapes = f"{list(weights[name].shape)}, not {list(value.shape)}"
                raise PinxitError(f"{folder} does not fit the recipe: {name!r} has shape {shapes}.")
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(weights[name])
        self.average.load_state_dict(average)
        for turn, optimizers in self.optimizers.items():
            learner = {value: each for each in optimizers for group in each.param_groups for value in group["params"]}
            for name, parameter in self.objective.parameters_of(turn):
                optimizer = learner[parameter]
                places = {slot: f"{turn}/{slot}/{name}" for slot in SLOTS[type(optimizer)]}
                found = {slot: slots[place] for slot, place in places.items() if place in slots}
                if found:  # nothing of what an optimizer of another kind remembered
                    optimizer.state[parameter] = {slot: _laid_out(value, parameter) for slot, value in found.items()}
        return config


SLOTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}
"""What each kind of optimizer remembers of a parameter."""


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A slot on the parameter's device and in its memory order: the fused AdamW pairs elements by address."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def trained_state(objective: Objective) -> dict[str, Tensor]:
    """The objective's tensors without those of its frozen parts, which came from elsewhere and do not change."""
    frozen = tuple(f"{name}." for name in frozen_parts(objective))
    return {name: value for name, value in objective.state_dict().items() if not name.startswith(frozen)}


def frozen_parts(objective: Objective) -> list[str]:
    """Names of the modules that have parameters, none of which is trained."""
    names = []
    for name, module in objective.named_modules():
        parameters = list(module.parameters())
        if name and parameters and not any(value.requires_grad for value in parameters):
            names.append(name)
    return names


def step_folder(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies."""
    return folder / f"step-{step:07d}"


def saved_steps(folder: Path) -> list[Path]:
    """The states in `folder`, newest first. What a crash left unfinished has another kind of name."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def last_step(folder: Path) -> int:
    """The step of the newest state in `folder`; 0 where there is none."""
    found = saved_steps(folder)
    return int(found[0].name.removeprefix("step-")) if found else 0


def resume(state: State, folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Loads the newest whole state. Passes over a damaged one, aloud; None where there is none at all."""
    first: PinxitError | None = None
    for path in saved_steps(folder):
        try:
            found = state.load(path)
        except PinxitError as error:
            say(f"{path.name} is passed over: {error}")
            first = first or error
        else:
            return found
    if first:
        raise first
    return None


def prune(folder: Path, say: Callable[[str], None]) -> None:
    """Deletes all but the newest states, and what crashes left. A failure costs space, not the run."""
    for path in [*saved_steps(folder)[KEEP:], *folder.glob(".step-*")]:
        try:
            shutil.rmtree(path)
        except OSError as error:
            say(f"Could not delete {path}: {error.strerror or error}.")
