"""How fast scenes are drawn and judged on one core: `OMP_NUM_THREADS=1 python benchmarks/scenes_speed.py`."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pinxit.data.scenes import Scenes, draw, make_scene
from pinxit.evaluation.following import follows


def processor() -> str:
    """The processor's name as the system tells it."""
    told = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def rate(work: Callable[[int], object], count: int, rounds: int) -> tuple[float, float]:
    """Pictures a second, best of `rounds`: by the clock, and by this process's own time (on a busy machine)."""
    wall = cpu = float("inf")
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        for i in range(count):
            work(i)
        wall = min(wall, time.perf_counter() - began)
        cpu = min(cpu, time.process_time() - used)
    return count / wall, count / cpu


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{processor()}, Python {platform.python_version()}, numpy {np.__version__}, one process")
    for size in (64, 128, 256):
        scenes = Scenes(options.count, size=size)
        drawn = [make_scene(i) for i in range(options.count)]
        pictures = [scenes[i].image for i in range(options.count)]
        follows(pictures[0], drawn[0].ask)  # makes its templates
        for name, work in (
            ("sample (scene, captions, PIL picture)", lambda i, s=scenes: s[i]),
            ("draw alone", lambda i, d=drawn, n=size: draw(d[i], n)),
            ("judge", lambda i, p=pictures, d=drawn: follows(p[i], d[i].ask)),
        ):
            wall, cpu = rate(work, options.count, options.rounds)
            print(f"{size:4d} px  {name:40s} {wall:8.0f} pictures/s by the clock, {cpu:8.0f} by processor time")


if __name__ == "__main__":
    main()
