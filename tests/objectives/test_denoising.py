"""Denoising by equations, and on a distribution that a small network learns in seconds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pinxit.diffusion.guidance import clipped
from pinxit.diffusion.process import Process, ProcessConfig
from pinxit.diffusion.samplers import ancestral, heun, last
from pinxit.diffusion.schedules import DiscreteConfig, EDMConfig, FlowConfig, draw_shares
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning
from pinxit.objectives.denoising import Costs, Denoising, DenoisingConfig
from pinxit.objectives.objective import Raw

COSINE = DiscreteConfig("cosine", 100)
LINEAR = DiscreteConfig("linear", 100)


class Net(nn.Module):
    """Tells of values b 1 1 1 by a perceptron that sees value and time, and waves of both."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(25, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.last = nn.Linear(64, outputs)

    def forward(self, x: Tensor, times: Tensor, asked: Conditioning) -> Tensor:  # noqa: ARG002
        late = times[:, None] / 1_000 * torch.arange(1, 9) * math.pi
        near = x.flatten(1) * torch.arange(1, 5) * math.pi
        seen = torch.cat([x.flatten(1), late.sin(), late.cos(), near.sin(), near.cos()], 1)
        out: Tensor = self.last(self.layers(seen))[:, :, None, None]
        return out


def two_humps(count: int) -> Tensor:
    sides = torch.randint(0, 2, (count, 1, 1, 1)) * 2 - 1
    return sides * 0.6 + 0.1 * torch.randn(count, 1, 1, 1)


def learn(objective: Denoising, steps: int) -> float:
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = objective({"pixels": two_humps(256)}, "main", step)
        loss.backward()
        optimizer.step()
        rates.step()
    return float(loss.detach())


