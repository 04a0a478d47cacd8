"""The one training loop, for every objective."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pinxit.errors import PinxitError
from pinxit.objectives.objective import Batch, Objective, Raw
from pinxit.training.averaging import Average
from pinxit.training.distributed import World
from pinxit.training.interrupts import Interrupts, Stopped
from pinxit.training.memory import keep_freed_memory
from pinxit.training.optimizers import OptimizerConfig, learning_rate, make_optimizers, set_learning_rate
from pinxit.training.precision import Precision, autocast
from pinxit.training.progress import Meter, Progress
from pinxit.training.state import State, frozen_parts, prune, resume, step_folder


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at once, and how often to look."""

    steps: int
    batch_size: int
    """Samples that one optimizer step sees, over all processes."""
    accumulate: int = 1
    """Parts in which a process works through its share of the batch; more parts need less memory."""
    precision: Precision = "auto"
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are validated and shipped; 0 ships the weights themselves."""
    seed: int = 0
    workers: int = 0
    """Processes that load data."""
    channels_last: bool = False
    """Memory order of convolutional networks; often faster."""
    log_every: int = 20
    validate_every: int = 500
    preview_every: int = 500
    checkpoint_every: int = 500
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "validate_every",
            "preview_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise PinxitError(f"training.{name} is {getattr(self, name)}: allowed is 1 or more.")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise PinxitError(f"training.{name} is {getattr(self, name)}: allowed is 0 or more.")
        if not 0 <= self.ema_decay < 1:
            raise PinxitError(f"training.ema_decay is {self.ema_decay}: allowed is 0 to less than 1.")
        if self.batch_size % self.accumulate:
            raise PinxitError(
                f"training.batch_size is {self.batch_size}: allowed are multiples of accumulate={self.accumulate}."
            )

    def due(self, every: int, step: int) -> bool:
        """Whether something is to happen after `step` steps: now and then, and at the end."""
        return step % every == 0 or step == self.steps


class Batches(Protocol):
    """An endless stream of this process's share of each batch, that knows its position (`data.loader.Loader`)."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SaveModel(Protocol):
    """Writes the model as it stands into a folder, given the steps done and the latest validation's numbers."""

    def __call__(self, folder: Path, *, step: int, metrics: Mapping[str, float]) -> None: ...


