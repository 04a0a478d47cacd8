"""What a run tells while it goes: numbers in log.jsonl, a bar or quiet lines, pictures in samples/."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pinxit.errors import PinxitError
from pinxit.objectives.objective import Numbers
from pinxit.progress import QUIET_SECONDS, clock
from pinxit.training.distributed import World


class Meter:
    """Numbers of several steps, left on their device until somebody reads their means."""

    def __init__(self) -> None:
        self.held: dict[str, list[Tensor | float]] = {}
        self.watched: list[tuple[int, str, Tensor]] = []

    def add(self, label: str, numbers: Numbers) -> None:
        """Keeps numbers, under their names behind `label`. Costs no wait for the device."""
        for name, value in numbers.items():
            self.held.setdefault(label + name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def watch(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """Keeps numbers of step `step` (from 0) that have to be finite."""
        self.watched += [(step, name, value.detach()) for name, value in numbers.items()]

    def refuse_nan(self) -> None:
        """Raises PinxitError if a watched number is NaN or infinite, naming the first such step."""
        finite = torch.isfinite(torch.stack([value for _, _, value in self.watched])).tolist()
        for (step, name, value), fine in zip(self.watched, finite, strict=True):
            if not fine:
                raise PinxitError(
                    f"{name} is {value.item()} in step {step + 1}. The last checkpoint is kept. To go on from it, give "
                    "--accept-changes with a lower optimizer.lr, a lower optimizer.clip or training.precision=float32."
                )
        self.watched = []

    def means(self, world: World) -> dict[str, float]:
        """The mean of each number over what was added since the last call, in all processes."""
        sums = (
            torch.stack([_column(values, world.device).sum() for values in self.held.values()]).tolist()
            if self.held
            else []
        )
        here = {name: (total, len(values)) for (name, values), total in zip(self.held.items(), sums, strict=True)}
        self.held = {}
        everywhere = world.gather(here)  # they need not have seen the same names, nor equally often
        found: dict[str, list[tuple[float, int]]] = {}
        for process in everywhere:
            for name, pair in process.items():
                found.setdefault(name, []).append(pair)
        return {name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}


class Progress:
    """Tells how a run of `steps` gets on. Only the leading process writes and speaks."""

    def __init__(self, out: Path, world: World, done: int, steps: int, batch_size: int) -> None:
        self.out, self.world, self.steps, self.batch_size = out, world, steps, batch_size
        self.first = self.last = done
        self.started = self.ticked = time.monotonic()
        self.paused = 0.0
        self.spoken = -math.inf
        self.log: TextIO | None = None
        self.board: Any = None
        self.bar: tqdm[Any] | None = None
        if world.leads:
            (out / "samples").mkdir(parents=True, exist_ok=True)
            _forget_after(out / "log.jsonl", done)
            self.log = (out / "log.jsonl").open("a", encoding="utf-8")
            self.bar = tqdm(initial=done, total=steps, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None

    def open_tensorboard(self) -> None:
        """Sends the numbers to TensorBoard too, into tensorboard/."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise PinxitError("TensorBoard is not installed: pip install 'pinxit[tensorboard]'.") from error
        if self.world.leads:
            self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.first + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()
        if self.log is not None:
            self.log.close()

    def advance(self) -> None:
        """One step more on the bar."""
        if self.bar is not None:
            self.bar.update()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time that goes into something other than steps; the speed leaves it out."""
        began = time.monotonic()
        yield
        self.paused += time.monotonic() - began

    def numbers(self, step: int, means: Mapping[str, float]) -> None:
        """Records the means since the last call, with the speed, and shows the loss."""
        now = time.monotonic()
        speed = (step - self.last) * self.batch_size / max(1e-9, now - self.ticked - self.paused)
        left = (self.steps - step) * (now - self.started) / max(1, step - self.first)
        self.ticked, self.paused, self.last = now, 0.0, step
        self.record(step, {**means, "samples_per_second": round(speed, 2), "seconds": round(now - self.started, 2)})
        losses = [f"{name} {value:.4g}" for name, value in means.items() if name.split("/")[-1] == "loss"]
        shown = "  ".join([*losses, f"{speed:.3g} samples/s"])
        if self.bar is not None:
            self.bar.set_postfix_str(shown, refresh=False)
        elif now - self.spoken >= QUIET_SECONDS or step == self.steps:
            self.spoken = now
            self.world.say(f"step {step}/{self.steps}  {shown}  {clock(left)} left")

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records and shows what validation found."""
        self.record(step, {f"validation/{name}": value for name, value in metrics.items()})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.world.say(f"step {step}/{self.steps}  validation: {shown}")

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends a line to log.jsonl, and to TensorBoard where it is on."""
        if self.log is not None:
            # JSON has no NaN.
            finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            self.log.write(json.dumps({"step": step, **finite}) + "\n")
            self.log.flush()
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, image: Image.Image | None) -> None:
        """Keeps a preview, where there is one, as samples/step-0001000.png."""
        if image is not None:
            image.save(self.out / "samples" / f"step-{step:07d}.png")


def _column(values: list[Tensor | float], device: torch.device) -> Tensor:
    """Scalars as one vector on the device."""
    return torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values])


def _forget_after(file: Path, step: int) -> None:
    """Drops the lines of steps that a crash undid, and a torn last line."""
    if not file.exists():
        return
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            kept = json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            kept = False
        if kept:
            lines.append(line)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
