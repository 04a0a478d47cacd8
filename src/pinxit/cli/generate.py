"""Pictures into files: `pinxit generate`, and what makes them of other pictures."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pinxit.atomic import write_atomically
from pinxit.cli.outputs import animation, device_option, free_path, is_picture, open_square, quick_options, read_out
from pinxit.cli.settings import SHARED, Option, setting_options, with_options
from pinxit.progress import Progress, shown

if TYPE_CHECKING:
    from pinxit.systems.picture import Picture
    from pinxit.systems.system import System


def read_size(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`64x48` -> (64, 48), `64` -> (64, 64)."""
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:[x×]([1-9]\d{0,4}))?", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is no size; write WIDTHxHEIGHT in pixels, such as 64x64.", ctx, option)
    return int(match[1]), int(match[2] or match[1])


def read_gif(ctx: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """Refuses another ending before anything is drawn."""
    if value is not None and value.suffix.lower() != ".gif":
        raise click.BadParameter(f"{str(value)!r}: give a name that ends in .gif.", ctx, option)
    return value


COUNTED: list[Option] = [
    click.option("-n", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="Pictures per prompt."),
    click.option("--rerank", type=click.IntRange(1), metavar="N", help="Make N and keep the best by CLIP."),
]
"""Of what draws as many as are asked for."""

SIZE: Option = click.option(
    "--size", callback=read_size, metavar="WxH", help="In pixels, where the model has a choice."
)

GRID: Option = click.option("--grid", "grid_only", is_flag=True, help="Write the grid only, no single pictures.")


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what draws several pictures after a text; a setting that is not given stays None."""
    return with_options(COUNTED, single_options(setting_options(with_options([SIZE, GRID], command))))


def picture_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what makes pictures of other pictures."""
    return single_options(with_options([*SHARED, SIZE, GRID], command))


def single_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what makes a picture at random."""
    options: list[Option] = [
        click.option("-m", "--model", metavar="MODEL", help="A shipped name, a checkpoint folder or hf:owner/name."),
        click.option(
            "--seed", type=click.IntRange(0), metavar="S", help="Picture i has seed S + i; random if left out."
        ),
        device_option,
        quick_options,
        click.option(
            "-o",
            "--out",
            type=click.Path(path_type=Path),
            default="outputs",
            callback=read_out,
            show_default=True,
            help="A folder, or a name that ends in .png: one picture, or the grid of several.",
        ),
    ]
    return with_options(options, command)


@click.command(short_help="Make pictures from text.")
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@sampling_options
def generate(
    prompts: tuple[str, ...], model: str | None, device: str | None, out: Path, grid_only: bool, **asked: Any
) -> None:
    """Make pictures from text.

    Writes numbered PNG files into a folder, and a grid of them; each carries its prompt, seed, model and settings,
    which `pinxit show` reads back. Prints the paths.
    """
    system = _load(model, device, asked, "generate")
    seed = _seed(asked)
    sets = []
    for prompt in prompts:
        if not prompt.strip() and getattr(system, "reads_texts", False):
            click.echo("an empty prompt asks for nothing in particular", err=True)
        with _shown(prompt) as progress:
            sets.append(system.generate(prompt, seed=seed, progress=progress, **asked))
        _tell_scores(sets[-1])
        if not is_picture(out):
            _write_into(out, sets[-1], grid_only)
    if is_picture(out):
        _write_as(out, sets)


@click.command(short_help="Continue a picture from its first rows.")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("--keep-rows", type=click.IntRange(0), metavar="R", help="Rows of tokens to keep.  [default: half]")
@sampling_options
def complete(
    image: Path,
    prompt: str,
    keep_rows: int | None,
    model: str | None,
    device: str | None,
    out: Path,
    grid_only: bool,
    **asked: Any,
) -> None:
    """Keep the first rows of IMAGE and draw the rest from the text, as DALL-E 1 does.

    Files are written as `pinxit generate` writes them.
    """
    picture = open_square(image)
    system = _load(model, device, asked, "complete")
    seed = _seed(asked)
    with _shown(prompt) as progress:
        made = system.complete(picture, prompt, keep_rows=keep_rows, seed=seed, progress=progress, **asked)
    _write(out, made, grid_only, source=image.name)


@click.command(short_help="Paint part of a picture anew.")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option(
    "--mask", required=True, type=click.Path(path_type=Path), help="A picture of the same size: white is painted anew."
)
@sampling_options
def edit(
    image: Path,
    prompt: str,
    mask: Path,
    model: str | None,
    device: str | None,
    out: Path,
    grid_only: bool,
    **asked: Any,
) -> None:
    """Paint IMAGE anew from the text where MASK is white; the rest stays as it is.

    Files are written as `pinxit generate` writes them.
    """
    from pinxit.data.images import open_image

    picture, where = open_square(image), open_image(mask)
    system = _load(model, device, asked, "edit")
    seed = _seed(asked)
    with _shown(prompt) as progress:
        made = system.edit(picture, where, prompt, seed=seed, progress=progress, **asked)
    _write(out, made, grid_only, source=image.name, mask=mask.name)


@click.command(short_help="Make pictures from a picture's edges, low resolution or half.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--as-it-is", is_flag=True, help="IMAGE is a drawing of edges, say, and no photo to take them from.")
@sampling_options
def translate(
    image: Path, as_it_is: bool, model: str | None, device: str | None, out: Path, grid_only: bool, **asked: Any
) -> None:
    """Make pictures that have the edges of IMAGE, its low resolution or its lower half, as the model has learnt.

    Files are written as `pinxit generate` writes them.
    """
    picture = open_square(image)
    system = _load(model, device, asked, "translate")
    seed = _seed(asked)
    with _shown(image.name) as progress:
        made = system.translate(picture, as_it_is=as_it_is, seed=seed, progress=progress, **asked)
    _write(out, made, grid_only, source=image.name)


@click.command(short_help="Make variations of a picture.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-n", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="Variations.")
@click.option(
    "--eta",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="E",
    help="0 gives IMAGE back, as near as the model can; 1 varies it most.",
)
@picture_options
def vary(
    image: Path,
    n: int,
    eta: float,
    model: str | None,
    device: str | None,
    out: Path,
    grid_only: bool,
    **asked: Any,
) -> None:
    """Make pictures with what CLIP sees in IMAGE, each otherwise of its own.

    Files are written as `pinxit generate` writes them.
    """
    picture = open_square(image)
    system = _load(model, device, asked, "vary")
    seed = _seed(asked)
    with _shown(image.name) as progress:
        made = system.vary(picture, n, eta=eta, seed=seed, progress=progress, **asked)
    _write(out, made, grid_only, source=image.name)


@click.command(short_help="Go from one picture to the next.")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--frames", type=click.IntRange(2), default=8, show_default=True, metavar="N", help="From each to the next."
)
@click.option(
    "--gif",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=read_gif,
    metavar="PATH",
    help="An animation as well.",
)
@picture_options
def blend(
    images: tuple[Path, ...],
    frames: int,
    gif: Path | None,
    model: str | None,
    device: str | None,
    out: Path,
    grid_only: bool,
    **asked: Any,
) -> None:
    """Go from each IMAGE to the next by what CLIP sees in them and by all the rest.

    Files are written as `pinxit generate` writes them; the grid has a row from each picture to the next.
    """
    pictures = [open_square(image) for image in images]
    system = _load(model, device, asked, "blend")
    seed = _seed(asked)
    with _shown(" ".join(image.name for image in images)) as progress:
        made = system.blend(pictures, frames, seed=seed, progress=progress, **asked)
    _write(out, made, grid_only, frames, source=[image.name for image in images])
    if gif is not None:
        write_atomically(gif, animation([picture.image for picture in made]))
        click.echo(gif)


@click.command(short_help="Turn a picture from one text towards another.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--from", "from_text", required=True, metavar="TEXT", help="What it is, such as: a photo of a cat.")
@click.option("--to", "to_text", required=True, metavar="TEXT", help="What it is to become: a drawing of a cat.")
@click.option("--frames", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="On the way there.")
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.35,
    show_default=True,
    metavar="S",
    help="How far the last one turns; the paper has 0.25 to 0.5.",
)
@picture_options
def restyle(
    image: Path,
    from_text: str,
    to_text: str,
    frames: int,
    strength: float,
    model: str | None,
    device: str | None,
    out: Path,
    grid_only: bool,
    **asked: Any,
) -> None:
    """Turn what CLIP sees in IMAGE along the difference of two texts.

    Files are written as `pinxit generate` writes them; the grid is one row.
    """
    picture = open_square(image)
    system = _load(model, device, asked, "restyle")
    seed = _seed(asked)
    with _shown(to_text) as progress:
        made = system.restyle(
            picture, from_text, to_text, frames, strength=strength, seed=seed, progress=progress, **asked
        )
    _write(out, made, grid_only, frames, source=image.name)


@click.command(short_help="Enlarge a picture.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--prompt", default="", metavar="TEXT", help="What it shows, for models that enlarge after a text.")
@click.option("--upsample-steps", type=click.IntRange(1), metavar="K", help="Of each network that enlarges.")
@single_options
def upsample(image: Path, prompt: str, model: str | None, device: str | None, out: Path, **asked: Any) -> None:
    """Enlarge IMAGE, of any size, by the networks with which the model enlarges what it draws.

    It begins with the one that has learnt of pictures nearest to IMAGE in size, and goes on with those after it. What
    is larger than 512 pixels is made in tiles. The file is written as `pinxit generate` writes it.
    """
    from pinxit.data.images import open_image

    picture = open_image(image)
    system = _load(model, device, asked, "upsample")
    seed = _seed(asked)
    with _shown(image.name) as progress:
        made = system.upsample(picture, prompt, seed=seed, progress=progress, **asked)
    click.echo(f"{picture.width}x{picture.height} to {made.image.width}x{made.image.height}", err=True)
    _write(out, [made], False, source=image.name)


def _seed(asked: dict[str, Any]) -> int:
    """Takes the seed out of what was asked, with the settings that were not; a random seed is told."""
    for name in [name for name, value in asked.items() if value is None and name != "seed"]:
        del asked[name]
    seed: int | None = asked.pop("seed")
    if seed is None:
        seed = secrets.randbelow(2**32)
        click.echo(f"seed {seed}", err=True)
    return seed


def _load(model: str | None, device: str | None, asked: dict[str, Any], capability: str) -> System:
    """Opens the model as `asked` wants it, and takes that out of the settings."""
    from pinxit.systems.system import load, usual

    return load(model or usual(capability), device, bf16=asked.pop("bf16"), compile=asked.pop("compile"))


def _shown(prompt: str) -> AbstractContextManager[Progress]:
    return shown(prompt if len(prompt) <= 30 else f"{prompt[:29]}…")


def _tell_scores(pictures: Sequence[Picture]) -> None:
    if scores := [f"{picture.score:.3f}" for picture in pictures if picture.score is not None]:
        click.echo(f"scores {' '.join(scores)}", err=True)


def _write(
    out: Path, pictures: Sequence[Picture], grid_only: bool, columns: int | None = None, **files: str | list[str]
) -> None:
    """Tells the scores of pictures and writes them, with the names of the `files` they were made of, to `--out`."""
    _tell_scores(pictures)
    pictures = [replace(picture, settings={**picture.settings, **files}) for picture in pictures]
    if is_picture(out):
        rows = columns or len(pictures)
        _write_as(out, [pictures[i : i + rows] for i in range(0, len(pictures), rows)], columns)
    else:
        _write_into(out, pictures, grid_only, columns)


def _write_into(folder: Path, pictures: Sequence[Picture], grid_only: bool, columns: int | None = None) -> None:
    """Writes one prompt's pictures and their grid into a folder, and prints where they are."""
    from pinxit.systems.system import grid

    for picture in [] if grid_only else pictures:
        click.echo(picture.save(free_path(folder, _named_after(picture), f"seed{picture.seed}")))
    if grid_only or len(pictures) > 1:
        whole = grid(pictures, columns)
        click.echo(whole.save(free_path(folder, _named_after(pictures[0]), f"seed{whole.seed}-grid")))


def _named_after(picture: Picture) -> str:
    """What a picture is named after: its prompt, or what it was made of."""
    source = picture.settings.get("source") or ""
    return picture.prompt or " ".join(Path(name).stem for name in ([source] if isinstance(source, str) else source))


def _write_as(path: Path, sets: Sequence[Sequence[Picture]], columns: int | None = None) -> None:
    """Writes everything as one picture: the only one, or a grid with a row for each set."""
    from pinxit.systems.system import grid

    everything = [picture for pictures in sets for picture in pictures]
    whole = (
        everything[0]
        if len(everything) == 1
        else grid(everything, columns or (len(sets[0]) if len(sets) > 1 else None))
    )
    click.echo(whole.save(path))
