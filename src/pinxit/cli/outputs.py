"""What a verb writes: what `--out` means, names that nobody has yet, and text that is safe on a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from PIL import Image

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
"""`--out` names a picture if it ends so, and a folder otherwise."""


device_option = click.option("--device", metavar="D", help="cpu, cuda or cuda:N; a GPU if there is one.")
"""Of every verb that computes."""


def quick_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of verbs that make many pictures, or read many."""
    for option in (
        click.option("--compile", is_flag=True, help="Compile the networks: a minute, worth it for many pictures."),
        click.option("--bf16", is_flag=True, help="Multiply in bfloat16: faster where the hardware has it."),
    ):
        command = option(command)
    return command


def read_out(ctx: click.Context, option: click.Parameter, value: Path) -> Path:
    """Refuses what could not be written, before hours of sampling and not after."""
    if value.suffix.lower() in PICTURE_ENDINGS - {".png"}:
        raise click.BadParameter(
            f"{str(value)!r}: pictures are written as PNG, which keeps their settings.", ctx, option
        )
    if not is_picture(value) and value.exists() and not value.is_dir():
        raise click.BadParameter(f"{str(value)!r} is a file; give a folder, or a name that ends in .png.", ctx, option)
    return value


def open_square(path: Path) -> Image.Image:
    """A picture for a model that sees squares; tells what is left out."""
    from pinxit.data.images import open_image

    picture = open_image(path)
    if picture.width != picture.height:
        click.echo(f"{path}: its centre square is what the model sees", err=True)
    return picture


def is_picture(out: Path) -> bool:
    """Whether `--out` names one file; else it is a folder."""
    return out.suffix.lower() in PICTURE_ENDINGS and not out.is_dir()


def free_path(folder: Path, prompt: str, ending: str) -> Path:
    """Claims the next numbered name in the folder, such as 0001-a-red-apple-seed0.png, which nobody has yet."""
    folder.mkdir(parents=True, exist_ok=True)
    words = re.sub(r"\W+", "-", prompt.lower())[:40].strip("-_") or "picture"
    taken = [int(match[1]) for path in folder.iterdir() if (match := re.match(r"(\d{4,9})-", path.name))]
    number = max(taken, default=0)
    while True:
        number += 1
        path = folder / f"{number:04d}-{words}-{ending}.png"
        try:
            path.open("x").close()
        except FileExistsError:
            continue
        return path


def animation(images: Sequence[Image.Image]) -> bytes:
    """A GIF that goes through pictures and back, without end."""
    first, *others = [*images, *reversed(images)]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=100, loop=0)
    return file.getvalue()


def plain(text: str, *, lines: bool = False) -> str:
    """Text from a file that anybody may have made, without the control characters that would move a terminal.

    With `lines`, ends of lines stay.
    """
    return "".join(c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode() for c in text)
