"""What the comparisons at equal minutes share: training by `pinxit train`, its pace, and sheets of pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pinxit.atomic import write_atomically

PACE = 40
"""Steps that tell the pace; the first half of them warms up."""


@dataclass(frozen=True)
class Training:
    """What all runs of a comparison have in common."""

    data: str
    processes: int

    def run(self, name: str, out: Path, settings: Sequence[str], parts: Mapping[str, Path] | None = None) -> float:
        """`pinxit train` in processes of its own; the seconds it took."""
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(self.processes), "-m", "pinxit"]
        command = [sys.executable, *(launch if self.processes > 1 else ["-m", "pinxit"]), "train", name]
        command += ["--data", self.data, "--out", str(out), *(f"--set={setting}" for setting in settings)]
        command += [f"--part={part}={folder}" for part, folder in (parts or {}).items()]
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        start = time.monotonic()
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        return time.monotonic() - start

    def seconds_a_sample(
        self, name: str, out: Path, settings: Sequence[str], parts: Mapping[str, Path] | None = None, stage: str = ""
    ) -> float:
        """Of the last steps of a short run, which is kept; `stage` is the one of a pipeline that is meant."""
        inner = f"{stage}." if stage else ""
        log = out / stage / "log.jsonl"
        if not log.exists() or len(log.read_text().splitlines()) < 2:
            short = (f"training.steps={PACE}", f"training.log_every={PACE // 2}", "data.validation=0")
            self.run(name, out, [*(f"{inner}{setting}" for setting in short), *settings], parts)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        rate: float = [row["samples_per_second"] for row in rows if "samples_per_second" in row][-1]
        return 1 / rate


def kept(out: Path, asked: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in `out` of what was asked; made where there is none yet. Ends the program where other was asked."""
    file = out / "result.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text())
        if found["asked"] != asked:
            sys.exit(f"{out} was made with {found['asked']}. Give the same, or another --out.")
        return found
    made = {"name": out.name, "asked": dict(asked), **make()}
    write_atomically(file, json.dumps(made, indent=2).encode())
    return made


def evaluated(model: Path, data: str, told: Path, *options: str) -> dict[str, Any]:
    """What `pinxit evaluate` has to say."""
    command = [sys.executable, "-m", "pinxit", "evaluate", str(model), "--data", data, "--json", str(told), *options]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str] = (), side: int = 128) -> Image.Image:
    """Labelled rows of pictures, under headings."""
    left, gap, top = 120, 6, 40 if heads else 0
    wide = left + len(rows[0][1]) * (side + gap)
    whole = Image.new("RGB", (wide, top + len(rows) * (side + gap)), "white")
    pen, font, small = ImageDraw.Draw(whole), ImageFont.load_default(15), ImageFont.load_default(12)
    for x, head in enumerate(heads):
        pen.multiline_text((left + x * (side + gap), 4), textwrap.fill(head, side // 6), "black", small)
    for y, (label, pictures) in enumerate(rows):
        middle = top + y * (side + gap) + side // 2
        pen.multiline_text((6, middle), textwrap.fill(label, left // 8), "black", font, anchor="lm")
        for x, picture in enumerate(pictures):
            scaled = picture.resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(scaled, (left + x * (side + gap), top + y * (side + gap)))
    return whole
