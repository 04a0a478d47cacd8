"""kill -9 at random moments of a run that saves after every step."""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import CONSTANT, Line, run

from pinxit.checkpoints.files import load_network, read_config
from pinxit.training.state import saved_steps

STEPS = 100_000
MOMENTS = 50


def endless(out: str) -> None:
    """Runs in the process that gets killed. Saves after every step."""
    run(
        Path(out),
        optimizer=CONSTANT,
        steps=STEPS,
        checkpoint_every=1,
        log_every=1,
        validate_every=STEPS,
        preview_every=STEPS,
    )


def test_killed_at_any_moment_it_goes_on_from_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server imports everything once and forks the processes that die, so that each costs milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch._dynamo", "tests.training.test_kill"])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))  # where the server finds this file
    rng = random.Random(0)
    reached = unfinished = 0
    for moment in range(MOMENTS):
        process = context.Process(target=endless, args=(str(tmp_path),))
        process.start()
        deadline = time.monotonic() + 60
        while _newest(tmp_path) <= reached and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.06))  # several saves long
        process.kill()
        process.join()
        newest = _newest(tmp_path)
        assert newest > reached, f"no progress at moment {moment}"
        reached = newest
        unfinished += any(tmp_path.glob("checkpoints/.step-*"))
        folder = saved_steps(tmp_path / "checkpoints")[0]
        assert read_config(folder)["step"] == newest
        load_network(folder / "model", "net", Line().net)
    assert unfinished, "no kill fell into a save: the moments were badly chosen"

    # The last survivor goes on to what an undisturbed run becomes.
    end = reached + 5
    rare: dict[str, Any] = {"log_every": 1, "validate_every": STEPS, "preview_every": STEPS, "checkpoint_every": end}
    torn = run(tmp_path, steps=end, optimizer=CONSTANT, **rare)
    straight = run(tmp_path / "straight", steps=end, optimizer=CONSTANT, **rare)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, torn.state_dict()[name])


def _newest(out: Path) -> int:
    found = saved_steps(out / "checkpoints")
    return int(found[0].name.removeprefix("step-")) if found else 0
