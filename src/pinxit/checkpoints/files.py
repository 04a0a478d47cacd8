"""A checkpoint is a folder: config.json, one `*.safetensors` a network, and what belongs to it. Never pickle.

Folders appear whole or not at all. They are written beside their place, flushed to the disk and renamed, so that a
crash at any moment leaves the earlier one or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pinxit import __version__
from pinxit.atomic import write_atomically
from pinxit.errors import PinxitError, unknown

FORMAT = 1
"""The layout that this library writes. A reader refuses a higher one."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

T = TypeVar("T")


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder` which takes its place when the block ends without an error.

    The new files are on the disk before the rename. An existing folder steps aside for it; readers look there in the
    moment between the two renames (`settled`). On an error the unfinished folder goes and the existing one stays.
    """
    folder = Path(folder).absolute()
    partial, aside = _partial(folder), _aside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            if folder.exists():
                shutil.rmtree(aside)
            else:
                aside.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _flush(partial)
        if folder.exists():
            folder.rename(aside)
        partial.rename(folder)
        _flush_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        kept = " The earlier one is kept." if settled(folder).exists() else ""
        advice = " Free some space or choose another folder." if _out_of_space(error) else ""
        raise PinxitError(f"Could not write {folder}: {error}.{kept}{advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _out_of_space(error: Exception) -> bool:
    """Whether the disk, a quota or a limit is full; safetensors has the system's number in its text alone."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)


def settled(folder: Path) -> Path:
    """Where the complete version of `folder` lies: there, or aside, where a crash just before the rename left it."""
    folder = Path(folder).absolute()
    return _aside(folder) if not folder.exists() and _aside(folder).exists() else folder


def save_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    networks: Mapping[str, nn.Module | Mapping[str, Tensor]],
    *,
    tokenizer: str | None = None,
    card: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a checkpoint in place of whatever `folder` holds.

    `config` has "kind" and whatever JSON can hold; the library's version is added. Each network becomes
    `<name>.safetensors`, the floating tensors of its layers cast to `dtype` where one is given. `tokenizer` is the
    text of tokenizer.json, `card` that of README.md. NaN or Inf in a tensor is refused by name.
    """
    with replace_folder(folder) as partial:
        write_config(partial, config)
        if tokenizer is not None:
            (partial / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        for name, network in networks.items():
            write_tensors(partial, name, network.state_dict() if isinstance(network, nn.Module) else network, dtype)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes config.json, whole or not at all."""
    if not isinstance(config.get("kind"), str):
        raise PinxitError("A checkpoint's config needs a 'kind', the name of what it holds.")
    text = json.dumps({**config, "format": FORMAT, "pinxit": __version__}, indent=2, ensure_ascii=False)
    write_atomically(folder / "config.json", f"{text}\n".encode())


def write_tensors(folder: Path, name: str, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Writes `<name>.safetensors` into a folder that `replace_folder` gave."""
    file = folder / f"{name}.safetensors"
    # What a network holds outside its layers is small, and may be measured of data: components are no basis if rounded.
    kept = {key: _written(name, key, value, dtype if "." in key else None) for key, value in state.items()}
    save_file(kept, file)
    file.chmod((folder / "config.json").stat().st_mode)  # save_file leaves it to the owner alone


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint, with its "kind"."""
    folder = settled(folder)
    file = folder / "config.json"
    if not file.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES) if folder.is_dir() else []
        hint = f" {pickled[0]} is a pickle, which can run code and is never opened." if pickled else ""
        raise PinxitError(f"{folder} is no checkpoint: it has no config.json.{hint}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PinxitError(f"{file} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        raise PinxitError(f"{file} is not one of ours: it names no 'kind'.")
    if not isinstance(config.get("format"), int):
        raise PinxitError(f"{file} is not one of ours: it names no 'format'.")
    if config["format"] > FORMAT:
        raise PinxitError(
            f"{folder} was written by pinxit {config.get('pinxit')}, which is newer than this one ({__version__}): "
            "upgrade pinxit to open it."
        )
    return config


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors` on the CPU, all of them finite."""
    folder = settled(folder)
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        held = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
        raise PinxitError(f"{folder} has no {file.name}. Networks it holds: {held}.")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise PinxitError(f"{file} is damaged or no safetensors file: {error}. Fetch or train it again.") from error
    for key, value in tensors.items():
        if not _finite(value):
            raise PinxitError(f"{file}: tensor {key!r} holds NaN or Inf. Fetch or train it again.")
    return tensors


def load_network(folder: Path, name: str, module: nn.Module) -> None:
    """Fills `module` from `<name>.safetensors`: every tensor, no other, in its shape.

    Floating tensors are cast to the module's precision. On an error the module is as it was.
    """
    tensors = read_tensors(folder, name)
    file = settled(folder) / f"{name}.safetensors"
    state = module.state_dict()
    faults = [f"{key!r} is missing" for key in state if key not in tensors]
    faults += [f"{key!r} is unknown" for key in tensors if key not in state]
    for key in state.keys() & tensors.keys():
        given, wanted = tensors[key], state[key]
        if given.shape != wanted.shape:
            faults.append(f"{key!r} has shape {list(given.shape)}, not {list(wanted.shape)}")
        elif given.is_floating_point() != wanted.is_floating_point():
            faults.append(f"{key!r} is {given.dtype}, not {wanted.dtype}")
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise PinxitError(f"{file} does not fit this network: {'; '.join(sorted(faults)[:3])}{more}.")
    with torch.no_grad():
        for key, wanted in state.items():
            wanted.copy_(tensors[key])


def fingerprint(folder: Path) -> str:
    """What tells a checkpoint from any other: its kind, its shape and what it has learnt, to the bit."""
    config, whole = read_config(folder), settled(folder)
    digest = hashlib.sha256(json.dumps([config["kind"], config.get("config")], sort_keys=True).encode())
    for path in sorted(whole.rglob("*")):
        if path.suffix in (".safetensors", ".jsonl") or path.name == "tokenizer.json":
            digest.update(path.relative_to(whole).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def to_config(config: Any) -> dict[str, Any]:
    """A config dataclass as what JSON can hold."""
    held: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return held


def from_config(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """The dataclass `cls` from its JSON form.

    An unknown key, a missing one or a wrong type is named. A field that has a default may be absent, so that a
    checkpoint outlives a new setting.
    """
    _refuse_unknown(cls, mapping, "")
    try:
        found = TypeAdapter(cls).validate_json(json.dumps(mapping), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = _name_of(cls)
        path = ".".join(str(part) for part in first["loc"]) or name
        raise PinxitError(f"{name}: {path}: {first['msg']} (given: {first['input']!r}).") from error
    if lost := _lost(mapping, to_config(found), ""):
        raise PinxitError(f"{_name_of(cls)}: {lost} is not of a value that is allowed.")
    return found


def _refuse_unknown(cls: Any, mapping: Any, path: str) -> None:
    """Pydantic lets unknown keys of a standard dataclass pass; a config must not."""
    if not isinstance(mapping, Mapping):
        return
    if not (dataclasses.is_dataclass(cls) and isinstance(cls, type)):
        options = typing.get_args(cls) if typing.get_origin(cls) in (typing.Union, types.UnionType) else ()
        refused: list[PinxitError] = []
        for option in filter(dataclasses.is_dataclass, options):
            try:
                _refuse_unknown(option, mapping, path)
            except PinxitError as error:
                refused.append(error)
            else:
                return
        if refused:
            raise refused[0]
        return
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    for key, value in mapping.items():
        if key not in fields:
            raise unknown(f"setting of {cls.__name__}", f"{path}{key}", (f"{path}{name}" for name in fields))
        _refuse_unknown(hints[key], value, f"{path}{key}.")


def _name_of(cls: Any) -> str:
    return " or ".join(option.__name__ for option in typing.get_args(cls) or (cls,))


def _lost(given: Any, found: Any, path: str) -> str | None:
    """The first key that is not in what was made of it: of several kinds, Pydantic takes one that ignores it."""
    if not isinstance(given, Mapping) or not isinstance(found, Mapping):
        return None
    for key, value in given.items():
        if key not in found:
            return f"{path}{key} = {value!r}"
        if lost := _lost(value, found[key], f"{path}{key}."):
            return lost
    return None


def _written(network: str, key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as it goes to the file: on the CPU, contiguous, sharing memory with no other."""
    value = value.detach()
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    if not _finite(value):
        raise PinxitError(f"{network}: tensor {key!r} holds NaN or Inf, so it is not saved.")
    return torch.empty(value.shape, dtype=value.dtype).copy_(value)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _flush(folder: Path) -> None:
    """Brings a folder's files, and their names, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and renames durably by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
