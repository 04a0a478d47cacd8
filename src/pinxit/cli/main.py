"""The `pinxit` command: a table of verbs, each imported only when it is used, and how faults are told."""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import click

from pinxit import __version__
from pinxit.errors import PinxitError, unknown


class Verb(NamedTuple):
    """Where a verb's click command is, and its line in `pinxit --help`."""

    target: str
    summary: str


VERBS = {
    "generate": Verb("pinxit.cli.generate:generate", "Make pictures from text."),
    "complete": Verb("pinxit.cli.generate:complete", "Continue a picture from its first rows."),
    "edit": Verb("pinxit.cli.generate:edit", "Paint part of a picture anew."),
    "translate": Verb("pinxit.cli.generate:translate", "Make pictures from a picture's edges, low resolution or half."),
    "vary": Verb("pinxit.cli.generate:vary", "Make variations of a picture."),
    "blend": Verb("pinxit.cli.generate:blend", "Go from one picture to the next."),
    "restyle": Verb("pinxit.cli.generate:restyle", "Turn a picture from one text towards another."),
    "upsample": Verb("pinxit.cli.generate:upsample", "Enlarge a picture."),
    "reconstruct": Verb("pinxit.cli.codec:reconstruct", "Show what pictures look like through a model's codes."),
    "classify": Verb("pinxit.cli.clip:classify", "Say which of some labels fits a picture best."),
    "search": Verb("pinxit.cli.clip:search", "Find the pictures nearest to a text or a picture."),
    "train": Verb("pinxit.cli.train:train", "Train a recipe; the same command again resumes."),
    "recipes": Verb("pinxit.cli.train:recipes", "List the recipes, or show one in full."),
    "encode": Verb("pinxit.cli.codec:encode", "Turn pictures into codes, once, and keep them."),
    "evaluate": Verb("pinxit.cli.evaluate:evaluate", "Measure a model on pictures with captions."),
    "data": Verb("pinxit.cli.data:data", "Make, check and pack pictures with captions."),
    "convert": Verb("pinxit.cli.convert:convert", "Turn public weights into a checkpoint."),
    "models": Verb("pinxit.cli.models:models", "List the models that come with the package."),
    "show": Verb("pinxit.cli.models:show", "Tell what a model is, or how a picture was made."),
}


class Fault(click.ClickException):
    """One line on standard error, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Prints the line."""
        click.echo(f"pinxit: {self.message}", err=True, file=file)


class Verbs(click.Group):
    """Finds commands in the table, and turns what they raise into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The verbs in the table's order, which is that of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports a verb's module. Every command below it takes `--debug` as well, wherever it is typed."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        _accept_debug(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest verb for a misspelt one."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise click.UsageError(str(unknown("verb", args[0], VERBS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Writes the list from the table; nothing is imported."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb. Exit 1 with one clear line for a fault, 130 for Ctrl-C; click's own exit 2 for wrong usage."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            ctx.exit(130)
        except Exception as fault:
            if ctx.meta.get("debug"):
                raise
            raise Fault(_one_line(fault)) from None


def _one_line(fault: Exception) -> str:
    if isinstance(fault, PinxitError):
        return str(fault)
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror + (f": {fault.filename}" if fault.filename else "") + "."
    said = " ".join(str(fault).split()) or "no more is known"
    return f"{type(fault).__name__}: {said} (not foreseen; --debug shows where)"


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = ctx.meta.get("debug", False) or value


DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="On a fault, show the whole traceback."
)


def _accept_debug(command: click.Command) -> None:
    if DEBUG not in command.params:
        command.params.append(DEBUG)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_debug(inner)


@click.group(
    cls=Verbs,
    params=[DEBUG],
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="pinxit")
def main() -> None:
    """Pictures from text: train, sample, complete, search and measure, with one library.

    `pinxit VERB --help` tells more about each.
    """
    # Before PyTorch is loaded, which asks once: threads that spin while they wait starve each other wherever anything
    # else runs, training by a factor of six.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
