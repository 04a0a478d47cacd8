"""`--set path=value`: settings of a recipe, changed by their dotted path and read by their type."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from pinxit.checkpoints.files import from_config
from pinxit.data.sample import KINDS
from pinxit.errors import PinxitError
from pinxit.recipes.pipeline import Pipeline
from pinxit.systems.system import Settings

T = TypeVar("T")

KEYS: Mapping[str, tuple[str, ...]] = {"captions": KINDS, "defaults": tuple(Settings.__annotations__)}
"""Settings that are mappings, but not from any key: a misspelt one would never be asked for."""


def override(recipe: T, assignments: Iterable[str]) -> T:
    """The recipe with each `path=value` carried out, such as optimizer.lr=1e-4, in a pipeline dvae.optimizer.lr=1e-4.

    Tuples are written 0.9,0.95 or as JSON, nothing as none. Raises PinxitError for a path that does not exist, naming
    the nearest and all of its level, and for a value of another type, saying what is allowed.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise PinxitError(f"--set {assignment}: write path=value, such as optimizer.lr=1e-4.")
        recipe = _changed(recipe, Any, path.strip(), path.strip().split("."), text.strip())
    return recipe


def settings(recipe: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that `override` can change, by its dotted path, with its value."""
    for name, value in _parts(recipe).items():
        inner = f"{path}.{name}" if path else name
        if _is_group(value):
            yield from settings(value, inner)
        elif value is not None or not hasattr(type(recipe), "settings"):
            yield inner, value


def _changed(target: Any, annotation: Any, whole: str, path: list[str], text: str) -> Any:
    """`target` with what lies at `path` below it read from `text`. `whole` is the path as typed."""
    (name, *rest), parts = path, _parts(target)
    above = whole.split(".")[: -len(path)]
    free = isinstance(target, Mapping) and not any(_is_group(value) for value in parts.values())
    if name not in parts and not free:
        own = [stage for stage, value in parts.items() if isinstance(target, Pipeline) and name in _parts(value)]
        raise _no_setting(whole, above, name, parts, own)
    if isinstance(target, Mapping):
        _check_keys(whole, above, [name])
    value = parts.get(name)
    if rest and not _is_group(value):
        raise PinxitError(f"--set {whole}: {whole.removesuffix('.' + '.'.join(rest))} has no settings below it.")
    if isinstance(target, Mapping):
        kind = (typing.get_args(annotation) or (Any, Any))[1]
    else:
        kind = typing.get_type_hints(type(target)).get(name, Any)
    if rest:
        new = _changed(value, kind, whole, rest, text)
    elif _is_group(value) and not isinstance(value, Mapping):
        new = _read_group(kind, whole, text, value)
    else:
        new = _read(kind, whole, text, value)
        if isinstance(new, Mapping):
            _check_keys(whole, whole.split("."), new)
    if isinstance(target, Pipeline):
        return dataclasses.replace(target, stages={**target.stages, name: new})
    if isinstance(target, Mapping):
        return {**target, name: new}
    return dataclasses.replace(target, **{name: new})


def _parts(target: Any) -> Mapping[str, Any]:
    """What can be set in a dataclass, a mapping or a pipeline."""
    if isinstance(target, Pipeline):
        return target.stages
    if isinstance(target, Mapping):
        return target
    names = getattr(type(target), "settings", None) or [
        field.name for field in dataclasses.fields(target) if field.init
    ]
    return {name: getattr(target, name) for name in names}


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _check_keys(whole: str, mapping: list[str], keys: Iterable[str]) -> None:
    """Raises PinxitError for a key that the mapping at this path cannot have."""
    allowed = KEYS.get(mapping[-1]) if mapping else None
    for key in keys:
        if allowed and key not in allowed:
            raise _no_setting(whole, mapping, key, allowed)


def _no_setting(
    whole: str, above: list[str], name: str, parts: Iterable[str], stages: Sequence[str] = ()
) -> PinxitError:
    level, parts = ".".join(above), list(parts)
    near = difflib.get_close_matches(name, parts, n=1)
    hint = f" Did you mean {'.'.join([*above, near[0]])}?" if near else ""
    if stages:
        hint = f" Stages have it: {', '.join(f'{stage}.{whole}' for stage in stages)}."
    listed = f"{level + ' has' if level else 'There are'}: {', '.join(parts)}."
    return PinxitError(f"--set {whole}: there is no such setting.{hint} {listed}")


def _read(annotation: Any, whole: str, text: str, current: Any) -> Any:
    """The text as a value of the annotated type: as JSON, as it stands, or split at commas."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    if text.lower() == "none":
        text = "null"
    with contextlib.suppress(ValidationError):
        return adapter.validate_json(text, strict=True)
    with contextlib.suppress(ValidationError):
        return adapter.validate_python(text)
    with contextlib.suppress(ValidationError, ValueError):
        number = json.loads(text)
        if isinstance(number, float):  # 1e4 steps
            return adapter.validate_python(number)
    with contextlib.suppress(ValidationError):
        return adapter.validate_python([part.strip() for part in text.strip("()[]").split(",")])
    raise PinxitError(f"--set {whole}={text}: allowed is {_allowed(annotation)}; it is {current} now.")


def _read_group(annotation: Any, whole: str, text: str, current: Any) -> Any:
    """Another group of settings in the place of one, where there may be several kinds, or none."""
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    if type(None) in options and text.lower() == "none":
        return None
    if options and text.startswith("{"):
        try:
            return from_config(annotation, json.loads(text))
        except (PinxitError, ValueError) as fault:
            raise PinxitError(f"--set {whole}: {fault}") from fault
    inner = ", ".join(f"{whole}.{name}" for name in _parts(current))
    whole_one = " Or give all of it as JSON, which tells of which kind it is." if options else ""
    raise PinxitError(f"--set {whole}: set one of {inner}.{whole_one}")


def _allowed(annotation: Any) -> str:
    """A type in words."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    if annotation in plain:
        return plain[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(str(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_allowed(option) for option in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"any number of values, each {_allowed(inner[0])}, with commas between"
    if origin is tuple:
        return f"{len(inner)} values with commas between: {', '.join(_allowed(option) for option in inner)}"
    return str(annotation)
