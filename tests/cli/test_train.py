"""The commands as a person types them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.recipes.toy import mean_colour, pipeline

from pinxit.checkpoints.files import read_config
from pinxit.cli.main import main
from pinxit.recipes.catalogue import RECIPES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mean-colour", mean_colour)
    monkeypatch.setitem(RECIPES, "two", pipeline)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_train_and_again(runner: CliRunner, tmp_path: Path) -> None:
    command = ["train", "two", "--data", "scenes:60", "--out", str(tmp_path), "--set", "mean.training.steps=6"]
    first = runner.invoke(main, command)
    assert first.exit_code == 0, first.output
    assert read_config(tmp_path / "mean" / "model")["step"] == 6
    again = runner.invoke(main, command)
    assert again.exit_code == 0
    assert again.output.splitlines() == ["Stage 1 of 2, mean: done.", "Stage 2 of 2, count: done.", f"Done: {tmp_path}"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mean-color", "--data", "scenes:60"], 1, "There is no recipe 'mean-color'. Did you mean 'mean-colour'?"),
        (["two", "--data", "nowhere"], 1, "nowhere"),
        (["two", "--data", "scenes:60", "--set", "mean.optimizer.lrr=1"], 1, "Did you mean mean.optimizer.lr?"),
        (["two", "--data", "scenes:60", "--set", "mean.optimizer.lr=big"], 1, "allowed is a number; it is 0.01 now"),
        (["two", "--data", "scenes:60", "--part", "mean"], 2, "write NAME=MODEL"),
        (["two", "--data", "scenes:60", "--device", "toaster"], 1, "'toaster' is no device. Give cpu, cuda or cuda:N."),
        (["two"], 2, "--data"),
    ],
)
def test_faults_in_one_line(runner: CliRunner, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = runner.invoke(main, ["train", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output


def test_everything_goes_into_a_folder(runner: CliRunner) -> None:
    done = runner.invoke(main, ["train", "two", "--data", "scenes:60", "--out", __file__])
    assert done.exit_code == 2
    assert f"'{__file__}' is a file." in done.output


def test_recipes(runner: CliRunner) -> None:
    listed = runner.invoke(main, ["recipes"])
    assert listed.exit_code == 0
    assert "mean-colour\n  The mean colour of pictures.\n  0.06 min on one core. Expect: a grey\n" in listed.output
    assert "Stages: mean, count." in listed.output
    full = runner.invoke(main, ["recipes", "two"])
    assert "  mean.optimizer.betas=0.9,0.95\n" in full.output
    assert "  mean.model.depth=none\n" in full.output


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`pinxit train` of a long run, in a process of its own, some steps old."""
    program = """
from pinxit.cli.main import main
from pinxit.recipes.catalogue import RECIPES
from tests.recipes.toy import mean_colour
RECIPES["mean-colour"] = mean_colour
main()
"""
    arguments = ["train", "mean-colour", "--data", "scenes:60", "--out", str(tmp_path), "--set"]
    arguments += ["training.steps=1000000", "--set", "training.workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("checkpoints/step-*")) and process.poll() is None:
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_leave(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    os.killpg(running.pid, number)  # as a terminal does: the data workers get it too
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + number, output
    assert "and saved. The same command goes on from there." in output
    assert "Traceback" not in output
    step = max(int(path.name[5:]) for path in tmp_path.glob("checkpoints/step-*"))
    assert f"Stopped after step {step} and saved" in output
    logged = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert max(logged) <= step
