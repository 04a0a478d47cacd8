"""Samplers beside diffusers' schedulers: the same network, the same noise, step by step to 1e-5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pinxit.diffusion import samplers
from pinxit.diffusion.levels import Level
from pinxit.diffusion.process import Process, ProcessConfig
from pinxit.diffusion.samplers import Step
from pinxit.diffusion.schedules import EDM, Discrete, DiscreteConfig, EDMConfig, Flow, FlowConfig

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 10
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(x: Tensor, times: Tensor) -> Tensor:
    """Anything that depends on both."""
    t = times.to(x).view(-1, 1, 1, 1) / 1000
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1) + t) * (0.4 + 0.6 * t)


def start() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def spaced(process: Process, spacing: str) -> list[Level]:
    assert isinstance(process.schedule, Discrete)
    return process.schedule.levels(STEPS, spacing)  # type: ignore[arg-type]


class Same:
    """The same noise again and again, for ours and theirs."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator)


def theirs(
    scheduler: Any, x: Tensor, target: Callable[[Tensor, Tensor], Tensor], part: slice = slice(None)
) -> list[Tensor]:
    """What their scheduler makes of x, step by step."""
    reached = []
    for time in scheduler.timesteps[part]:
        scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        told = target(scaled, time.expand(len(x)))
        x = scheduler.step(told, time, x).prev_sample
        reached.append(x)
    return reached


def same(ours: Iterator[Step], reached: list[Tensor], scale: float = 1.0) -> None:
    steps = list(ours)
    assert len(steps) == len(reached)
    for step, expected in zip(steps, reached, strict=True):
        near(step.x, expected, scale * max(1.0, expected.abs().max().item()))


def near(ours: Tensor, theirs: Tensor, largest: float) -> None:
    """To 1e-5 of the largest."""
    torch.testing.assert_close(ours / largest, theirs / largest, atol=1e-5, rtol=0)


