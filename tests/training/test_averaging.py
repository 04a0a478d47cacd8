import pytest
import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.training.averaging import Average


def one_weight() -> nn.Module:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.zero_()
    return net


def weight(net: nn.Module) -> float:
    return next(net.parameters()).item()


def set_weight(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        next(net.parameters()).fill_(value)


def test_follows_the_formula_with_its_warm_up() -> None:
    net = one_weight()
    average = Average({"net": net}, 0.5)
    expected = 0.0
    for step in range(20):
        set_weight(net, float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_place():
        assert weight(net) == pytest.approx(expected)
    assert weight(net) == 19.0


def test_weights_come_back_after_an_error() -> None:
    net = one_weight()
    average = Average({"net": net}, 0.5)
    set_weight(net, 4.0)
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert weight(net) == 4.0


def test_no_decay_keeps_nothing() -> None:
    net = one_weight()
    average = Average({"net": net}, 0.0)
    set_weight(net, 4.0)
    average.update(0)
    with average.in_place():
        assert weight(net) == 4.0
    assert average.state_dict() == {}


def test_frozen_and_shared_parameters() -> None:
    first, frozen = one_weight(), one_weight().requires_grad_(False)
    average = Average({"a": nn.Sequential(first, frozen), "b": first}, 0.9)
    assert list(average.state_dict()) == ["a.0.weight"]


def test_state_round_trip_is_strict() -> None:
    average = Average({"net": one_weight()}, 0.9)
    average.load_state_dict({"net.weight": torch.full((1, 1), 3.0)})
    assert average.state_dict()["net.weight"].item() == 3.0
    other: dict[str, Tensor] = {"net.bias": torch.zeros(1)}
    with pytest.raises(PinxitError, match=r"'net\.bias' is on one side only"):
        average.load_state_dict(other)


def test_within_itself_the_weights_are_their_own_in_bfloat16_too() -> None:
    net = one_weight()
    average = Average({"net": net}, 0.5)
    set_weight(net, 3.0)
    with torch.no_grad(), average.in_place(), torch.autocast("cpu", torch.bfloat16):
        assert net(torch.ones(1, 1)).item() == 0.0
        with average.in_place():
            assert net(torch.ones(1, 1)).item() == 3.0
        assert net(torch.ones(1, 1)).item() == 0.0
