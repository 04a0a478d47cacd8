"""`pinxit classify` and `pinxit search`: what CLIP says about pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pinxit.cli.outputs import device_option, plain
from pinxit.errors import PinxitError
from pinxit.progress import shown

if TYPE_CHECKING:
    from torch import Tensor

    from pinxit.systems.clip import CLIPSystem, Index

SHOWN = 5
"""How many labels a picture's row holds."""

INDEX_ENDING = ".safetensors"

model_option = click.option(
    "-m", "--model", metavar="MODEL", help="A CLIP, or a system that has one; the shipped model if left out."
)


@click.command(short_help="Say which of some labels fits a picture best.")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--labels", required=True, metavar="A,B,C", help="The labels to choose among, with commas between.")
@click.option("--template", metavar="TEXT", help="What labels are put into, {} being one; the model's own if left out.")
@model_option
@device_option
def classify(
    images: tuple[Path, ...], labels: str, template: str | None, model: str | None, device: str | None
) -> None:
    """Say which of some labels fits each IMAGE best.

    Prints one line a picture: the likeliest labels with their probabilities, which sum to 1 over all labels given.
    """
    from pinxit.data.images import open_image

    named = [label.strip() for label in labels.split(",") if label.strip()]
    pictures = [open_image(path) for path in images]
    told = _load(model, device).classify(pictures, named, template)
    names = [str(path) for path in images]
    width, label_width = max(map(len, names)), max(map(len, named))
    for name, chances in zip(names, told, strict=True):
        best = sorted(chances.items(), key=lambda pair: -pair[1])[:SHOWN]
        cells = (f"{label:>{label_width}} {chance:.3f}" for label, chance in best)
        click.echo(f"{name:<{width}}  {'  '.join(cells)}")


@click.command(short_help="Find the pictures nearest to a text or a picture.")
@click.argument("query")
@click.option("--in", "where", required=True, metavar="SRC|INDEX", help="Pictures with captions, or a saved index.")
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, metavar="K", help="How many to find.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="GRID.png", help="Draw them, best first.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar=f"INDEX{INDEX_ENDING}",
    help="Keep the embeddings; --in takes them next time.",
)
@model_option
@device_option
def search(
    query: str, where: str, k: int, out: Path | None, save: Path | None, model: str | None, device: str | None
) -> None:
    """Find the pictures nearest to QUERY, a text or the path of a picture.

    Prints one line a picture, best first: its cosine with the query, and its key in the source.
    """
    if save is not None and save.suffix != INDEX_ENDING:
        raise click.BadParameter(f"{str(save)!r}: an index is a file that ends in {INDEX_ENDING}.", param_hint="--save")
    if out is not None and out.suffix.lower() != ".png":
        raise click.BadParameter(f"{str(out)!r}: the grid is a file that ends in .png.", param_hint="--out")
    clip = _load(model, device)
    embedding = _embed(clip, query)
    index = _index(clip, where)
    if save is not None:
        index.save(save)
        click.echo(f"index {save}", err=True)
    matches = index.search(embedding, k)
    for match in matches:
        click.echo(f"{match.score:6.3f}  {plain(match.key)}")
    if out is not None:
        from pinxit.data.images import fit, grid
        from pinxit.data.pairs import source_name
        from pinxit.systems.picture import Picture

        found = index.pictures(matches)
        side = max(max(picture.size) for picture in found)
        sheet = grid([fit(picture, side) for picture in found], columns=min(5, len(matches)))
        keys = [match.key for match in matches]
        settings = {"source": source_name(index.source), "keys": keys}
        click.echo(Picture(image=sheet, prompt=query, seed=0, model=clip.name, settings=settings).save(out))


def _load(model: str | None, device: str | None) -> CLIPSystem:
    from pinxit.checkpoints.catalogue import DEFAULT
    from pinxit.systems.clip import load_clip

    return load_clip(model or DEFAULT, device)


def _embed(clip: CLIPSystem, query: str) -> Tensor:
    """The embedding of a picture, where the query is the path of a file or looks like one's; else of a text."""
    from pinxit.data.images import PICTURE_SUFFIXES, open_image

    looks_like_one = re.fullmatch(r"\S+(\.\w+)", query)
    if Path(query).is_file() or (looks_like_one and looks_like_one[1].lower() in PICTURE_SUFFIXES):
        return clip.encode_image(open_image(query))
    return clip.encode_text(query)


def _index(clip: CLIPSystem, where: str) -> Index:
    """A saved index, refused where another model made it; or one made now from a source."""
    from pinxit.data.pairs import open_pairs
    from pinxit.systems.clip import Index

    if where.endswith(INDEX_ENDING):
        index = Index.load(where)
        if index.model != clip.fingerprint:
            raise PinxitError(f"{where} was made by another model than {clip.name}. Name that one with --model.")
        return index
    pairs = open_pairs(where, captioned=False)
    with shown("embedding") as progress:
        return clip.build_index(pairs, source=where, progress=progress)
