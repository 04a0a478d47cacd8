from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pinxit.nn.linear import FEW_ROWS, ONEDNN, Linear


def plain(layer: Linear) -> nn.Linear:
    twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    twin.load_state_dict(layer.state_dict())
    return twin


def gradients(layer: nn.Linear, x: Tensor, goal: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((layer(x) * goal).sum(), [x, *layer.parameters()])


def inputs() -> list[Tensor]:
    torch.manual_seed(1)
    wide, long = torch.randn(5, 30, 48), torch.randn(FEW_ROWS, 24)
    return [torch.randn(FEW_ROWS, 24), torch.randn(2, 40, 24), wide[:, 3:, :24], wide[..., ::2], long.T.contiguous().T]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", inputs(), ids=["rows", "batch", "part", "strided", "turned"])
def test_it_is_the_linear_layer_and_so_are_its_gradients(x: Tensor, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    goal = torch.randn(*x.shape[:-1], 40)
    close(layer(x), plain(layer)(x))
    for found, expected in zip(gradients(layer, x, goal), gradients(plain(layer), x, goal), strict=True):
        close(found, expected)
    with torch.inference_mode():
        close(layer(x), plain(layer)(x))


def test_what_does_not_learn_gets_no_gradient() -> None:
    layer, x = Linear(24, 40), torch.randn(FEW_ROWS, 24)
    layer(x).sum().backward()  # the input does not
    assert x.grad is None
    assert layer.weight.grad is not None
    close(layer.weight.grad, x.sum(0).expand(40, -1))
    layer = Linear(24, 40).requires_grad_(False)
    assert not layer(x).requires_grad
    layer(x.requires_grad_()).sum().backward()  # the layer does not
    assert x.grad is not None
    close(x.grad, layer.weight.sum(0).expand(FEW_ROWS, -1))


def test_a_step_repeats_to_the_bit() -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 96), torch.randn(200, 64)
    grads = []
    for _ in range(2):
        layer.zero_grad()
        layer(x).square().sum().backward()
        assert layer.weight.grad is not None
        grads.append(layer.weight.grad)
    assert torch.equal(*grads)


@pytest.mark.skipif(not ONEDNN, reason="this PyTorch has no oneDNN for this processor")
def test_it_goes_to_onednn_in_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    theirs = torch._C._nn.mkldnn_linear

    def counted(x: Tensor, *rest: Tensor) -> Tensor:
        asked.append(x.dtype)
        return theirs(x, *rest)

    monkeypatch.setattr(torch._C._nn, "mkldnn_linear", counted)
    layer, x = Linear(24, 40), torch.randn(FEW_ROWS, 24)
    layer(x)
    assert asked == [torch.float32]
    layer(x[1:])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.double()(x.double())
    layer.bfloat16()(x.bfloat16())
    layer.to("meta")(x.to("meta"))
    assert asked == [torch.float32]
