from itertools import pairwise

import pytest
import torch
from torch import nn

from pinxit.errors import PinxitError
from pinxit.training.optimizers import OptimizerConfig, learning_rate, make_optimizers


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.position = nn.Parameter(torch.zeros(4, 3))
        self.pad_embedding = nn.Parameter(torch.zeros(4, 3))
        self.scale = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(3)
        self.linear = nn.Linear(3, 3)
        self.conv = nn.Conv2d(3, 3, 3)


def test_decay_groups() -> None:
    net = Net()
    (optimizer,) = make_optimizers(net, net.named_parameters(), OptimizerConfig(lr=0.1, weight_decay=0.5))
    names = {id(value): name for name, value in net.named_parameters()}
    decayed, spared = ({names[id(value)] for value in group["params"]} for group in optimizer.param_groups)
    assert decayed == {"linear.weight", "conv.weight"}
    assert len(decayed | spared) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_muon_takes_the_matrices_between_embeddings_and_heads() -> None:
    net = Net()
    net.register_module("text_head", nn.Linear(3, 3))
    net.projection = nn.Parameter(torch.zeros(3, 3))
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, matrices="muon")
    muon, adamw = make_optimizers(net, net.named_parameters(), config)
    names = {id(value): name for name, value in net.named_parameters()}
    assert isinstance(muon, torch.optim.Muon)
    assert [names[id(value)] for value in muon.param_groups[0]["params"]] == ["linear.weight", "conv.weight"]
    decayed, spared = ({names[id(value)] for value in group["params"]} for group in adamw.param_groups)
    assert decayed == {"text_head.weight", "projection"}
    assert len(decayed | spared) == len(names) - 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_kernels_as_matrices_wherever_they_lie(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, bias=False)
    conv.to(memory_format=layout)  # type: ignore[call-overload]
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    (muon,) = make_optimizers(conv, conv.named_parameters(), OptimizerConfig(lr=0.1, matrices="muon"))
    (plain,) = make_optimizers(nn.Module(), [("matrix", matrix)], OptimizerConfig(lr=0.1, matrices="muon"))
    for _ in range(3):
        conv.weight.data = conv.weight.detach().clone(memory_format=layout)  # as averaging does
        x = torch.randn(4, 8, 5, 5)
        conv(x).square().sum().backward()
        (nn.functional.unfold(x, 3).transpose(1, 2) @ matrix.T).square().sum().backward()  # type: ignore[no-untyped-call]
        muon.step()
        plain.step()
        muon.zero_grad()
        plain.zero_grad()
        assert conv.weight.grad is None
        assert muon.state[conv.weight].keys() == {"momentum_buffer"}, "under its own name, for who goes on later"
    # Newton and Schulz's iteration runs in bfloat16, where the order of columns rounds otherwise.
    torch.testing.assert_close(conv.weight.detach().flatten(1), matrix.detach(), atol=2e-3, rtol=0.02)


def test_muon_without_matrices_is_refused() -> None:
    net = nn.Sequential(nn.Conv1d(3, 3, 3), nn.LayerNorm(3))
    with pytest.raises(PinxitError, match="no matrices between embeddings and heads: allowed here is adamw"):
        make_optimizers(net, net.named_parameters(), OptimizerConfig(lr=0.1, matrices="muon"))


def test_a_step_of_muon_is_orthogonal_and_as_large_as_one_of_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Linear(16, 32, bias=False)
    before = net.weight.detach().clone()
    (muon,) = make_optimizers(net, net.named_parameters(), OptimizerConfig(lr=0.1, matrices="muon"))
    net(torch.randn(64, 16)).square().sum().backward()
    muon.step()
    step = before - net.weight.detach()
    assert step.square().mean().sqrt() == pytest.approx(0.2 * 0.1, rel=0.3)
    singular = torch.linalg.svdvals(step)
    assert singular.max() / singular.min() < 2.5, "Newton and Schulz's iteration is stopped early"


def test_learning_rate() -> None:
    config = OptimizerConfig(lr=1.0, warmup=4, floor=0.1)
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[54] == pytest.approx(0.55), "half way between 1 and the floor"
    assert rates[104] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[4:]))
    constant = OptimizerConfig(lr=1.0, warmup=4, schedule="constant")
    assert learning_rate(constant, 100, 104) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, r"optimizer\.lr is 0\.0: allowed is more than 0"),
        ({"lr": float("nan")}, r"optimizer\.lr is nan"),
        ({"clip": -1.0}, r"optimizer\.clip is -1\.0"),
        ({"betas": (0.9, 1.0)}, r"optimizer\.betas"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PinxitError, match=message):
        OptimizerConfig(**{"lr": 0.1, **changes})  # type: ignore[arg-type]
