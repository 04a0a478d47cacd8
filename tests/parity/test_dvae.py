"""Our dVAE beside OpenAI's: the published layout as plain functions, and the package DALL-E where it is installed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.checkpoints import from_openai
from pinxit.models.dvae import DVAE, SIZES, DVAEConfig

# OpenAI's proportions, four groups of two blocks, at a quarter of the width.
CONFIG = DVAEConfig(size=32, codes=512, widths=(64, 128, 256, 512), blocks=2, vector=32, gain=1 / 8**2)

Weights = Mapping[str, Tensor]


def conv(weights: Weights, name: str, x: Tensor) -> Tensor:
    w = weights[f"{name}.w"]
    return F.conv2d(x, w, weights[f"{name}.b"], padding=(w.shape[-1] - 1) // 2)


def group(weights: Weights, name: str, x: Tensor) -> Tensor:
    for block in ("block_1", "block_2"):
        path = x
        for number in (1, 2, 3, 4):
            path = conv(weights, f"{name}.{block}.res_path.conv_{number}", F.relu(path))
        projected = f"{name}.{block}.id_path"
        x = (conv(weights, projected, x) if f"{projected}.w" in weights else x) + path / 8**2
    return x


def encode(weights: Weights, fractions: Tensor) -> Tensor:
    """Pictures in [0, 1] -> logits of the codes."""
    x = conv(weights, "blocks.input", 0.8 * fractions + 0.1)
    for number in (1, 2, 3, 4):
        x = group(weights, f"blocks.group_{number}", x)
        if number < 4:
            x = F.max_pool2d(x, 2)
    return conv(weights, "blocks.output.conv", F.relu(x))


def decode(weights: Weights, one_hot: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot codes -> the six channels, and pictures in [0, 1]."""
    x = conv(weights, "blocks.input", one_hot)
    for number in (1, 2, 3, 4):
        x = group(weights, f"blocks.group_{number}", x)
        if number < 4:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = conv(weights, "blocks.output.conv", F.relu(x))
    return x, ((x[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)


def shapes(side: str, config: DVAEConfig) -> dict[str, tuple[int, ...]]:
    """The names of OpenAI's encoder or decoder, without w and b, and the shapes of their weights."""
    encoder = side == "encoder"
    widths = config.widths if encoder else config.widths[::-1]
    kernels = (3, 3, 3, 1) if encoder else (1, 3, 3, 3)
    ends = {"input": (3, widths[0], 7), "output": (widths[-1], config.codes, 1)}
    if not encoder:
        ends = {"input": (config.codes, config.vector, 1), "output": (widths[-1], 6, 1)}
    (a, b, k), (c, d, j) = ends["input"], ends["output"]
    found: dict[str, tuple[int, ...]] = {"blocks.input": (b, a, k, k), "blocks.output.conv": (d, c, j, j)}
    inputs = b
    for number, width in enumerate(widths, start=1):
        for block in (1, 2):
            name, hidden = f"blocks.group_{number}.block_{block}", width // 4
            if inputs != width:
                found[f"{name}.id_path"] = (width, inputs, 1, 1)
            channels = (inputs, hidden, hidden, hidden, width)
            for i, kernel in enumerate(kernels):
                found[f"{name}.res_path.conv_{i + 1}"] = (channels[i + 1], channels[i], kernel, kernel)
            inputs = width
    return found


def random_weights(side: str, config: DVAEConfig = CONFIG) -> dict[str, Tensor]:
    """Residual paths are made so loud that a slip in them shows behind the gain of 1/64."""
    generator = torch.Generator().manual_seed(len(side + side[0]))
    weights = {}
    for name, shape in shapes(side, config).items():
        loud = 2.5 if "res_path" in name else 1.0
        fan_in = shape[1] * shape[2] * shape[3]
        weights[f"{name}.w"] = loud * fan_in**-0.5 * torch.randn(shape, generator=generator)
        weights[f"{name}.b"] = 0.05 * torch.randn(shape[0], generator=generator)
    return weights


def ours(encoder: Weights, decoder: Weights) -> DVAE:
    _, config, state = from_openai.dvae(encoder, decoder, size=32)
    assert config == CONFIG
    dvae = DVAE(config).eval().requires_grad_(False)
    dvae.load_state_dict(state)
    return dvae


def pictures() -> Tensor:
    """In [0, 1]: bright and dark squares with some noise, wider than high."""
    generator = torch.Generator().manual_seed(1)
    squares = torch.rand(2, 3, 4, 6, generator=generator).round()
    noise = torch.rand(2, 3, 32, 48, generator=generator)
    return 0.8 * F.interpolate(squares, scale_factor=8) + 0.2 * noise


def one_hot(ids: Tensor) -> Tensor:
    return F.one_hot(ids, CONFIG.codes).permute(0, 3, 1, 2).float()


def compare(dvae: DVAE, logits: Tensor, channels: Tensor, drawn: Tensor) -> None:
    """Against what the other gives for the same pictures, and for their codes."""
    pixels = 2 * pictures() - 1
    torch.testing.assert_close(dvae.quantizer.logits(dvae.features(pixels)), logits, atol=1e-5, rtol=1e-5)
    ids = logits.argmax(1)
    assert torch.equal(dvae.encode(pixels), ids)
    assert len(set(ids.flatten().tolist())) > 5
    mean, log_scale = dvae.decode_vectors(dvae.quantizer.look_up(ids))
    torch.testing.assert_close(torch.cat([mean, log_scale], 1), channels, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((dvae.reconstruct(pixels) + 1) / 2, drawn, atol=1e-5, rtol=0.0)


def test_it_is_the_published_network() -> None:
    encoder, decoder = random_weights("encoder"), random_weights("decoder")
    logits = encode(encoder, pictures())
    channels, drawn = decode(decoder, one_hot(logits.argmax(1)))
    # The paths that the gain turns down are heard all the same.
    quiet = {name: value * (0 if "conv_4" in name else 1) for name, value in encoder.items()}
    assert (encode(quiet, pictures()) - logits).abs().max() > 0.1
    compare(ours(encoder, decoder), logits, channels, drawn)


def test_names_and_shapes_at_the_papers_size_are_the_released_ones() -> None:
    config = SIZES["paper"]
    with torch.device("meta"):
        state = DVAE(config).state_dict()
    released = {}
    sides: tuple[Literal["encoder"], Literal["decoder"]] = ("encoder", "decoder")
    for side in sides:
        for name, shape in shapes(side, config).items():
            released[from_openai.our_name(side, f"{name}.w", 4)] = shape
            released[from_openai.our_name(side, f"{name}.b", 4)] = shape[:1]
    assert {name: tuple(value.shape) for name, value in state.items()} == released
    assert config.gain == 1 / 64


def test_it_is_openais_package() -> None:
    dall_e = pytest.importorskip(
        "dall_e", reason="needs the package DALL-E, with attrs and requests", exc_type=ImportError
    )
    width, codes = CONFIG.widths[0], CONFIG.codes
    encoder = dall_e.Encoder(n_hid=width, vocab_size=codes)
    decoder = dall_e.Decoder(n_init=CONFIG.vector, n_hid=width, vocab_size=codes)
    for network, side in ((encoder, "encoder"), (decoder, "decoder")):
        weights = random_weights(side)
        assert {name: value.shape for name, value in network.state_dict().items()} == {
            name: value.shape for name, value in weights.items()
        }
        network.load_state_dict(weights)
    with torch.no_grad():
        logits = encoder(dall_e.map_pixels(pictures()))
        channels = decoder(one_hot(logits.argmax(1)))
        drawn = dall_e.unmap_pixels(channels[:, :3].sigmoid())
    compare(ours(encoder.state_dict(), decoder.state_dict()), logits, channels, drawn)


def test_the_gain_belongs_to_the_layout() -> None:
    encoder, decoder = random_weights("encoder"), random_weights("decoder")
    dvae = ours(encoder, decoder)
    other = DVAE(replace(CONFIG, gain=1 / 4**2)).requires_grad_(False)
    other.load_state_dict(dvae.state_dict())
    pixels = 2 * pictures() - 1
    difference = other.quantizer.logits(other.features(pixels)) - dvae.quantizer.logits(dvae.features(pixels))
    assert difference.abs().max() > 0.1