PROCESSES: dict[str, tuple[ProcessConfig, DenoisingConfig]] = {
    "eps": (ProcessConfig(LINEAR), DenoisingConfig()),
    "eps, min-snr": (ProcessConfig(LINEAR), DenoisingConfig("min-snr")),
    "x0": (ProcessConfig(COSINE, target="x0"), DenoisingConfig()),
    "v": (ProcessConfig(COSINE, target="v"), DenoisingConfig()),
    "edm": (ProcessConfig(EDMConfig(), target="edm", data_std=0.6), DenoisingConfig("edm")),
    "flow": (ProcessConfig(FlowConfig(), target="flow"), DenoisingConfig()),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_target_learns_the_humps(name: str) -> None:
    torch.manual_seed(0)
    process, config = PROCESSES[name]
    objective = Denoising(Net(), process, config)
    learn(objective, 800)
    levels = objective.process.schedule.levels(40)
    objective.eval()
    with torch.no_grad():
        denoise = clipped(objective.process.denoiser(lambda x, times: objective.network(x, times, Conditioning())))
        made = last(heun(denoise, torch.randn(2_000, 1, 1, 1) * levels[0].sigma, levels))
    assert 0.4 < (made > 0).float().mean().item() < 0.6
    assert made[made > 0].mean().item() == pytest.approx(0.6, abs=0.06)
    assert made[made > 0].std().item() < 0.2
    assert (made.abs() < 0.25).float().mean().item() < 0.06


@pytest.mark.parametrize("name", PROCESSES)
def test_target_and_clean_values_are_each_others_inverse(name: str) -> None:
    process = Process(PROCESSES[name][0])
    x0, noise = two_humps(64), torch.randn(64, 1, 1, 1)
    times = process.schedule.times(torch.linspace(0.05, 0.95, 64))
    x = process.noised(x0, noise, times)
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in process.schedule.at(times))
    torch.testing.assert_close(
        process.clean(process.target(x0, noise, times), x, alpha, sigma), x0, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_weights_are_of_the_same_error(name: str) -> None:
    """min-SNR and EDM weigh the error of x0, whatever the network tells."""
    process = Process(PROCESSES[name][0])
    times = process.schedule.times(torch.linspace(0.05, 0.9, 20))
    alpha, sigma = process.schedule.at(times)
    x0, told = torch.randn(20, 1, 1, 1), torch.randn(20, 1, 1, 1)
    x = process.noised(x0, torch.randn(20, 1, 1, 1), times)
    a, s = (value.view(-1, 1, 1, 1) for value in (alpha, sigma))
    noise = (x - a * x0) / s
    of_target = (told - process.target(x0, noise, times)).square().flatten()
    of_x0 = (process.clean(told, x, a, s) - x0).square().flatten()
    snr = (alpha / sigma) ** 2
    expected = {"min-snr": snr.clamp_max(5) * of_x0, "edm": (snr + 1 / process.config.data_std**2) * of_x0}
    for kind, value in expected.items():
        weights = process.weights(times, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(weights * of_target, value, rtol=1e-3, atol=1e-4)


def test_edm_weighs_its_own_target_evenly() -> None:
    process = Process(PROCESSES["edm"][0])
    weights = process.weights(process.schedule.times(torch.linspace(0.05, 0.95, 9)), "edm")
    torch.testing.assert_close(weights, torch.ones(9))


def learnt(learns: Any) -> Denoising:
    torch.manual_seed(0)
    return Denoising(Net(2), ProcessConfig(COSINE, learned_variance=True), DenoisingConfig(learns=learns))


def test_the_bound_moves_the_variance_alone_in_hybrid() -> None:
    objective = learnt("hybrid")
    batch = {"pixels": two_humps(64)}
    plain = Denoising(Net(), ProcessConfig(COSINE), DenoisingConfig())
    last_layer, plain_layer = objective.network.get_submodule("last"), plain.network.get_submodule("last")
    assert isinstance(last_layer, nn.Linear)
    assert isinstance(plain_layer, nn.Linear)
    plain.network.load_state_dict(
        {name: value[:1] if "last" in name else value for name, value in objective.network.state_dict().items()}
    )
    torch.manual_seed(1)
    loss, numbers = objective(batch, "main", 0)
    loss.backward()
    torch.manual_seed(1)
    expected, _ = plain(batch, "main", 0)
    expected.backward()
    assert last_layer.weight.grad is not None
    assert plain_layer.weight.grad is not None
    torch.testing.assert_close(last_layer.weight.grad[0], plain_layer.weight.grad[0])
    assert last_layer.weight.grad[1].abs().max() > 0
    torch.testing.assert_close(loss, expected + 1e-3 * 100 * numbers["bound"])


def test_learnt_variances_lower_the_bound() -> None:
    objective = learnt("hybrid")
    learn(objective, 800)
    numbers = objective.eval().validate({"pixels": two_humps(4_000)}, 0)
    with torch.no_grad():
        objective.network.get_parameter("last.weight")[1].zero_()
        objective.network.get_parameter("last.bias")[1].fill_(-1.0)
        small = objective.validate({"pixels": two_humps(4_000)}, 0)
    assert numbers["bound"] < small["bound"]
    levels = objective.process.schedule.levels(100)
    with torch.no_grad():
        denoise = clipped(objective.process.denoiser(lambda x, times: objective.network(x, times, Conditioning())))
        made = last(ancestral(denoise, torch.randn(1_000, 1, 1, 1), levels, variance="learned"))
    assert made[made > 0].mean().item() == pytest.approx(0.6, abs=0.08)


def test_the_bound_alone_is_drawn_where_it_costs() -> None:
    torch.manual_seed(0)
    few = ProcessConfig(DiscreteConfig("cosine", 20), learned_variance=True)
    objective = Denoising(Net(2), few, DenoisingConfig(learns="bound"))
    learn(objective, 60)
    assert objective.costs is not None
    counts = objective.costs.counts
    assert (counts >= Costs.LAST).all()
    assert counts[:4].sum() > 2 * counts[10:14].sum()


def test_importance_changes_no_mean() -> None:
    """Losses that depend on the level alone: the weighted mean is that over all levels."""
    costs = Costs(50)
    truth = torch.linspace(5, 0.1, 50)
    for _ in range(Costs.LAST):
        costs.remember(torch.arange(50), truth)
    torch.manual_seed(0)
    times, weights = costs.draw(20_000, torch.device("cpu"))
    assert (weights * truth[times]).mean().item() == pytest.approx(truth.mean().item(), rel=1e-3)
    assert (times < 10).float().mean() > 0.3


def test_validation_tells_errors_by_the_noise() -> None:
    """Whatever they count."""
    network, pixels, found = Net(), two_humps(32), []
    for weighting in ("even", "min-snr", "velocity"):
        torch.manual_seed(0)
        process = ProcessConfig(COSINE, target="x0")
        found.append(Denoising(network, process, DenoisingConfig(weighting)).eval().validate({"pixels": pixels}, 0))
    assert {"error", "error_at_10%", "error_at_90%"} <= found[0].keys()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("weighting", ["velocity", "edm"])
def test_what_counts_noise_alone_is_refused(weighting: Any) -> None:
    with pytest.raises(PinxitError, match=f"weighting={weighting} with process.target=eps: .* Allowed are even and"):
        Denoising(Net(), ProcessConfig(COSINE), DenoisingConfig(weighting))


def test_shares_are_one_of_each_part() -> None:
    shares = draw_shares(10)
    assert torch.equal((shares * 10).long(), torch.arange(10))


@pytest.mark.parametrize(("learned", "learns"), [(False, "hybrid"), (False, "bound"), (True, "simple")])
def test_what_learns_a_variance_has_one(learned: bool, learns: Any) -> None:
    with pytest.raises(PinxitError, match=f"learns={learns} with process.learned_variance={learned}"):
        Denoising(Net(), ProcessConfig(COSINE, learned_variance=learned), DenoisingConfig(learns=learns))


def test_averaged_weights_are_compared_on_what_was_learnt_from() -> None:
    """Twice as wrong at the same noise is four times the error, whatever validation holds."""
    lags: list[float | None] = []
    net = Net()
    nn.init.zeros_(net.last.weight)

    def check(lag: float | None, raw: Raw | None) -> dict[str, float]:
        lags.append(lag)
        assert raw
        with raw():
            assert net.last.bias.eq(50.0).all()
        return {}

    @contextlib.contextmanager
    def raw() -> Iterator[None]:
        averaged = net.last.bias.clone()
        net.last.bias.fill_(50.0)
        yield
        net.last.bias.copy_(averaged)

    objective = Denoising(net, ProcessConfig(LINEAR), DenoisingConfig(), check=check)
    with torch.no_grad():
        objective.conclude(lambda value: [value], raw)
        net.last.bias.fill_(50.0)
        objective({"pixels": two_humps(64)}, "main", 0)
        objective.eval()
        objective.validate({"pixels": 100 * two_humps(8)}, 0)
        objective.conclude(lambda value: [value], raw)
        net.last.bias.fill_(100.0)
        objective.conclude(lambda value: [value], raw)
    assert lags[0] is None
    assert lags[1] == 1
    assert lags[2] == pytest.approx(4, rel=0.05)
