import torch
from torch import nn

from pinxit.nn.group_norm import GroupNorm


def test_it_is_pytorchs() -> None:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(8, 32), nn.GroupNorm(8, 32)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    assert torch.equal(ours(x), theirs(x))
    half = x.bfloat16().requires_grad_()
    told = ours(half)
    assert told.dtype == torch.bfloat16
    assert told.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(told.float(), theirs(half.float()), atol=0, rtol=2**-8)
    told.float().square().sum().backward()
    assert half.grad is not None
    assert ours.weight.grad is not None
    torch.testing.assert_close(ours.bfloat16()(half), told, atol=0.02, rtol=2**-6)
