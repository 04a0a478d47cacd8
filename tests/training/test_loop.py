"""The loop, run for real on a network of 25 weights."""

import json
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from tests.training.toy import OPTIMIZER, Line, run
from torch import Tensor, nn

from pinxit.checkpoints.files import read_config, read_tensors
from pinxit.errors import PinxitError
from pinxit.objectives.objective import Batch, Numbers, Objective
from pinxit.training.interrupts import Stopped
from pinxit.training.loop import TrainingConfig, step_seed


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder, "net")


def assert_same(a: Path, b: Path) -> None:
    """Bit for bit: the shipped averages, the weights, the averages and the optimizer's memory."""
    for name in ("weights", "average", "optimizer"):
        first, second = (read_tensors(out / "checkpoints" / "step-0000012", name) for out in (a, b))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(weights(a / "model")[key], value) for key, value in weights(b / "model").items())


class CutAt(Line):
    """Asks to stop during a step, as Ctrl-C or SIGTERM do."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__()
        self.cut, self.number = step, number

    def after_step(self, step: int) -> None:
        if step == self.cut:
            signal.raise_signal(self.number)


def test_writes_what_a_run_promises(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "log.jsonl", "model", "samples"]
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-0000008", "step-0000012"]
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [
        "step-0000005.png",
        "step-0000010.png",
        "step-0000012.png",
    ]
    config = read_config(tmp_path / "model")
    assert config["step"] == 12
    assert config["metrics"].keys() == {"error", "step_seen"}
    trained, validated = ([line for line in lines(tmp_path) if (key in line)] for key in ("loss", "validation/error"))
    assert [line["step"] for line in trained] == [3, 6, 9, 12]
    assert [line["step"] for line in validated] == [5, 10, 12]
    assert trained[0].keys() >= {"loss", "error", "gradient_norm", "lr", "samples_per_second", "seconds"}
    assert trained[1]["step_seen"] == 4.0, "the mean over the three steps since the last line"
    assert read_config(tmp_path / "checkpoints" / "step-0000008" / "model")["step"] == 8


def test_it_learns(tmp_path: Path) -> None:
    run(tmp_path, Line(noise=0.0, dropout=0.0), steps=300, log_every=50, validate_every=300, checkpoint_every=300)
    trained = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert trained[-1] < 0.02 * trained[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [0, 4, 10])
def test_cut_and_resumed_equals_uncut(tmp_path: Path, number: signal.Signals, step: int) -> None:
    run(tmp_path / "straight")
    with pytest.raises(Stopped, match=f"Stopped after step {step + 1} and saved") as stopped:
        run(tmp_path / "cut", CutAt(step, number))
    assert stopped.value.signal == number
    assert not (tmp_path / "cut" / "model").exists()
    run(tmp_path / "cut")
    assert_same(tmp_path / "straight", tmp_path / "cut")
    logs = [{line["step"]: line.get("loss") for line in lines(tmp_path / name)} for name in ("straight", "cut")]
    assert logs[0].keys() == logs[1].keys()
    assert logs[0][12] == logs[1][12]


def test_cut_with_workers_and_accumulation_equals_uncut(tmp_path: Path) -> None:
    run(tmp_path / "straight", workers=0, accumulate=2)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", CutAt(5, signal.SIGINT), workers=1, accumulate=2)
    run(tmp_path / "cut", workers=1, accumulate=2)
    assert_same(tmp_path / "straight", tmp_path / "cut")


class Filter(Line):
    """A line through a convolution whose weights lie differently in memory when channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        drawn = self.net(batch["x"].view(-1, 1, 1, 1) + 0.1 * torch.randn(len(batch["x"]), 1, 6, 6))
        return (drawn.mean(dim=(1, 2, 3)) - batch["y"][:, 0]).square().mean(), {"step_seen": step}


class Crashing(Filter):
    def after_step(self, step: int) -> None:
        if step == 6:
            raise RuntimeError("power cut")


def test_resumed_with_channels_last_equals_uncut(tmp_path: Path) -> None:
    """AdamW's memory has to come back in the memory order of the weights."""
    run(tmp_path / "straight", Filter(), channels_last=True)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", Crashing(), channels_last=True)
    run(tmp_path / "cut", Filter(), channels_last=True)
    assert_same(tmp_path / "straight", tmp_path / "cut")


