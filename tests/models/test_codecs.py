"""What all codec networks share: shapes, hard codes, pictures of other sizes, and the way past the bottleneck."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models import dvae, palette, vae, vqgan, vqvae
from pinxit.models.dvae import DVAE
from pinxit.models.palette import Palette
from pinxit.models.vae import VAE
from pinxit.models.vqgan import VQGAN
from pinxit.models.vqvae import VQVAE
from pinxit.nn.convolution import PyramidConfig
from pinxit.nn.quantizers import Codebook

NETWORKS: dict[str, Any] = {
    "dvae": lambda: DVAE(dvae.SIZES["tiny-32"]),
    "vae": lambda: VAE(replace(vae.SIZES["tiny-32"], scale=0.5)),
    "vqvae": lambda: VQVAE(vqvae.SIZES["tiny-32"]),
    "vqvae2": lambda: VQVAE(vqvae.SIZES["tiny-32-2"]),
    "vqgan": lambda: VQGAN(vqgan.SIZES["tiny-32"]),
    "gumbel": lambda: VQGAN(replace(vqgan.SIZES["tiny-32"], quantizer="gumbel")),
    "strided": lambda: VQVAE(replace(vqvae.SIZES["tiny-32"], halvings=2, patch=1, cosine=False)),
    "palette": lambda: Palette(palette.PaletteConfig(size=32, codes=20)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


def pixels(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_codes_have_the_shape_that_is_told(network: Any) -> None:
    codes = network.encode(pixels())
    assert codes.shape == (2, *network.code_shape)
    assert network.size == 32
    if network.codes is None:
        assert codes.dtype == torch.float32
    else:
        assert codes.dtype == torch.int64
        assert 0 <= int(codes.min()) <= int(codes.max()) < network.codes
        assert len(codes.unique()) > 2
    assert network.decode(codes).shape == (2, 3, 32, 32)


@torch.no_grad()
def test_pictures_of_other_sizes_pass_as_well(network: Any) -> None:
    wide = pixels(32, 64)
    if network.encode(wide).ndim == 2:
        square = network.encode(pixels(64, 64))
        assert network.decode(square).shape == (2, 3, 64, 64)
    else:
        assert network.decode(network.encode(wide)).shape == wide.shape


@torch.no_grad()
def test_the_way_past_the_bottleneck_is_the_one_through_hard_codes(network: Any) -> None:
    if isinstance(network, Palette):
        pytest.skip("a palette is no network")
    quantizers = network.quantizers()
    met = []

    def hard(name: str, features: Tensor) -> Tensor:
        met.append(name)
        quantizer = quantizers.get(name)
        if quantizer is None:  # a Gaussian: its mean
            return features.chunk(2, 1)[0]
        ids = quantizer.nearest(features) if isinstance(quantizer, Codebook) else quantizer.logits(features).argmax(1)
        found: Tensor = quantizer.look_up(ids)
        return found

    output = network.to_pixels(network.through(pixels(), hard))
    torch.testing.assert_close(output, network.decode(network.encode(pixels())))
    assert met == (list(quantizers) or ["posterior"])


def test_every_parameter_learns_and_the_last_layer_makes_pixels(network: Any) -> None:
    if isinstance(network, Palette):
        pytest.skip("a palette is no network")
    network.train()
    output = network.through(pixels(), lambda name, features: _soft(network.quantizers().get(name), features))
    output.square().mean().backward()
    assert network.decoder[-1].weight.grad is not None
    assert network.decoder[-1].weight.grad.any()
    unmoved = [
        name
        for name, value in network.named_parameters()
        if value.grad is None
        and not name.endswith(("embedding", "quantizer.vectors.weight", "quantizer.vectors.bias", "log_scale"))
    ]
    assert unmoved in ([], ["quantizer.to_logits.weight", "quantizer.to_logits.bias"])


UNUSED = ("embedding", "quantizer.vectors.weight", "quantizer.vectors.bias", "log_scale")
"""What takes no part where features pass as they are."""


def _soft(quantizer: nn.Module | None, features: Tensor) -> Tensor:
    if quantizer is None:
        return features.chunk(2, 1)[0]
    if isinstance(quantizer, Codebook):
        return quantizer.prepare(features)
    if hasattr(quantizer, "continuous"):
        return quantizer.continuous(features)  # type: ignore[no-any-return, operator]
    return features


def test_the_coarse_codes_come_first_and_change_large_parts() -> None:
    torch.manual_seed(0)
    network = VQVAE(vqvae.SIZES["tiny-32-2"]).eval()
    codes = torch.randint(64, (1, 80))
    with torch.no_grad():
        before = network.decode(codes)
        reach = []
        for place in (0, 16):
            changed = codes.clone()
            changed[0, place] = (changed[0, place] + 1) % 64
            reach.append(int(((network.decode(changed) - before).abs().amax(1) > 1e-6).sum()))
    assert 0 < reach[1] < reach[0]


def test_latents_leave_scaled() -> None:
    torch.manual_seed(0)
    plain, scaled = VAE(vae.SIZES["tiny-32"]), VAE(replace(vae.SIZES["tiny-32"], scale=0.25))
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(scaled.encode(pixels()), 0.25 * plain.encode(pixels()))
        torch.testing.assert_close(scaled.decode(scaled.encode(pixels())), plain.decode(plain.encode(pixels())))


def test_a_palette_gives_every_pixel_its_nearest_colour() -> None:
    network = Palette(palette.PaletteConfig(size=2, codes=3))
    network.colours.embedding.data.copy_(torch.tensor([[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    picture = torch.tensor([[-0.9, -1.0, -0.8], [0.9, -0.7, -0.9], [0.9, 0.8, 0.7], [0.1, -0.9, -0.9]]).t()
    ids = network.encode(picture.reshape(1, 3, 2, 2))
    assert ids.tolist() == [[[0, 1], [2, 1]]]
    assert network.decode(ids)[0, :, 0, 1].tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: PyramidConfig(60, channels=32, multipliers=(1, 2, 2), blocks=1, latent=4, patch=2),
            "multiple of 8",
        ),
        (
            lambda: PyramidConfig(64, channels=48, multipliers=(1,), blocks=1, latent=4),
            "divide into 32 groups",
        ),
        (lambda: replace(vqvae.SIZES["tiny-32-2"], size=36), "multiple of 8"),
        (lambda: replace(vqvae.SIZES["tiny-32"], levels=3), "allowed are 1 .* and 2"),
    ],
)
def test_impossible_sizes_are_told(make: Any, told: str) -> None:
    with pytest.raises(PinxitError, match=told):
        make()
