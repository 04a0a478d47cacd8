import pytest
import torch
import torch.nn.functional as F

from pinxit.nn.convolution import FOLDS_FROM, Upsample


@pytest.mark.parametrize("side", [8, 32, 33])
def test_upsampling_is_the_nearest_pixel_and_a_convolution_however_it_is_computed(side: int) -> None:
    torch.manual_seed(0)
    layer, x = Upsample(6).double(), torch.randn(2, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    into = (x, *layer.parameters())
    ours, theirs = (torch.autograd.grad(out.square().sum(), into) for out in (layer(x), expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert 8 * 9 < FOLDS_FROM <= 32 * 33  # both ways have been gone