class Deep(Line):
    """A line through a hidden layer, whose matrix learns by Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def test_resumed_with_muon_equals_uncut(tmp_path: Path) -> None:
    class Crash(Deep):
        def after_step(self, step: int) -> None:
            if step == 6:
                raise RuntimeError("power cut")

    muon = replace(OPTIMIZER, matrices="muon")
    run(tmp_path / "straight", Deep(), optimizer=muon)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", Crash(), optimizer=muon)
    run(tmp_path / "cut", Deep(), optimizer=muon)
    slots = read_tensors(tmp_path / "cut" / "checkpoints" / "step-0000012", "optimizer")
    assert any("momentum_buffer" in name for name in slots)
    assert_same(tmp_path / "straight", tmp_path / "cut")


@pytest.mark.parametrize(("first", "then"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizer_may_take_over_and_begins_afresh(
    tmp_path: Path, first: Literal["adamw", "muon"], then: Literal["adamw", "muon"]
) -> None:
    run(tmp_path, Deep(), optimizer=replace(OPTIMIZER, matrices=first), steps=8)
    run(tmp_path, Deep(), optimizer=replace(OPTIMIZER, matrices=then))
    slots = read_tensors(tmp_path / "checkpoints" / "step-0000012", "optimizer")
    kinds = {name.split("/")[1] for name in slots if name.endswith("net.2.weight")}
    assert kinds == ({"momentum_buffer"} if then == "muon" else {"step", "exp_avg", "exp_avg_sq"})


def test_a_crash_between_checkpoints_is_undone(tmp_path: Path) -> None:
    class Crash(Line):
        def after_step(self, step: int) -> None:
            if step == 6:
                raise RuntimeError("power cut")

    run(tmp_path / "straight")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", Crash())
    assert [line["step"] for line in lines(tmp_path / "cut")] == [3, 5, 6]
    with (tmp_path / "cut" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    run(tmp_path / "cut")
    assert_same(tmp_path / "straight", tmp_path / "cut")
    assert [line["step"] for line in lines(tmp_path / "cut")] == [3, 5, 6, 9, 10, 12, 12]


def test_training_may_be_prolonged(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, steps=20)
    assert read_config(tmp_path / "model")["step"] == 20


def test_a_finished_run_only_writes_its_model_again(tmp_path: Path) -> None:
    run(tmp_path)
    before = weights(tmp_path / "model")
    (tmp_path / "model" / "net.safetensors").unlink()
    run(tmp_path)
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path / "model").items())
    assert read_config(tmp_path / "model")["metrics"], "the last validation is remembered"


@pytest.mark.parametrize("damage", ["weights.safetensors", "optimizer.safetensors", "config.json"])
def test_a_damaged_state_is_passed_over_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    run(tmp_path / "straight")
    run(tmp_path / "torn")
    file = tmp_path / "torn" / "checkpoints" / "step-0000012" / damage
    file.write_bytes(file.read_bytes()[:20])
    capsys.readouterr()
    run(tmp_path / "torn")
    said = capsys.readouterr().out
    assert "step-0000012 is passed over" in said
    assert "Goes on after step 8." in said
    assert_same(tmp_path / "straight", tmp_path / "torn")


def test_what_a_crash_left_behind_is_ignored_and_cleared(tmp_path: Path) -> None:
    run(tmp_path, steps=8)
    torn = tmp_path / "checkpoints" / ".step-0000009.partial"
    torn.mkdir()
    (torn / "config.json").write_text("{")
    (tmp_path / "checkpoints" / "step-9").mkdir()
    run(tmp_path)
    assert not torn.exists()
    assert read_config(tmp_path / "model")["step"] == 12


def test_all_states_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    run(tmp_path)
    for state in (tmp_path / "checkpoints").iterdir():
        (state / "weights.safetensors").write_bytes(b"")
    with pytest.raises(PinxitError, match=r"step-0000012.*is damaged"):
        run(tmp_path)


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path, steps=8)

    class Wider(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 9), nn.Tanh(), nn.Dropout(0.2), nn.Linear(9, 1))

    with pytest.raises(
        PinxitError, match=r"does not fit the recipe: 'net\.0\.weight' has shape \[8, 1\], not \[9, 1\]"
    ):
        run(tmp_path, Wider())


class _PoisonGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient * torch.nan


class Poisoned(Line):
    def __init__(self, step: int, value: float, in_gradient: bool = False) -> None:
        super().__init__()
        self.step, self.value, self.in_gradient = step, value, in_gradient

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
        loss, numbers = super().loss(batch, turn, step)
        if step == self.step and self.in_gradient:
            loss = _PoisonGradient.apply(loss)  # type: ignore[no-untyped-call]
        elif step == self.step:
            loss = loss * self.value
        return loss, numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_with_the_step_and_what_to_try(tmp_path: Path, value: float) -> None:
    with pytest.raises(PinxitError, match=rf"loss is {value} in step 8\..*lower optimizer\.lr.*precision=float32"):
        run(tmp_path, Poisoned(7, value))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]
    run(tmp_path)
    assert read_config(tmp_path / "model")["step"] == 12


def test_nan_in_a_gradient_stops_too(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"gradient_norm is nan in step 3\."):
        run(tmp_path, Poisoned(2, float("nan"), in_gradient=True))


def test_a_failing_delete_costs_space_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(13, "Permission denied", str(path))

    monkeypatch.setattr("pinxit.training.state.shutil.rmtree", refuse)
    run(tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 3
    assert re.search(r"Could not delete .*step-0000004: Permission denied", capsys.readouterr().out)


def test_a_full_disk_is_told_and_the_earlier_state_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the second checkpoint; what a full disk does to a file is tested with the checkpoints."""
    run(tmp_path / "straight")
    written = []

    def full(*_: object) -> None:
        written.append(1)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pinxit.checkpoints.files._flush", full)
        with pytest.raises(PinxitError, match=r"Could not write .*No space left on device"):
            run(tmp_path / "full")
    run(tmp_path / "full")
    assert_same(tmp_path / "straight", tmp_path / "full")


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    modes = []

    class Watched(Line):
        def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
            modes.append((self.net.training, self.teacher.training, self.teacher[1].training))
            return super().loss(batch, turn, step)

    objective = Watched()
    before = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    run(tmp_path, objective, steps=4, validate_every=3)
    assert (
        modes == [(True, False, False)] * 3 + [(False, False, False)] * 3 + [(True, False, False)] + [(False,) * 3] * 3
    )
    assert all(torch.equal(before[name], value) for name, value in objective.teacher.state_dict().items())
    saved = read_tensors(tmp_path / "checkpoints" / "step-0000004", "weights")
    assert all(name.startswith("net.") for name in saved)


