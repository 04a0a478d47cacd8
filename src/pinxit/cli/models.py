"""`pinxit models` and `pinxit show`: what there is, and how something was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pinxit.cli.outputs import plain
from pinxit.errors import PinxitError

UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


@click.command(short_help="List the models that come with the package.")
def models() -> None:
    """List the models that come with the package: name, kind, parameters, size on disk, licence."""
    from pinxit.checkpoints import catalogue
    from pinxit.checkpoints.files import read_config

    rows = [("NAME", "KIND", "PARAMETERS", "SIZE", "LICENCE")]
    for name, folder in catalogue.shipped().items():
        config = read_config(folder)
        megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        licence = str(config.get("licence", "see its card"))
        rows.append((name, config["kind"], _short(_parameters(folder)), f"{megabytes:.1f} MB", licence))
    if len(rows) == 1:
        raise PinxitError("No model came with this package. Give commands a checkpoint folder or hf:owner/name.")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"\n{catalogue.DEFAULT} answers where no model is named, if it can do what is asked.", err=True)


@click.command(short_help="Tell what a model is, or how a picture was made.")
@click.argument("what", metavar="MODEL|PICTURE")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def show(what: str, as_json: bool) -> None:
    """Tell how a PICTURE was made (prompt, seed, settings), or what a MODEL is (configuration, numbers, card)."""
    from pinxit.data.images import PICTURE_SUFFIXES

    if Path(what).is_file():
        from pinxit.systems.picture import read_settings

        record, card = read_settings(what), ""
        if command := again(record):
            record = {**record, "again": command}
    elif Path(what).suffix.lower() in PICTURE_SUFFIXES:
        raise PinxitError(f"There is no picture {what!r}.")
    else:
        from pinxit.checkpoints import catalogue
        from pinxit.checkpoints.files import read_config

        found = catalogue.find(what)
        record = {"name": found.name, "folder": str(found.folder), "parameters": _parameters(found.folder)}
        record |= read_config(found.folder)
        for folder in catalogue.parts(found.folder):
            if labels := read_config(folder).get("labels"):
                record["classes"] = ", ".join(labels)
        page = found.folder / "README.md"
        card = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    for line in _lines(record):
        click.echo(line)
    if card:
        click.echo(f"\n{plain(card.strip(), lines=True)}")


def again(record: Mapping[str, Any]) -> str | None:
    """The command that makes a picture from text once more, alone; None for one that was made otherwise."""
    import shlex

    from pinxit.checkpoints import catalogue
    from pinxit.systems.system import Settings

    settings = dict(record.get("settings") or {})
    settings.pop("rerank", None)
    known = {*Settings.__annotations__, "bf16"}
    if not record.get("model") or not isinstance(record.get("seed"), int) or not settings.keys() <= known:
        return None
    words = ["pinxit", "generate", str(record.get("prompt", "")), "-n", "1", "--seed", str(record["seed"])]
    model = str(record["model"])  # a folder is known by its name alone, wherever it was
    words += ["--model", model if model in catalogue.shipped() or model.startswith("hf:") else f"PATH/TO/{model}"]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            words += [option, ("x" if name == "size" else ",").join(map(str, value))]
        else:
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def _parameters(folder: Path) -> int:
    """Numbers in all the networks of a checkpoint and its parts, from the headers of their files."""
    from safetensors import SafetensorError, safe_open

    from pinxit.checkpoints import catalogue

    total = 0
    for path in sorted({path for part in [folder, *catalogue.parts(folder)] for path in part.rglob("*.safetensors")}):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                    count = 1
                    for side in file.get_slice(name).get_shape():
                        count *= side
                    total += count
        except (SafetensorError, OSError) as fault:
            raise PinxitError(f"{str(path)!r} is no whole safetensors file: {fault}.") from None
    return total


def _short(count: int) -> str:
    for unit, letter in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {letter}"
    return str(count)


def _lines(record: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """`name: value` lines, inner objects indented below their name."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{plain(str(name))}:"
            yield from _lines(value, indent + "  ")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{indent}{plain(str(name))}: {plain(text, lines=True)}"
