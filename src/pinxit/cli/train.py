"""`pinxit train` and `pinxit recipes`."""

from __future__ import annotations

from pathlib import Path

import click

from pinxit.cli.outputs import device_option


@click.command(short_help="Train a recipe; the same command again resumes.")
@click.argument("recipe")
@click.option(
    "--data", metavar="SRC", required=True, help="Pictures with captions: a folder, table, shards, scenes:N..."
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes.",
)
@click.option("--set", "assignments", metavar="PATH=VALUE", multiple=True, help="Change a setting of the recipe.")
@click.option("--part", "parts", metavar="NAME=MODEL", multiple=True, help="Take an earlier stage from elsewhere.")
@device_option
@click.option("--accept-changes", is_flag=True, help="Go on in DIR although settings changed.")
def train(
    recipe: str,
    data: str,
    out: Path,
    assignments: tuple[str, ...],
    parts: tuple[str, ...],
    device: str | None,
    accept_changes: bool,
) -> None:
    """Train RECIPE on SRC into DIR. The same command again goes on where it stopped.

    Ctrl-C finishes the step, saves and leaves; a second one leaves at once. `pinxit recipes` lists the recipes. On
    several processes: torchrun --nproc-per-node N -m pinxit train ...
    """
    from pinxit.recipes.catalogue import find
    from pinxit.recipes.overrides import override
    from pinxit.recipes.recipe import Context
    from pinxit.training.distributed import open_world
    from pinxit.training.interrupts import Stopped

    stage = override(find(recipe), assignments)
    elsewhere = {}
    for part in parts:
        name, equals, model = part.partition("=")
        if not equals:
            raise click.UsageError(f"--part {part}: write NAME=MODEL, such as --part dvae=runs/dvae.")
        elsewhere[name] = model
    with open_world(device) as world:
        try:
            stage.run(Context(data, out, world, elsewhere, accept_changes))
        except Stopped as stopped:
            world.say(str(stopped))
            raise click.exceptions.Exit(128 + stopped.signal) from None
        world.say(f"Done: {out}")


@click.command(short_help="List the recipes, or show one in full.")
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes with their cost and expected score, or show one with every setting that --set can change."""
    from pinxit.recipes.catalogue import RECIPES, find
    from pinxit.recipes.overrides import settings
    from pinxit.recipes.pipeline import Pipeline
    from pinxit.recipes.recipe import Recipe

    found = {name: find(name)} if name else {each: find(each) for each in RECIPES}
    for each, stage in found.items():
        click.secho(each, bold=True)
        click.echo(f"  {stage.summary}")
        if isinstance(stage, (Recipe, Pipeline)):
            click.echo(f"  {_cost(stage.hours, stage.hardware)}. Expect: {stage.expected}")
        if isinstance(stage, Pipeline):
            click.echo(f"  Stages: {', '.join(stage.stages)}.")
        if name:
            click.echo("")
            for path, value in settings(stage):
                click.echo(f"  {path}={_typed(value)}")


def _cost(hours: float | None, hardware: str) -> str:
    if hours is None:
        return hardware
    return f"{hours:.3g} h on {hardware}" if hours >= 1 else f"{hours * 60:.2g} min on {hardware}"


def _typed(value: object) -> str:
    """A value as --set takes it."""
    if isinstance(value, (tuple, list)):
        return ",".join(_typed(part) for part in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
