"""`pinxit models` and `pinxit show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from pinxit.checkpoints import catalogue
from pinxit.cli.main import main
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
