"""A system small enough for any test, which paints one colour, drawn from its brush, the prompt and the seed; DALL·E 1
trained for a few steps; and `pytest --measured`, which prints what tests have measured.
"""

from __future__ import annotations

import sys
import types
import zlib
from pathlib import Path
from typing import Any, Self, Unpack

import pytest
import torch
from PIL import Image
from tests.recipes.hasty import HASTY_SOURCE, hasty_dalle1

from pinxit.checkpoints.files import read_config, read_tensors, save_checkpoint
from pinxit.progress import Progress
from pinxit.recipes.recipe import Context
from pinxit.systems import system
from pinxit.systems.picture import Picture
from pinxit.systems.system import Kind, Settings, System


class Painter(System):
    kind = "painter"

    def __init__(self, brush: torch.Tensor, size: int) -> None:
        self.brush, self.size = brush, size
        self.defaults: Settings = {"guidance": 1.0, "temperature": 1.0, "top_k": None, "rerank": None}

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        return cls(read_tensors(folder, "brush")["weight"].to(device), int(read_config(folder)["size"]))

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        chosen = self.resolve(n, seed, settings)
        candidates = chosen["rerank"] or n
        made = []
        for i in range(candidates):
            draw = torch.Generator().manual_seed(zlib.crc32(prompt.encode()) + seed + i)
            red, green, blue = (self.brush * torch.rand(3, generator=draw)).mul(255).int().tolist()
            image = Image.new("RGB", (self.size, self.size), (red, green, blue))
            score = red / 255 if chosen["rerank"] else None
            made.append(Picture(image, prompt, seed + i, self.name, dict(chosen), score))
            if progress:
                progress(i + 1, candidates)
        return sorted(made, key=lambda picture: -(picture.score or 0))[:n]


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A painter's checkpoint folder; its kind is in the table for the length of the test."""
    module = types.ModuleType("painter")
    module.Painter = Painter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "painter", module)
    monkeypatch.setitem(system.KINDS, "painter", Kind("painter:Painter", ("generate",)))
    folder = tmp_path / "painter"
    config = {"kind": "painter", "size": 8, "licence": "CC0-1.0", "metrics": {"fid": 1.5}}
    save_checkpoint(folder, config, {"brush": {"weight": torch.ones(3)}}, card="# Painter\n\nPaints one colour.\n")
    return folder


@pytest.fixture(scope="session")
def dalle1_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `hasty_dalle1` over HASTY_SOURCE, to be copied by who changes it."""
    out = tmp_path_factory.mktemp("runs") / "dalle1"
    hasty_dalle1().run(Context(HASTY_SOURCE, out))
    return out


DIFFERENCE = "largest difference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measured", action="store_true", help="print what tests have measured, as a table")


@pytest.fixture(autouse=True)
def differences(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest difference that `assert_close` sees in a test, kept for `--measured`."""
    if not request.config.getoption("measured"):
        return
    compare, told = torch.testing.assert_close, request.node.user_properties
    seen = [0.0]

    def watched(ours: Any, theirs: Any, **how: Any) -> None:
        compare(ours, theirs, **how)
        if isinstance(ours, torch.Tensor) and ours.is_floating_point():
            seen.append((ours.double() - theirs.double()).abs().max().item())
            told[:] = [pair for pair in told if pair[0] != DIFFERENCE] + [(DIFFERENCE, f"{max(seen):.1e}")]

    monkeypatch.setattr(torch.testing, "assert_close", watched)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("measured"):
        terminalreporter.write_line("\n| test | measured | |\n|---|---|---|")
        for report in terminalreporter.getreports("passed"):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"| `{report.nodeid.removeprefix('tests/')}` | {name} | {value} |")
