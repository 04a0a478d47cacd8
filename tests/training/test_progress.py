import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from pinxit.errors import PinxitError
from pinxit.training.distributed import World
from pinxit.training.progress import Meter, Progress


def test_meter_averages_tensors_and_numbers_since_the_last_call() -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add("", {"a": torch.tensor(value, requires_grad=True), "b": value})
    meter.add("turn/", {"a": 5})
    assert meter.means(World()) == {"a": 3.0, "b": 3.0, "turn/a": 5.0}
    assert meter.means(World()) == {}


def test_meter_names_the_first_number_that_is_none() -> None:
    meter = Meter()
    meter.watch(3, {"loss": torch.tensor(1.0)})
    meter.refuse_nan()
    meter.watch(4, {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(math.inf)})
    meter.watch(5, {"loss": torch.tensor(math.nan)})
    with pytest.raises(PinxitError, match=r"gradient_norm is inf in step 5\."):
        meter.refuse_nan()


def test_lines_of_undone_steps_go_and_json_stays_json(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\nnoise\n{"step": 2, "lo')
    with Progress(tmp_path, World(), 2, 10, 4) as progress:
        progress.record(3, {"x": math.nan, "y": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "x": None, "y": 1.0}]


def test_a_terminal_gets_a_bar_and_the_rest_of_the_world_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def go(out: Path) -> None:
        with Progress(out, World(), 0, 50, 4) as progress:
            for step in range(1, 51):
                progress.advance()
                progress.numbers(step, {"loss": 0.25, "accuracy": 0.5})

    go(tmp_path / "quiet")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2, "the first and the last"
    assert "step 50/50  loss 0.25" in said[-1]
    assert "samples/s" in said[-1]
    assert "0:00 left" in said[-1]

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    go(tmp_path / "terminal")
    assert capsys.readouterr().out == ""
    assert "50/50" in terminal.getvalue()


def test_others_than_the_leader_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(tmp_path / "out", World(rank=1, size=2), 0, 5, 4) as progress:
        progress.numbers(5, {"loss": 1.0})
        progress.validated(5, {"loss": 1.0})
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()
