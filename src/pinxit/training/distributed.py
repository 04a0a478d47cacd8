"""Everything about several processes: who this one is, and what they agree on.

`torchrun` starts the processes and sets RANK, LOCAL_RANK and WORLD_SIZE; without it there is one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pinxit.systems.system import choose_device

PATIENCE = timedelta(days=1)
"""How long the processes wait for each other. The leader alone saves and shows, and a process that dies is `torchrun`'s
to notice."""

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The place of this process among all of them, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Tells the person, once for all processes, and above a progress bar where there is one."""
        if self.leads:
            tqdm.write(text)
            sys.stdout.flush()

    def wrap(self, objective: nn.Module, *, several_turns: bool) -> nn.Module:
        """The objective whose backward averages gradients over the processes. Sharding would go here."""
        if self.size == 1:
            return objective
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, devices, find_unused_parameters=several_turns)

    def accumulate(self, wrapped: nn.Module, more: bool) -> contextlib.AbstractContextManager[None]:
        """While `more` of the step's batches follow, gradients stay with their process."""
        if more and isinstance(wrapped, DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def gather(self, value: T) -> list[T]:
        """What each process has, in the order of ranks. For small things now and then."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, value)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether it is so for any process. Goes over the CPU, so that no GPU is waited for."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag))
        distributed.all_reduce(flags)
        return bool(flags > 0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.any(False)


@contextlib.contextmanager
def open_world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that `torchrun` started; alone without it. The GPU where there is one, unless told."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if chosen.index is None:
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    world = World(rank, size, chosen)
    if size == 1:
        yield world
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield world
    finally:
        distributed.destroy_process_group()
