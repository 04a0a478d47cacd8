"""`pinxit models` and `pinxit show`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageChops

from pinxit.checkpoints import catalogue
from pinxit.cli.main import main
from pinxit.cli.models import again
from pinxit.data.images import open_image
from pinxit.systems.picture import Picture


def test_models_lists_what_is_shipped(painter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SHIPPED", painter.parent)
    done = CliRunner().invoke(main, ["models"])
    assert done.exit_code == 0
    heading, row = done.stdout.strip().splitlines()
    assert heading.split() == ["NAME", "KIND", "PARAMETERS", "SIZE", "LICENCE"]
    assert row.split() == ["painter", "painter", "3", "0.0", "MB", "CC0-1.0"]


def test_a_package_without_models_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path / "none")
    done = CliRunner().invoke(main, ["models"])
    assert done.exit_code == 1
    assert "No model came with this package" in done.stderr


def test_show_a_model(painter: Path) -> None:
    text = CliRunner().invoke(main, ["show", str(painter)]).stdout
    for line in ("name: painter", "kind: painter", "parameters: 3", "  fid: 1.5", "licence: CC0-1.0", "# Painter"):
        assert line in text.splitlines()


def test_show_a_model_as_json(painter: Path) -> None:
    record = json.loads(CliRunner().invoke(main, ["show", "--json", str(painter)]).stdout)
    assert (record["kind"], record["size"], record["parameters"]) == ("painter", 8, 3)


def test_show_a_picture(tmp_path: Path) -> None:
    prompt = "an \x1b[2Japple 🍎\x9b\nred"
    path = Picture(Image.new("RGB", (2, 2)), prompt, 3, "m", {"guidance": 2.0}).save(tmp_path / "a.png")
    text = CliRunner().invoke(main, ["show", str(path)]).stdout
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "prompt: an \\x1b[2Japple 🍎\\x9b\nred" in text
    assert "  guidance: 2.0" in text.splitlines()
    assert json.loads(CliRunner().invoke(main, ["show", "--json", str(path)]).stdout)["prompt"] == prompt


def test_show_refuses_what_is_neither(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    done = CliRunner().invoke(main, ["show", str(tmp_path / "notes.txt")])
    assert done.exit_code == 1
    assert done.stderr.startswith("pinxit: 'notes.txt' cannot be read as a PNG picture")


def test_a_broken_weights_file_is_named(painter: Path) -> None:
    (painter / "brush.safetensors").write_bytes(b"\xff" * 40)
    done = CliRunner().invoke(main, ["show", str(painter)])
    assert done.exit_code == 1
    assert "brush.safetensors' is no whole safetensors file" in done.stderr


def test_show_tells_how_to_make_a_picture_again(tmp_path: Path) -> None:
    """The best of several candidates, made alone from its own seed, is the same picture."""
    runner, out = CliRunner(), tmp_path / "one.png"
    made = runner.invoke(main, ["generate", "a red apple", "-n", "1", "--rerank", "2", "--seed", "4", "-o", str(out)])
    assert made.exit_code == 0, made.output
    record = json.loads(runner.invoke(main, ["show", "--json", str(out)]).stdout)
    words = shlex.split(record["again"])
    assert words[:3] == ["pinxit", "generate", "a red apple"]
    assert "--rerank" not in words
    again = tmp_path / "again.png"
    assert runner.invoke(main, [*words[1:], "-o", str(again)]).exit_code == 0
    assert ImageChops.difference(open_image(out), open_image(again)).getextrema() in [((0, 0),) * 3, ((0, 1),) * 3]


def test_what_was_not_made_from_a_text_alone_has_no_such_command() -> None:
    made = Picture(Image.new("RGB", (4, 4)), "a star", 3, "some", {"guidance": 2.0, "size": [64, 32]})
    assert (
        again(made.record())
        == "pinxit generate 'a star' -n 1 --seed 3 --model PATH/TO/some --guidance 2.0 --size 64x32"
    )
    assert again({**made.record(), "settings": {"guidance": 2.0, "keep_rows": 4}}) is None
    assert again({**made.record(), "settings": {"edited": True}}) is None


def test_a_missing_picture_is_no_model(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["show", str(tmp_path / "none.png")])
    assert (done.exit_code, "There is no picture" in done.stderr) == (1, True)