def train(
    objective: Objective,
    batches: Batches,
    training: TrainingConfig,
    optimizer: OptimizerConfig,
    *,
    out: Path,
    save_model: SaveModel,
    validation: Callable[[], Iterable[Batch]] | None = None,
    begin: Callable[[], None] | None = None,
    world: World | None = None,
    turns: Mapping[str, OptimizerConfig] | None = None,
) -> None:
    """Trains up to `training.steps`, from the newest state in `out` if there is one, and writes `out/model`.

    `batches` yields this process's `batch_size / accumulate / world.size` samples at a time. `begin` is called once the
    state is known to fit, before anything is written. `turns` are those of the objective that learn otherwise than by
    `optimizer`. Raises `Stopped` after a signal, with the run saved, and PinxitError for a loss or gradient that is not
    finite.
    """
    # The networks, and what moves with them.
    world = world or World()
    if world.device.type == "cpu":
        keep_freed_memory()
    objective.to(world.device)
    if training.channels_last:
        objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    moved = {turn: [value for _, value in objective.parameters_of(turn)] for turn in objective.turns}
    learns = {turn: (turns or {}).get(turn, optimizer) for turn in objective.turns}
    optimizers = {turn: make_optimizers(objective, objective.parameters_of(turn), how) for turn, how in learns.items()}
    average = Average(objective.networks(), training.ema_decay)
    mixed = autocast(training.precision, world.device)

    # Where an earlier run stopped.
    state = State(objective, optimizers, average)
    step = 0
    metrics: dict[str, float] = {}
    if found := resume(state, out / "checkpoints", world.say):
        step, metrics = found["step"], found["metrics"]
        batches.load_state_dict(found["data"])
        world.say(f"Goes on after step {step}.")
    if begin:
        begin()
    wrapped = world.wrap(objective, several_turns=len(objective.turns) > 1)

    stream, meter, due = iter(batches), Meter(), training.due
    with Progress(out, world, step, training.steps, training.batch_size) as progress, Interrupts() as interrupts:
        if training.tensorboard:
            progress.open_tensorboard()
        set_training(objective)
        while step < training.steps:
            # The step's randomness, which depends on the seed and the place alone; its data; its learning rate.
            seed_torch(step_seed(training.seed, step, world.rank), world.device)
            parts = [to_device(next(stream), world.device, training.channels_last) for _ in range(training.accumulate)]
            rates = {turn: learning_rate(how, step, training.steps) for turn, how in learns.items()}

            # Loss, gradient and step, for each turn.
            for turn in objective.turns:
                label = "" if len(objective.turns) == 1 else f"{turn}/"
                for each in optimizers[turn]:
                    each.zero_grad(set_to_none=True)
                for index, part in enumerate(parts, start=1):
                    with world.accumulate(wrapped, more=index < len(parts)):
                        with mixed:
                            loss, numbers = wrapped(part, turn, step)
                        (loss / len(parts)).backward()
                    meter.add(label, {**numbers, "loss": loss})
                norm = clip_grad_norm_(moved[turn], learns[turn].clip or math.inf)
                meter.add(label, {"gradient_norm": norm})
                meter.watch(step, {f"{label}loss": loss, f"{label}gradient_norm": norm})
                set_learning_rate(optimizers[turn], rates[turn])
                for each in optimizers[turn]:
                    each.step()
            objective.after_step(step)
            average.update(step)
            step += 1
            progress.advance()

            # A loss or gradient that is no number ends the run before it is saved. No GPU is waited for at every step.
            logs, saves = due(training.log_every, step), due(training.checkpoint_every, step)
            if logs or saves or world.device.type == "cpu":
                meter.refuse_nan()

            # What there is to tell and to look at, with the averaged weights.
            if logs:
                progress.numbers(step, {**meter.means(world), "lr": rates[objective.turns[0]]})
            if validation and due(training.validate_every, step):
                with progress.aside(), average.in_place(), mixed:
                    metrics = validate(objective, validation(), step, training, world, average.raw)
                progress.validated(step, metrics)
            if world.leads and due(training.preview_every, step):
                with progress.aside(), average.in_place(), mixed:
                    progress.picture(step, preview(objective, training, world.device))

            # What a later run needs.
            stop = world.any(interrupts.signal is not None)
            if saves or stop:
                with progress.aside():
                    if world.leads:
                        write = partial(save_model, step=step, metrics=metrics)
                        state.save(step_folder(out / "checkpoints", step), step, batches.state_dict(), metrics, write)
                        prune(out / "checkpoints", world.say)
                    world.wait()
            if stop and step < training.steps:
                raise Stopped(step, interrupts.signal or signal.SIGTERM)

    # The finished model.
    if world.leads:
        with average.in_place():
            save_model(out / "model", step=step, metrics=metrics)
    world.wait()


@torch.no_grad()
def validate(
    objective: Objective, batches: Iterable[Batch], step: int, training: TrainingConfig, world: World, raw: Raw | None
) -> dict[str, float]:
    """The objective's numbers over the validation batches, which the processes share out; always the same noise.

    `raw` puts the weights themselves in the place of their averages, and back; None where there are none.
    """
    objective.eval()
    meter = Meter()
    for index, batch in islice(enumerate(batches), world.rank, None, world.size):
        seed_torch(step_seed(training.seed, index, 0), world.device)
        meter.add("", objective.validate(to_device(batch, world.device, training.channels_last), step))
    concluded = {name: float(value) for name, value in objective.conclude(world.gather, raw).items()}
    set_training(objective)
    return {**meter.means(world), **concluded}


@torch.no_grad()
def preview(objective: Objective, training: TrainingConfig, device: torch.device) -> Image.Image | None:
    """The objective's picture of itself, always from the same noise."""
    objective.eval()
    seed_torch(step_seed(training.seed, 0, 0), device)
    picture = objective.preview()
    set_training(objective)
    return picture


def set_training(objective: Objective) -> None:
    """Training mode for what is trained; frozen parts stay as they are used, in evaluation mode."""
    objective.train()
    for name in frozen_parts(objective):
        objective.get_submodule(name).eval()


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the CPU and this device; `torch.manual_seed` spends more on devices that are not there."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def to_device(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    """The batch with its tensors on the device."""
    moved = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
            moved[name] = value.to(device, non_blocking=True, memory_format=layout)
        else:
            moved[name] = value
    return moved
