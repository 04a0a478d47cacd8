"""`pinxit data`: make, check and pack pictures with captions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pinxit.atomic import write_atomically
from pinxit.progress import shown

if TYPE_CHECKING:
    from pinxit.data.checking import Report, Spread

PER_SHARD = click.option(
    "--per-shard", type=click.IntRange(min=1), default=1000, show_default=True, help="Samples in one tar shard."
)
FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def data() -> None:
    """Make, check and pack pictures with captions."""


@data.group()
def make() -> None:
    """Draw a set of pictures with captions into tar shards."""


@make.command()
@FOLDER
@click.option("--n", "number", type=click.IntRange(min=1), default=10_000, show_default=True, help="Pictures.")
@click.option("--size", type=click.IntRange(min=16), default=64, show_default=True, help="Pixels a side.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--split", type=click.Choice(["train", "held-in", "held-out"]), default="train", show_default=True)
@PER_SHARD
def scenes(folder: Path, number: int, size: int, seed: int, split: str, per_shard: int) -> None:
    """Draw scenes of shapes with exact truth and three captions each."""
    from pinxit.data.packing import pack
    from pinxit.data.scenes import Scenes

    drawn = Scenes(number, size=size, seed=seed, split=split)
    with shown("drawing") as progress:
        count = pack(drawn, folder, per_shard=per_shard, progress=progress)
    _written(count, folder)


@make.command()
@FOLDER
@click.option("--size", type=click.IntRange(min=16), default=128, show_default=True, help="Pixels a side.")
@click.option("--font", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Instead of the one found.")
@PER_SHARD
def emoji(folder: Path, size: int, font: Path | None, per_shard: int) -> None:
    """Draw the emoji of an installed colour font, transparent, with Unicode's names and keywords."""
    from pinxit.data.emoji import Emoji, EmojiFont
    from pinxit.data.packing import pack_emoji

    drawn = Emoji(size, font=EmojiFont(font))
    with shown("drawing") as progress:
        count = pack_emoji(drawn, folder, per_shard=per_shard, progress=progress)
    _written(count, folder)


@data.command()
@click.argument("src")
@FOLDER
@click.option("--size", type=click.IntRange(min=1), help="Scale the shorter side down to this many pixels, as PNG.")
@PER_SHARD
def pack(src: str, folder: Path, size: int | None, per_shard: int) -> None:
    """Pack any source SRC into tar shards in DIR, sorted by key. Bad samples are left out."""
    from pinxit.data.packing import pack
    from pinxit.data.pairs import open_pairs

    pairs = open_pairs(src)
    with shown("packing") as progress:
        count = pack(pairs, folder, per_shard=per_shard, size=size, progress=progress)
    if count < len(pairs):
        click.echo(f"{len(pairs) - count} of {len(pairs)} samples were bad and left out.", err=True)
    _written(count, folder)


@data.command()
@click.argument("src")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here as well.")
def check(src: str, json_path: Path | None) -> None:
    """Open every sample of SRC and report counts, sizes, captions and faults. Exit 1 where it is unusable."""
    from pinxit.data.checking import check_source

    with shown("checking") as progress:
        report = check_source(src, progress=progress)
    click.echo(_told(report))
    if json_path is not None:
        write_atomically(json_path, json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False).encode())
    if report.unusable:
        click.get_current_context().exit(1)


def _written(count: int, folder: Path) -> None:
    click.echo(f"Wrote {count} samples to {folder}.")


def _told(report: Report) -> str:
    lines = [f"{report.source}: {report.good} good of {report.samples} samples"]
    if report.shards:
        lines.append(f"  shards      {len(report.shards)}, {sum(s['bytes'] for s in report.shards.values()):,} bytes")
    if report.fingerprint:
        lines.append(f"  fingerprint {report.fingerprint}")
    lines.append(f"  width       {_range(report.width)}")
    lines.append(f"  height      {_range(report.height)}")
    for kind, numbers in report.captions.items():
        lines.append(
            f"  {kind:11} {numbers['captions']} captions ({numbers['distinct']} distinct) on {numbers['samples']} "
            f"samples; words {_range(numbers['words'])}; characters {_range(numbers['characters'])}"
        )
    for reason, fault in report.faults.items():
        lines.append(f"  fault       {reason}: {fault.count}, such as {', '.join(map(repr, fault.examples))}")
        lines.append(f"              {fault.text}")
    lines.append(f"Unusable: {report.unusable}." if report.unusable else "Usable.")
    return "\n".join(lines)


def _range(spread: Spread | None) -> str:
    return f"{spread.least} to {spread.greatest}, median {spread.median}" if spread else "none"
