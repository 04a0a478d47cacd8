"""`pinxit generate` and `pinxit complete`: pictures into files."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from pinxit.errors import PinxitError

if TYPE_CHECKING:
    from pinxit.systems.picture import Picture
    from pinxit.systems.system import Progress, System


class Size(click.ParamType[tuple[int, int]]):
    """`WxH` in pixels, or one number for a square."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """`64x48` -> (64, 48), `64` -> (64, 64)."""
        match = re.fullmatch(r"([1-9]\d{0,4})(?:[x×]([1-9]\d{0,4}))?", str(value).lower())
        if match is None:
            self.fail(f"{value!r} is no size; write WIDTHxHEIGHT in pixels, such as 64x64.", param, ctx)
        return int(match[1]), int(match[2] or match[1])


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of everything that draws pictures; a setting that is not given stays None."""
    options = [
        click.option("-m", "--model", metavar="MODEL", help="A shipped name, a checkpoint folder or hf:owner/name."),
        click.option(
            "-n", "n", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Pictures per prompt."
        ),
        click.option("--seed", type=click.IntRange(0), help="Picture i gets SEED + i.  [default: random, and shown]"),
        click.option("--guidance", type=click.FloatRange(0), help="How hard to follow the text; 1 is no guidance."),
        click.option("--temperature", type=click.FloatRange(0), help="Below 1 plainer, above 1 wilder."),
        click.option("--top-k", type=click.IntRange(1), help="Draw among the K likeliest tokens."),
        click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw among the likeliest share P."),
        click.option("--rerank", type=click.IntRange(1), metavar="N", help="Make N and keep the best by CLIP."),
        click.option("--size", type=Size(), help="Width and height in pixels, where the model has a choice."),
        click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.  [default: cuda where there is one]"),
        click.option(
            "-o",
            "--out",
            type=click.Path(path_type=Path),
            default="outputs",
            show_default=True,
            help="A folder, or a name that ends in .png: one picture, or the grid of several.",
        ),
        click.option("--grid", "grid_only", is_flag=True, help="Write the grid only, no single pictures."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


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
    seed = _seed(asked)
    system = _load(model, device)
    sets = []
    for prompt in prompts:
        with _bar(prompt) as progress:
            sets.append(system.generate(prompt, seed=seed, progress=progress, **asked))
    _write(sets, out, grid_only)


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
    from pinxit.data.images import open_image

    seed = _seed(asked)
    picture = open_image(image)
    system = _load(model, device)
    with _bar(prompt) as progress:
        made = system.complete(picture, prompt, keep_rows=keep_rows, seed=seed, progress=progress, **asked)
    _write([made], out, grid_only)


def _seed(asked: dict[str, Any]) -> int:
    """Takes the seed out of what was asked, with the settings that were not; a random seed is told."""
    for name in [name for name, value in asked.items() if value is None and name != "seed"]:
        del asked[name]
    seed: int | None = asked.pop("seed")
    if seed is None:
        seed = secrets.randbelow(2**32)
        click.echo(f"seed {seed}", err=True)
    return seed


def _load(model: str | None, device: str | None) -> System:
    from pinxit.checkpoints.catalogue import DEFAULT
    from pinxit.systems.system import load

    return load(model or DEFAULT, device)


@contextmanager
def _bar(prompt: str) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    label = prompt if len(prompt) <= 30 else f"{prompt[:29]}…"
    with tqdm(desc=label, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _write(sets: Sequence[Sequence[Picture]], out: Path, grid_only: bool) -> None:
    """Writes the pictures of each prompt and prints where they are; scores go to standard error."""
    from pinxit.systems.system import grid

    for pictures in sets:
        if scores := [f"{picture.score:.3f}" for picture in pictures if picture.score is not None]:
            click.echo(f"scores of {pictures[0].prompt!r}: {' '.join(scores)}", err=True)
    everything = [picture for pictures in sets for picture in pictures]
    if out.suffix and not out.is_dir():
        columns = len(sets[0]) if len(sets) > 1 else None  # one row a prompt
        whole = everything[0] if len(everything) == 1 else grid(everything, columns)
        click.echo(whole.save(out))
        return
    for pictures in sets:
        for picture in [] if grid_only else pictures:
            click.echo(picture.save(_free(out, picture.prompt, f"seed{picture.seed}")))
        if grid_only or len(pictures) > 1:
            click.echo(grid(pictures).save(_free(out, pictures[0].prompt, f"seed{pictures[0].seed}-grid")))


def _free(folder: Path, prompt: str, ending: str) -> Path:
    """Claims the next numbered name in the folder, such as 0001-a-red-apple-seed0.png, which nobody has yet."""
    if folder.exists() and not folder.is_dir():
        raise PinxitError(f"{str(folder)!r} is a file; give a folder, or a name that ends in .png.")
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