BETAS: dict[str, tuple[DiscreteConfig, dict[str, Any]]] = {
    "linear": (DiscreteConfig("linear"), LINEAR),
    "cosine": (DiscreteConfig("cosine"), COSINE),
    "scaled-linear": (DiscreteConfig("scaled-linear"), SCALED),
}


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("target", ["eps", "v", "x0"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(betas: str, target: str, variance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, named = BETAS[betas]
    scheduler = diffusers.DDPMScheduler(
        **named,
        prediction_type={"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[target],
        variance_type=f"fixed_{variance}",
        clip_sample=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(STEPS)
    process = Process(ProcessConfig(config, target=target))  # type: ignore[arg-type]
    noise = Same()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: noise(torch.empty(shape))
    )
    reached = theirs(scheduler, start(), network)
    levels = spaced(process, "leading")
    same(samplers.ancestral(process.denoiser(network), start(), levels, variance=variance, noise=Same()), reached)  # type: ignore[arg-type]


@pytest.mark.parametrize("betas", BETAS)
def test_ddpm_with_learned_variance(betas: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, named = BETAS[betas]

    def double(x: Tensor, times: Tensor) -> Tensor:
        return torch.cat([network(x, times), network(x.flip(-1), times)], 1)

    scheduler = diffusers.DDPMScheduler(**named, variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(1_000)
    process = Process(ProcessConfig(config, learned_variance=True))
    noise = Same()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: noise(torch.empty(shape))
    )
    reached = theirs(scheduler, start(), double, slice(300, 320))  # further on, their float32 table is short of digits
    levels = process.schedule.levels(1_000)[300:321]
    same(samplers.ancestral(process.denoiser(double), start(), levels, variance="learned", noise=Same()), reached)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(betas: str, spacing: str, eta: float) -> None:
    config, named = BETAS[betas]
    scheduler = diffusers.DDIMScheduler(**named, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(STEPS)
    process, noise, x = Process(ProcessConfig(config)), Same(), start()
    reached = []
    for time in scheduler.timesteps:
        fresh = noise(x) if eta else None
        x = scheduler.step(network(x, time.expand(2)), time, x, eta=eta, variance_noise=fresh).prev_sample
        reached.append(x)
    if eta:  # theirs adds noise at the last step as well, by the variance of the first level; ours ends clean
        reached.pop()
    levels = spaced(process, spacing)
    ours = list(samplers.ddim(process.denoiser(network), start(), levels, eta=eta, noise=Same()))
    same(iter(ours[: len(reached)]), reached)


def test_zero_terminal_snr() -> None:
    config = DiscreteConfig("scaled-linear", zero_terminal_snr=True)
    scheduler = diffusers.DDIMScheduler(
        **SCALED,
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(STEPS)
    process = Process(ProcessConfig(config, target="v"))
    levels = spaced(process, "trailing")
    assert levels[0].alpha == 0
    same(samplers.ddim(process.denoiser(network), start(), levels), theirs(scheduler, start(), network))


@pytest.mark.parametrize("betas", BETAS)
def test_plms(betas: str) -> None:
    """Theirs asks for the second level twice in a row, which is our one step of second order."""
    config, named = BETAS[betas]
    scheduler = diffusers.PNDMScheduler(**named, skip_prk_steps=True, set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    process = Process(ProcessConfig(config))
    reached = theirs(scheduler, start(), network)
    levels = spaced(process, "leading")
    same(samplers.plms(process.denoiser(network), start(), levels), reached[1:])


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled-linear"])
def test_dpm_solver(betas: str, random: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config, named = BETAS[betas]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **named,
        algorithm_type="sde-dpmsolver++" if random else "dpmsolver++",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    scheduler.set_timesteps(STEPS)
    noise = Same()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor",
        lambda shape, **_: noise(torch.empty(shape)),
    )
    process = Process(ProcessConfig(config))
    reached = theirs(scheduler, start(), network)
    levels = spaced(process, "trailing")
    same(samplers.dpm_solver(process.denoiser(network), start(), levels, random=random, noise=Same()), reached)


@pytest.mark.parametrize("correct", [False, True])
def test_heun_and_euler(correct: bool) -> None:
    """Theirs keeps x/alpha, and Heun counts its corrections as steps."""
    name = "HeunDiscreteScheduler" if correct else "EulerDiscreteScheduler"
    scheduler = getattr(diffusers, name)(**LINEAR, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    process = Process(ProcessConfig(DiscreteConfig("linear")))
    levels = spaced(process, "trailing")
    reached = theirs(scheduler, start() / levels[0].alpha, network)
    if correct:
        reached = [*reached[1::2], reached[-1]]
    ours = list(samplers.heun(process.denoiser(network), start(), levels, correct=correct))
    for step, expected in zip(ours, reached, strict=True):
        near(step.x / step.level.alpha, expected, expected.abs().max().item())


def test_euler_ancestral_is_ddim_with_eta_1(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**LINEAR, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    noise = Same()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda shape, **_: noise(torch.empty(shape)),
    )
    process = Process(ProcessConfig(DiscreteConfig("linear")))
    levels = spaced(process, "trailing")
    reached = theirs(scheduler, start() / levels[0].alpha, network)
    ours = list(samplers.ddim(process.denoiser(network), start(), levels, eta=1.0, noise=Same()))
    for step, expected in zip(ours, reached, strict=True):
        near(step.x / step.level.alpha, expected, expected.abs().max().item())


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm(name: str) -> None:
    scheduler = getattr(diffusers, name)(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(STEPS)
    process = Process(ProcessConfig(EDMConfig(), target="edm"))
    levels = EDM(EDMConfig()).levels(STEPS)
    assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)

    def plain(x: Tensor, times: Tensor) -> Tensor:
        return network(x, times * 4 / 1_000)  # theirs are told ln(sigma) / 4, ours a thousand of it

    def scaled(x: Tensor, times: Tensor) -> Tensor:
        return network(x, times * 4)

    reached = theirs(scheduler, start() * 80, scaled)
    sampler = samplers.dpm_solver if "DPM" in name else samplers.ddim
    same(sampler(process.denoiser(plain), start() * 80, levels), reached)


def test_flow() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    process = Process(ProcessConfig(FlowConfig(shift=3.0), target="flow"))
    levels = Flow(FlowConfig(shift=3.0)).levels(STEPS)
    assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
    same(samplers.ddim(process.denoiser(network), start(), levels), theirs(scheduler, start(), network))


@pytest.mark.parametrize("betas", BETAS)
def test_betas_and_karras(betas: str) -> None:
    config, named = BETAS[betas]
    scheduler = diffusers.DPMSolverMultistepScheduler(**named, use_karras_sigmas=True)
    kept = torch.from_numpy(Discrete(config).kept).float()
    assert torch.allclose(kept, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    scheduler.set_timesteps(10)
    ratios = [level.sigma / level.alpha for level in Discrete(config).levels(10, "karras")[:-1]]
    if betas != "cosine":  # theirs clips the noisiest of the cosine's
        assert ratios == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-3)
