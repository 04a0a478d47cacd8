"""Reading tensors out of other people's pickles, which could otherwise run any code.

A pickle names classes and functions and asks for them to be called. Here only those that build tensors and plain
containers are; every other name becomes an inert stand-in, which keeps what it is given and does nothing.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinxit.errors import PinxitError


class _RebuildTensor:
    """As torch's function, but nothing that a pickle could write into, and without the hooks."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        if (count := math.prod(size)) * storage.dtype.itemsize > storage._untyped_storage.nbytes():
            raise PinxitError(f"a tensor claims {count} numbers, more than there are")
        return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call, no-any-return]


class _RebuildParameter:
    """The tensor alone."""

    __slots__ = ()

    def __call__(self, data: Tensor, *_: Any) -> Tensor:
        return data


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch.nn.parameter", "Parameter"): _RebuildParameter(),
    **{
        ("torch", str(dtype).removeprefix("torch.")): dtype
        for dtype in vars(torch).values()
        if type(dtype) is torch.dtype
    },
}
"""What a pickle may have called, beyond what torch's reader makes of storages."""


class StandIn:
    """In place of an object of somebody's class: it keeps its state, and its items where it was a container."""

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        made.items = []  # type: ignore[attr-defined]
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}  # __dict__ and slots
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append(value)  # type: ignore[attr-defined]

    def append(self, value: Any) -> None:
        """Keeps it."""
        self.items.append(value)  # type: ignore[attr-defined]

    def extend(self, values: Any) -> None:
        """Keeps them."""
        self.items.extend(values)  # type: ignore[attr-defined]

    def add(self, value: Any) -> None:
        """Keeps it."""
        self.items.append(value)  # type: ignore[attr-defined]


STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Bool": torch.bool,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Short": torch.int16,
        "Int": torch.int32,
        "Long": torch.int64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Float": torch.float32,
        "Double": torch.float64,
    }.items()
}
"""What torch calls the memory of tensors."""


class Unpickler(pickle.Unpickler):
    """Finds what is allowed, and stand-ins for the rest."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, or a stand-in."""
        return ALLOWED.get((module, name)) or type(name.rpartition(".")[2], (StandIn,), {"__module__": module})


class ProgramUnpickler(Unpickler):
    """For the values in a TorchScript archive, whose memory lies beside them; its code is not looked at."""

    def __init__(self, archive: Any) -> None:
        super().__init__(io.BytesIO(archive.get_record("data.pkl")))
        self.archive = archive
        self.storages: dict[str, torch.TypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """As others, but for storages, of which the dtype is wanted alone."""
        return STORAGES[name] if module == "torch" and name in STORAGES else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """The storage that ("storage", dtype, its name, ...) tells of; how large it is, the archive knows."""
        _, dtype, key, *_ = pid
        if key not in self.storages:
            memory = bytearray(self.archive.get_record(f"data/{key}"))
            held = torch.frombuffer(memory, dtype=torch.uint8) if memory else torch.empty(0, dtype=torch.uint8)
            self.storages[key] = torch.TypedStorage(  # type: ignore[no-untyped-call]
                wrap_storage=held.untyped_storage(), dtype=dtype, _internal=True
            )
        return self.storages[key]


MOST_MODULES = 100_000
DEEPEST = 100
"""In one checkpoint; more are a module that contains itself, or the same ones over and over."""


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


HARMLESS = types.SimpleNamespace(Unpickler=Unpickler, load=_load, __name__="pinxit.checkpoints.pickles")
"""What `torch.load` takes for the pickle module."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of what `torch.save` or TorchScript wrote into `file`, on the CPU, by the names in its module."""
    held = read_pickle(file)
    try:
        return tensors_of(held)
    except PinxitError as fault:
        raise PinxitError(f"{file} cannot be read: {fault}") from fault


def read_pickle(file: Path) -> Any:
    """What `torch.save` or TorchScript wrote into `file`: tensors on the CPU, stand-ins for all that is unknown."""
    try:
        if _is_program(file):
            return ProgramUnpickler(torch._C.PyTorchFileReader(str(file))).load()
        return torch.load(file, map_location="cpu", pickle_module=HARMLESS, weights_only=False)
    except Exception as fault:  # a file made to do harm may fail in any way
        raise PinxitError(f"{file} cannot be read as what torch writes: {str(fault).rstrip('.')}.") from fault


def _is_program(file: Path) -> bool:
    """Whether torch would run the file, told by its own reader: another might see another archive in the same bytes."""
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            return False
    return "constants.pkl" in torch._C.PyTorchFileReader(str(file)).get_all_records()


def tensors_of(held: Any) -> dict[str, Tensor]:
    """The tensors of what a pickle held, by the names that its module gave them.

    A dictionary of tensors, alone or as the `state_dict` or `model` of a training run's checkpoint; or the stand-in of
    a whole module.
    """
    for key in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping | StandIn):
            held = held[key]
    if isinstance(held, StandIn):
        return dict(_module(held))
    if not isinstance(held, Mapping):
        return {}
    return {str(name): value.detach() for name, value in held.items() if isinstance(value, Tensor)}


def _module(module: StandIn) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and those of the modules inside, as `state_dict` names them; in programs, attributes."""
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, at = waiting.pop()
        visited += 1
        if visited > MOST_MODULES or prefix.count(".") > DEEPEST:
            raise PinxitError(
                f"it holds more than {MOST_MODULES} modules, or {DEEPEST} in each other, or one that contains itself."
            )
        groups = [getattr(at, group, None) or {} for group in ("_parameters", "_buffers", "_modules")]
        if not hasattr(at, "_parameters"):
            groups = [vars(at)]
        for name, value in (item for group in groups for item in group.items()):
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
            elif isinstance(value, StandIn):
                waiting.append((f"{prefix}{name}.", value))
