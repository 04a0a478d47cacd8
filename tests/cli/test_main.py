"""The command as a whole: the list of verbs, exit codes, one line for each fault."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pinxit import PinxitError, __version__
from pinxit.cli import main as cli
from pinxit.cli.main import VERBS, Verb, main


def pinxit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pinxit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_in_the_table_exists(name: str) -> None:
    module, _, attribute = VERBS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    asked = CliRunner().invoke(main, [name, "--help"])
    assert asked.exit_code == 0
    assert "--debug" in asked.output


def test_help_lists_every_verb_with_its_summary() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(name in text and verb.summary in text for name, verb in VERBS.items())


def test_the_version_is_told() -> None:
    assert pinxit("--version").stdout == f"pinxit, version {__version__}\n"


def test_a_misspelt_verb_gets_a_hint_and_exit_2() -> None:
    done = pinxit("generat", "a red apple")
    assert done.returncode == 2
    assert "There is no verb 'generat'. Did you mean 'generate'?" in done.stderr


def test_wrong_usage_exits_2() -> None:
    assert pinxit("generate").returncode == 2
    assert pinxit("show", "a", "b").returncode == 2
    assert pinxit("--nonsense").returncode == 2


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A file that `show` refuses, without loading torch first."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    return str(path)


def test_a_fault_is_one_line_and_exit_1(notes: str) -> None:
    done = pinxit("show", notes)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pinxit: 'notes.txt' cannot be read as a PNG picture")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_is_typed(notes: str, place: int) -> None:
    arguments = ["show", notes]
    arguments.insert(place, "--debug")
    done = pinxit(*arguments)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "PinxitError: 'notes.txt' cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (PinxitError("The sky fell."), 1, "pinxit: The sky fell.\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "pinxit: Permission denied: /x/y.\n"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "pinxit: ZeroDivisionError: division by zero (not foreseen; --debug",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_fault_becomes_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, code: int, said: str
) -> None:
    @click.command()
    def fail() -> None:
        raise fault

    monkeypatch.setattr(sys.modules[__name__], "fail", fail, raising=False)
    monkeypatch.setitem(cli.VERBS, "fail", Verb(f"{__name__}:fail", "Fails."))
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == code
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
