"""Batches whose content depends on the seed and nothing else: not on workers, not on ranks, not on when a run was cut.

The order of an epoch is a pure function of (seed, epoch), the randomness of a sample's transform one of (seed, epoch,
position). Batch k therefore needs no history: a position is one integer, and any worker of any rank can make any batch.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pinxit.data.faults import LIMIT, Faults
from pinxit.data.sample import BadSample
from pinxit.errors import PinxitError

Transform = Callable[[Any, np.random.Generator], Mapping[str, Any]]

# What a random stream is for; it keeps the streams of one seed apart.
_ORDER, _TRANSFORM, _REPLACEMENT = range(3)

_MOST_ATTEMPTS = 100


class Samples(Protocol):
    """Anything with a length and positions; `samples[i]` may raise `BadSample`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Loader:
    """An endless iterator of batches: dicts of stacked tensors by name, and lists of str.

    `batch_size` counts the samples of all `world` ranks together; each rank sees its slice of every global batch. The
    last partial batch of an epoch is filled from the next one, so each pass has every sample once. A `BadSample` is
    counted by its reason and replaced by another sample, the same one each time; more than `fault_limit` of them (once
    100 samples were seen) raises `PinxitError`. `workers` processes prepare batches ahead; 0 prepares them in place.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        transform: Transform,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        shuffle: bool = True,
        fault_limit: float = LIMIT,
    ) -> None:
        if len(samples) == 0:
            raise PinxitError("There are no samples to load.")
        if not 0 <= rank < world:
            raise PinxitError(f"Rank {rank} is not one of {world} ranks.")
        if batch_size < 1 or batch_size % world:
            raise PinxitError(f"A batch of {batch_size} samples does not divide among {world} ranks.")
        if seed < 0:
            raise PinxitError(f"The seed {seed} is negative; give a whole number from 0.")
        self.batch_size = batch_size
        self.workers = workers
        self._faults = Faults(fault_limit)
        self._batches = 0
        share = batch_size // world
        order = _Order(len(samples), seed, shuffle)
        self._source = _Batches(samples, transform, order, batch_size, slice(rank * share, (rank + 1) * share))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from the current position on; the position counts what was handed out, not what was prepared."""
        for delivery in self._prepared():
            if delivery.error is not None:
                raise delivery.error
            self._judge(delivery)
            self._batches += 1
            yield delivery.batch

    def state_dict(self) -> dict[str, int]:
        """The exact position, the same on every rank and for any number of ranks and workers."""
        return {"batches": self._batches}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a saved position; the next `iter` starts there."""
        self._batches = int(state["batches"])

    @property
    def faults(self) -> Mapping[str, int]:
        """How many bad samples were met in the batches handed out so far, by reason."""
        return self._faults.reasons

    def _prepared(self) -> Iterator[_Delivery]:
        if self.workers == 0:
            yield from map(self._source.__getitem__, itertools.count(self._batches))
            return
        loader: DataLoader[_Delivery] = DataLoader(
            self._source,
            batch_size=None,
            sampler=itertools.count(self._batches),
            num_workers=self.workers,
            collate_fn=_unchanged,
            worker_init_fn=_obey_the_parent_only,
            generator=torch.Generator(),  # else starting the workers would draw from the global generator
        )
        try:
            yield from loader
        except RuntimeError as fault:
            if "exited unexpectedly" not in str(fault) and "killed by signal" not in str(fault):
                raise
            raise PinxitError(
                "A data worker died, most often for want of memory. Use fewer workers or smaller batches."
            ) from fault

    def _judge(self, delivery: _Delivery) -> None:
        self._faults.seen += delivery.seen
        for fault in delivery.faults:
            self._faults.add(fault)
        self._faults.judge()


class _Order:
    """Which sample is at which place of the endless sequence of epochs."""

    def __init__(self, samples: int, seed: int, shuffle: bool) -> None:
        self.samples = samples
        self.seed = seed
        self.shuffle = shuffle
        self._shuffled: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def at(self, place: int) -> tuple[int, int, int]:
        """The epoch, the position in it, and the sample's index."""
        epoch, position = divmod(place, self.samples)
        return epoch, position, int(self._order(epoch)[position]) if self.shuffle else position

    def stream(self, purpose: int, *place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, *place))

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if epoch not in self._shuffled:
            if len(self._shuffled) > 1:  # a batch touches two epochs at most, unless an epoch is tiny
                self._shuffled.clear()
            self._shuffled[epoch] = self.stream(_ORDER, epoch).permutation(self.samples)
        return self._shuffled[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shuffled": {}}


@dataclass
class _Delivery:
    """One rank's part of a batch, with what went wrong on the way."""

    batch: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    faults: list[BadSample] = field(default_factory=list)
    error: PinxitError | None = None


class _Batches(Dataset[_Delivery]):
    """Batch k of this rank, for any k. Workers hold a copy."""

    def __init__(self, samples: Samples, transform: Transform, order: _Order, batch_size: int, part: slice) -> None:
        self.samples = samples
        self.transform = transform
        self.order = order
        self.batch_size = batch_size
        self.part = part

    def __getitem__(self, number: int) -> _Delivery:
        delivery = _Delivery()
        start = number * self.batch_size
        try:
            rows = [self._row(place, delivery) for place in range(start + self.part.start, start + self.part.stop)]
            delivery.batch = stack(rows)
        except PinxitError as fault:  # carried by hand: a worker's traceback would drown its one line
            delivery.error = fault
        return delivery

    def _row(self, place: int, delivery: _Delivery) -> Mapping[str, Any]:
        epoch, position, index = self.order.at(place)
        for attempt in range(_MOST_ATTEMPTS):
            delivery.seen += 1
            try:
                return self.transform(self.samples[index], self.order.stream(_TRANSFORM, epoch, position))
            except BadSample as fault:
                delivery.faults.append(fault)
            replacement = self.order.stream(_REPLACEMENT, epoch, position, attempt)
            index = int(replacement.integers(self.order.samples))
        reasons = ", ".join(sorted({fault.reason for fault in delivery.faults}))
        raise PinxitError(
            f"{_MOST_ATTEMPTS} samples in a row were unusable ({reasons}). Last: {delivery.faults[-1]} "
            "`pinxit data check` lists faulty ones."
        )


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples -> a batch: tensors, arrays and numbers are stacked into tensors `b ...`, texts kept as a list."""
    names = rows[0].keys()
    for row in rows:
        if row.keys() != names:
            raise PinxitError(f"The transform gave {sorted(row)} for one sample and {sorted(names)} for another.")
    return {name: _stack(name, [row[name] for row in rows]) for name in names}


def _stack(name: str, values: list[Any]) -> Tensor | list[str]:
    first = values[0]
    if isinstance(first, str):
        return values
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, (np.ndarray, np.generic, bool, int, float)):
        return torch.from_numpy(np.stack(values)) if isinstance(first, np.ndarray) else torch.tensor(values)
    raise PinxitError(
        f"The transform gave {name!r} as {type(first).__name__}; a batch holds tensors, arrays, numbers, texts."
    )


def _unchanged(delivery: Any) -> Any:
    return delivery


def _obey_the_parent_only(_: int) -> None:
    """Keeps a worker alive through Ctrl-C and a SIGTERM to the whole group: the parent needs it to end in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