class TwoTurns(Objective):
    """A tug-of-war: `push` moves a up through a*b, `pull` moves b down through it."""

    turns = ("push", "pull")

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rival = nn.Linear(1, 1), nn.Linear(1, 1)
        self.seen: list[tuple[str, float]] = []

    def networks(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def parameters_of(self, turn: str) -> Any:
        return (self.net if turn == "push" else self.rival).named_parameters(
            prefix="net" if turn == "push" else "rival"
        )

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        self.seen.append((turn, self.rival.weight.item()))
        product = (self.net(batch["x"]) * self.rival(batch["x"])).mean()
        return (-product if turn == "push" else product), {}


def test_each_turn_moves_its_own_parameters(tmp_path: Path) -> None:
    objective = TwoTurns()
    start = objective.rival.weight.item()
    run(tmp_path / "straight", objective, steps=12)
    turns = [turn for turn, _ in objective.seen[:6]]
    assert turns == ["push", "pull"] * 3
    assert objective.seen[0][1] == objective.seen[1][1], "the push does not move the rival"
    assert objective.rival.weight.item() != start
    assert {"push/loss", "pull/loss", "push/gradient_norm"} <= lines(tmp_path / "straight")[0].keys()
    run(tmp_path / "cut", TwoTurns(), steps=8)
    run(tmp_path / "cut", TwoTurns(), steps=8)


def test_a_turn_may_learn_at_a_rate_of_its_own(tmp_path: Path) -> None:
    plain, slow = TwoTurns(), TwoTurns()
    slow.load_state_dict(plain.state_dict())
    start = plain.rival.weight.item()
    run(tmp_path / "plain", plain, steps=2)
    run(tmp_path / "slow", slow, steps=2, turns={"pull": replace(OPTIMIZER, lr=OPTIMIZER.lr / 10)})
    moved, crept = (abs(objective.rival.weight.item() - start) for objective in (plain, slow))
    assert crept == pytest.approx(moved / 10, rel=0.1)
    assert slow.net.weight.item() == pytest.approx(plain.net.weight.item(), abs=1e-3)


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    finals = []
    for parts in (1, 4):
        run(tmp_path / str(parts), Line(noise=0.0, dropout=0.0), accumulate=parts, precision="float32")
        finals.append(weights(tmp_path / str(parts) / "model"))
    for key in finals[0]:
        torch.testing.assert_close(finals[0][key], finals[1][key])


def test_bf16_computes_in_bf16_and_keeps_float32(tmp_path: Path) -> None:
    seen = []

    class Watched(Line):
        def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
            seen.append(self.net(batch["x"]).dtype)
            return super().loss(batch, turn, step)

    run(tmp_path, Watched(), precision="bf16", steps=1)
    run(tmp_path / "plain", Watched(), precision="float32", steps=1)
    assert seen[0] == torch.bfloat16
    assert seen[-1] == torch.float32
    assert {value.dtype for value in weights(tmp_path / "model").values()} == {torch.float32}


def test_validation_and_preview_see_the_averages(tmp_path: Path) -> None:
    seen: dict[str, Tensor] = {}

    class Watched(Line):
        def validate(self, batch: Batch, step: int) -> Numbers:
            seen["validate"] = self.state_dict()["net.0.weight"].clone()
            assert not torch.is_grad_enabled()
            return super().validate(batch, step)

        def preview(self) -> Image.Image | None:
            seen["preview"] = self.state_dict()["net.0.weight"].clone()
            return None

    objective = Watched()
    run(tmp_path, objective)
    shipped = weights(tmp_path / "model")["0.weight"]
    assert torch.equal(seen["validate"], shipped)
    assert torch.equal(seen["preview"], shipped)
    assert not torch.equal(objective.state_dict()["net.0.weight"], shipped)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, tensorboard=True, steps=3)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"training\.steps is 0: allowed is 1 or more"),
        ({"log_every": 0}, r"training\.log_every is 0"),
        ({"batch_size": 6, "accumulate": 4}, r"training\.batch_size is 6: allowed are multiples of accumulate=4"),
        ({"ema_decay": 1.0}, r"training\.ema_decay is 1\.0"),
        ({"seed": -1}, r"training\.seed is -1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PinxitError, match=message):
        TrainingConfig(**{"steps": 1, "batch_size": 4, **changes})
