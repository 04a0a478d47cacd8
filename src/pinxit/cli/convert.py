"""`pinxit convert`: public weights as checkpoints of ours."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Turn public weights into a checkpoint.")
@click.argument("src")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--part", metavar="NAME", help="codec: of a system; lpips: inside a VQGAN's checkpoint.")
@click.option(
    "--size", type=click.IntRange(1), metavar="PX", help="Side of its pictures, where the weights do not tell."
)
def convert(src: str, folder: Path, part: str | None, size: int | None) -> None:
    """Turn the public weights SRC, a file, a folder or hf:owner/name, into the checkpoint DIR.

    What they are is told from the weights themselves: OpenAI's dVAE (encoder.pkl and decoder.pkl in a folder), VQGANs
    and KL autoencoders of taming-transformers and latent-diffusion, also inside a Stable Diffusion file, diffusers'
    AutoencoderKL and VQModel, and LPIPS. Whole systems are taming-transformers' that draw for classes or for nothing,
    beside the yaml that they came with, and minDALL-E, its folder. Pickles are read without running anything that they
    ask for.
    """
    from pinxit.checkpoints.conversion import convert as job

    found = job(src, folder, part=part, size=size)
    click.echo(f"{found.kind} of {found.parameters:,} parameters, from the layout of {found.layout}: {folder}")
