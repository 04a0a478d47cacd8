"""`pinxit reconstruct` and `pinxit encode`: pictures through a codec, and their codes kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pinxit.cli.outputs import device_option, free_path, is_picture, open_square, quick_options, read_out
from pinxit.progress import shown

if TYPE_CHECKING:
    from PIL import Image

    from pinxit.systems.system import System

COLUMNS = 8
"""Pictures in a row of the comparison."""


def read_numbers(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    """Whole numbers between commas."""
    if value is None:
        return None
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}: give whole numbers, such as 4,16,64.", ctx, option) from None


@click.command(short_help="Show what pictures look like through a model's codes.")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-m", "--model", metavar="CODEC", help="A codec, or a system with one; the shipped one if left out.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="outputs",
    callback=read_out,
    show_default=True,
    help="A folder, or a name that ends in .png for the comparison alone.",
)
@click.option(
    "--dimensions",
    metavar="K,...",
    callback=read_numbers,
    help="For DALL·E 2: by so many principal components of what CLIP sees, each with the original behind it.",
)
@device_option
@quick_options
def reconstruct(
    images: tuple[Path, ...],
    model: str | None,
    out: Path,
    dimensions: list[int] | None,
    device: str | None,
    bf16: bool,
    compile: bool,
) -> None:
    """Turn each IMAGE into codes and back: what is lost here, no picture made from such codes can have.

    By DALL·E 2 that is what CLIP sees in it, and the noise of which the decoder makes it.

    Writes the reconstructions, and a comparison with the originals above them. Prints a line a picture: its likeness
    (PSNR) to the original as the model sees it, a square of the model's size, and where it was written.
    """
    from pinxit.data.images import fit, to_tensor
    from pinxit.nn.similarity import psnr
    from pinxit.systems.picture import Picture
    from pinxit.systems.system import load, usual

    can = "reconstruct" if dimensions is None else "by_components"
    system = load(model or usual(can), device, bf16=bf16, compile=compile)
    if dimensions is not None:
        _by_components(system, images, dimensions, out)
        return
    originals, made = [], []
    with shown("reconstructing") as progress:
        for path in images:
            original = open_square(path)
            after = system.reconstruct(original)[0]
            before = fit(original, after.size)
            likeness = round(psnr(to_tensor(before)[None], to_tensor(after)[None]).item(), 2)
            originals.append(before)
            settings = {"source": path.name, "psnr": likeness}
            made.append(Picture(after, f"reconstruction of {path.name}", 0, system.name, settings))
            progress(len(made), len(images))
    width = max(len(str(path)) for path in images)
    for path, picture in zip(images, made, strict=True):
        told = f"{path!s:<{width}}  {picture.settings['psnr']:5.2f} dB"
        if not is_picture(out):
            told += f"  {picture.save(free_path(out, path.stem, 'reconstruction'))}"
        click.echo(told)
    settings = {"source": [path.name for path in images], "psnr": [picture.settings["psnr"] for picture in made]}
    sheet = comparison(originals, [picture.image for picture in made])
    whole = Picture(sheet, "originals above reconstructions", 0, system.name, settings)
    click.echo(whole.save(out if is_picture(out) else free_path(out, "reconstructions", "grid")))


def _by_components(system: System, images: Sequence[Path], dimensions: list[int], out: Path) -> None:
    """A row for each picture: by more and more of its components, and the original."""
    from pinxit.data.images import fit, grid
    from pinxit.systems.picture import Picture

    cells: list[Image.Image] = []
    with shown("reconstructing") as progress:
        for count, path in enumerate(images, 1):
            original = open_square(path)
            made = [picture.image for picture in system.by_components(original, dimensions)]
            cells += [*made, fit(original, made[0].size)]
            progress(count, len(images))
    settings = {"source": [path.name for path in images], "dimensions": dimensions}
    whole = Picture(grid(cells, len(dimensions) + 1), "by principal components", 0, system.name, settings)
    click.echo(whole.save(out if is_picture(out) else free_path(out, "components", "grid")))


def comparison(originals: Sequence[Image.Image], made: Sequence[Image.Image]) -> Image.Image:
    """Rows of originals, each above a row of what was made of them."""
    from PIL import Image

    from pinxit.data.images import grid

    columns = min(COLUMNS, len(originals))
    cells: list[Image.Image] = []
    for start in range(0, len(originals), columns):
        for row in (originals[start : start + columns], made[start : start + columns]):
            cells += [*row, *([Image.new("RGB", row[0].size, "white")] * (columns - len(row)))]
    return grid(cells, columns)


@click.command(short_help="Turn pictures into codes, once, and keep them.")
@click.argument("src")
@click.option(
    "--with", "model", metavar="MODEL", help="A codec, a system that has one, or a CLIP; the shipped one if left out."
)
@click.option("--out", metavar="DIR", required=True, type=click.Path(path_type=Path), help="Where the codes go.")
@device_option
@quick_options
def encode(src: str, model: str | None, out: Path, device: str | None, bf16: bool, compile: bool) -> None:
    """Turn every picture of SRC into codes, latents or embeddings and keep them in DIR, with the captions.

    The same command again goes on where it stopped. Codes of other pictures or of another codec are refused.
    """
    from pinxit.checkpoints.catalogue import DEFAULT
    from pinxit.checkpoints.files import read_config
    from pinxit.data.pairs import open_pairs
    from pinxit.jobs import encode as job
    from pinxit.systems.encoder import load_encoder

    encoder = load_encoder(model or DEFAULT, device)
    if bf16 or compile:
        encoder.quicken(bf16=bf16, compile=compile)
    pairs = open_pairs(src, size=encoder.size, captioned=False)
    rounded = {"bf16": True} if bf16 else {}  # codes that lie close together may be others
    source = {
        "data": {"samples": len(pairs), "fingerprint": pairs.fingerprint},
        "codec": {"kind": encoder.kind, "size": encoder.size, "weights": encoder.fingerprint, **rounded},
    }
    with shown("encoding") as progress:
        job.encode(pairs, encoder, out, source, progress)
    made = read_config(out)
    if made["skipped"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(made["skipped"].items()))
        click.echo(f"skipped {sum(made['skipped'].values())} of {len(pairs)} ({reasons})", err=True)
    shape = "x".join(map(str, encoder.shape))
    what = "numbers" if encoder.codes is None else f"of {encoder.codes} codes"
    click.echo(f"{made['samples']} pictures as {shape} {what}: {out}")
