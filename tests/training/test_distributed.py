"""Two processes under torchrun against one."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import Line, run

from pinxit.checkpoints.files import read_tensors
from pinxit.errors import PinxitError
from pinxit.training.distributed import open_world

ROOT = Path(__file__).parent.parent.parent
CHANGES: dict[str, Any] = {"precision": "float32", "accumulate": 2, "log_every": 1, "steps": 6}


def trained(out: Path, processes: int, *, cut: bool = False) -> None:
    program = f"""
import sys
from pathlib import Path
import torch
from pinxit.training.distributed import open_world
from pinxit.training.interrupts import Stopped
from tests.training.test_distributed import CHANGES, Cut, Line, run
torch.use_deterministic_algorithms(True)
with open_world("cpu") as world:
    try:
        run(Path(sys.argv[1]), Cut(world.rank) if {cut} else Line(noise=0.0, dropout=0.0), world, **CHANGES)
    except Stopped as stopped:
        print("rank", world.rank, stopped)
"""
    file = out.parent / f"{out.name}.py"
    file.write_text(program)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, str(file), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


class Cut(Line):
    """Only the second process is told to stop."""

    def __init__(self, rank: int) -> None:
        super().__init__(noise=0.0, dropout=0.0)
        self.rank = rank

    def after_step(self, step: int) -> None:
        if self.rank == 1 and step == 2:
            signal.raise_signal(signal.SIGTERM)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_processes_equal_one_and_stop_together(tmp_path: Path) -> None:
    run(tmp_path / "one", Line(noise=0.0, dropout=0.0), **CHANGES)
    trained(tmp_path / "two", 2, cut=True)
    assert not (tmp_path / "two" / "model").exists()
    assert len(losses(tmp_path / "two")) == 3
    run(tmp_path / "two", Line(noise=0.0, dropout=0.0), **CHANGES)  # begun by two, finished by one
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (read_tensors(tmp_path / name / "model", "net") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_world("cpu") as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        assert world.any(True)
        assert not world.any(False)
        assert world.gather("x") == ["x"]


def test_patience_outlasts_a_long_job_of_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default gloo gives up after half an hour."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked: dict[str, timedelta] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, timeout: asked.update(timeout=timeout))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with open_world("cpu"):
        assert asked["timeout"] >= timedelta(days=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(PinxitError, match="no CUDA device"), open_world("cuda"):
        pass
