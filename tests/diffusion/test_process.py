"""Which processes there are, and the levels that sampling goes through."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from pinxit.diffusion.levels import CLEAN
from pinxit.diffusion.process import Process, ProcessConfig, Target, spread
from pinxit.diffusion.schedules import (
    EDM,
    FAST27,
    Discrete,
    DiscreteConfig,
    EDMConfig,
    Flow,
    FlowConfig,
    ScheduleConfig,
    even,
)
from pinxit.errors import PinxitError

LINEAR = Discrete(DiscreteConfig("linear"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": EDMConfig(), "learned_variance": True}, "learned_variance=true is for levels that are counted"),
        ({"schedule": DiscreteConfig(zero_terminal_snr=True)}, "target=eps with levels the last of which is all noise"),
        ({"schedule": FlowConfig()}, "Allowed are x0, v, flow and edm"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PinxitError, match=message):
        ProcessConfig(**settings)


@pytest.mark.parametrize(
    ("schedule", "target"),
    [
        (schedule, target)
        for schedule in (DiscreteConfig(), EDMConfig(), FlowConfig())
        for target in get_args(Target)
        if not (isinstance(schedule, FlowConfig) and target == "eps")
    ],
)
def test_clean_values_come_back_from_what_is_told(schedule: ScheduleConfig, target: Target) -> None:
    process = Process(ProcessConfig(schedule, target))
    x0, noise = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0)).double()
    times = process.schedule.times(torch.linspace(0.05, 0.95, 64)).double()
    alpha, sigma = (spread(value, x0).double() for value in process.schedule.at(times))
    x, told = process.noised(x0, noise, times), process.target(x0, noise, times)
    torch.testing.assert_close(process.clean(told, x, alpha, sigma), x0, rtol=1e-4, atol=1e-4)
    # An error in what is told is one in x0 of the size that weighting takes it for.
    wrong = process.clean(told + 0.1, x, alpha, sigma) - x0
    counted = process.weights(times, "velocity", gamma=1e9) * 0.01
    torch.testing.assert_close(
        ((alpha / sigma).square()[:, 0] + 1) * wrong[:, 0].square(), counted, rtol=1e-3, atol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("steps", [0, 1_001])
def test_no_more_steps_than_levels(steps: int) -> None:
    with pytest.raises(PinxitError, match=f"steps={steps}: this model has 1000 levels of noise; allowed is 1 to 1000"):
        LINEAR.levels(steps)


def test_respacing_is_improved_ddpms() -> None:
    assert [level.time for level in LINEAR.levels(5)[:-1]] == [999, 749, 500, 250, 0]
    assert LINEAR.levels(5)[-1] == CLEAN
    assert even(0, 9, 1) == [0]
    for schedule in (LINEAR, EDM(EDMConfig()), Flow(FlowConfig())):
        assert schedule.levels(1) == [schedule.levels(9)[0], CLEAN], "a single step starts from all noise"
    assert len(LINEAR.levels(1_000)) == 1_001


def test_fast27_is_glides() -> None:
    """27 levels, 10 of them in the least noisy fifth, and the noisiest two below the last."""
    levels = LINEAR.sections(FAST27)
    times = [level.time for level in levels[:-1]]
    assert len(times) == 27
    assert times[0] == 997
    assert sum(time < 200 for time in times) == 10
    assert sum(time >= 800 for time in times) == 2
    assert times[-1] == 0


def test_times_are_told_of_a_thousand() -> None:
    short = Discrete(DiscreteConfig("linear", 100))
    assert short.levels(100)[0].time == 990
    assert short.level(50).time == 500


def test_a_shift_spends_steps_on_noise() -> None:
    plain, shifted = (Flow(FlowConfig(shift=shift)).levels(10) for shift in (1.0, 3.0))
    assert sum(level.sigma > 0.5 for level in shifted) > sum(level.sigma > 0.5 for level in plain)
    assert plain[0] == shifted[0]
    assert plain[0].sigma == 1
