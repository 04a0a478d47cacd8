"""`pinxit evaluate`: a model measured on pictures with captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pinxit.atomic import write_atomically
from pinxit.cli.outputs import device_option, quick_options
from pinxit.cli.settings import setting_options
from pinxit.progress import shown


@click.command(short_help="Measure a model on pictures with captions.")
@click.argument("model")
@click.option("--data", "src", metavar="SRC", required=True, help="Pictures with captions; scenes:N:held-in...")
@click.option("--n", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="Samples at most.")
@click.option("--rerank", type=click.IntRange(1), metavar="N", help="Draw N candidates; tell the best of 1, 2, 4 ...")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="The first candidate's."
)
@setting_options
@click.option("--features", metavar="MODEL", help="What tells how alike pictures look: a CLIP, LPIPS.")
@click.option(
    "--json", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="PATH", help="Write everything there."
)
@device_option
@quick_options
def evaluate(
    model: str, src: str, n: int, seed: int, features: str | None, path: Path | None, device: str | None, **asked: Any
) -> None:
    """Measure MODEL on pictures that it was not trained on.

    A codec: PSNR, SSIM, how far reconstructions look and lie from the pictures, and the use of its codes. A CLIP:
    recall at 1 and 5. A system that draws: those of its parts that are such, and on scenes, such as
    scenes:1000:held-in, the share of drawn pictures that show what was asked, by category, beside that of the real
    pictures and of the codec's reconstructions: what the codec loses, no transformer can draw.

    Candidate i of prompt j has the seed S + 1024 j + i.
    """
    from pinxit.data.pairs import open_pairs
    from pinxit.evaluation import report
    from pinxit.systems.system import load

    system = load(model, device, bf16=asked.pop("bf16"), compile=asked.pop("compile"))
    pairs = open_pairs(src, size=report.picture_size(system), captioned=report.needs_captions(system))
    settings: Any = {name: value for name, value in asked.items() if value is not None}
    measured = report.evaluate(
        system, pairs, source=src, n=n, seed=seed, settings=settings, features=features, watch=shown
    )
    click.echo(measured.table())
    if path is not None:
        write_atomically(path, (json.dumps(measured.to_json(), indent=1, ensure_ascii=False) + "\n").encode())
        click.echo(path, err=True)
