"""The options of how pictures are drawn, for every verb that draws; what is not given stays None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click


def read_interval(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """`0.3,5` -> (0.3, 5.0)."""
    if value is None:
        return None
    try:
        least, most = (float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: write the least and the most noise, such as 0.3,5.", ctx, option
        ) from None
    return least, most


Option = Callable[[Callable[..., None]], Callable[..., None]]

SHARED: list[Option] = [
    click.option(
        "--guidance", type=click.FloatRange(0), metavar="G", help="How hard to follow what is asked; 1: plainly."
    ),
    click.option("--negative", metavar="TEXT", help="What guidance leads away from; needs guidance above 1."),
    click.option("--steps", type=click.IntRange(1), metavar="K", help="Of drawing, where it draws in steps."),
    click.option("--upsample-steps", type=click.IntRange(1), metavar="K", help="Of enlarging what was drawn."),
    click.option("--interval", callback=read_interval, metavar="A,B", help="Guide only where sigma/alpha is A to B."),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="P",
        help="Dynamic thresholding: the share of values kept in range.",
    ),
]
"""Of pictures after texts, and of those that are made of other pictures."""

TEXTS_ONLY: list[Option] = [
    click.option("--sampler", metavar="NAME", help="From noise to pictures: ddpm, ddim, dpm-solver, heun ..."),
    click.option("--temperature", type=click.FloatRange(0), metavar="T", help="Below 1 plainer, above 1 wilder."),
    click.option("--top-k", type=click.IntRange(1), metavar="K", help="Draw among the K likeliest tokens."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P", help="Or the likeliest share P."),
    click.option("--prior", metavar="NAME", help="From texts to embeddings: diffusion, autoregressive, none."),
    click.option("--prior-steps", type=click.IntRange(1), metavar="K", help="Of drawing an embedding."),
    click.option("--prior-candidates", type=click.IntRange(1), metavar="K", help="Embeddings to choose from."),
    click.option("--prior-guidance", type=click.FloatRange(0), metavar="G", help="How hard the prior follows."),
    click.option(
        "--gradient-guidance",
        type=click.FloatRange(0),
        metavar="G",
        help="How hard to climb a noised classifier or CLIP.",
    ),
]
"""Of pictures after texts alone."""


def with_options(options: Sequence[Option], command: Callable[..., None]) -> Callable[..., None]:
    """The command with options, which its help lists in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those of `systems.system.Settings` that verbs share which draw after texts; a system refuses what it lacks."""
    return with_options([*SHARED, *TEXTS_ONLY], command)
