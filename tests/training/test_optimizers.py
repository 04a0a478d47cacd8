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
    assert [[names[id(value)] for value in group["params"]] for group in muon.param_groups] == [["linear.weight"]]
    decayed, spared = ({names[id(value)] for value in group["params"]} for group in adamw.param_groups)
    assert decayed == {"conv.weight", "text_head.weight", "projection"}
    assert len(decayed | spared) == len(names) - 1


def test_muon_without_matrices_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.LayerNorm(3))
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
