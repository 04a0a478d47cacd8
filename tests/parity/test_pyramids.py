"""The pyramid codecs beside diffusers', and beside taming's and latent diffusion's layout as plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.parity.compvis import Published, ends, published_state
from torch import Tensor, nn

from pinxit.checkpoints import from_compvis, from_diffusers
from pinxit.models import vae, vqgan
from pinxit.models.vae import VAE
from pinxit.models.vqgan import VQGAN, VQGANConfig

WITHOUT = "diffusers is not installed: pip install pinxit[parity]"

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def loud(module: nn.Module, seed: int = 0) -> None:
    """Random weights under which every part shows, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.parameters():
        fan = value[0].numel() if value.ndim > 1 else 1
        noise = torch.randn(value.shape, generator=generator) * (0.7 / fan**0.5 if value.ndim > 1 else 0.3)
        value.data = noise
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.weight.data += 1


def pictures(size: int = 32, rows: int = 2) -> Tensor:
    return torch.rand(rows, 3, size, size + 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def ours(kind: str, config: Any, state: Mapping[str, Tensor]) -> VAE | VQGAN:
    network = VAE(config) if kind == "vae" else VQGAN(config)
    network.load_state_dict(dict(state))  # strict: nothing missing, nothing left over
    return network.eval()


# diffusers


def autoencoder_kl(**settings: Any) -> Any:
    diffusers = pytest.importorskip("diffusers", reason=WITHOUT)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=0.3,
        **settings,
    ).eval()


def vq_model() -> Any:
    diffusers = pytest.importorskip("diffusers", reason=WITHOUT)
    return diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=16,
        num_vq_embeddings=50,
        vq_embed_dim=8,
        norm_num_groups=16,
        sample_size=32,
    ).eval()


@torch.no_grad()
def test_autoencoder_kl_of_diffusers() -> None:
    theirs = autoencoder_kl()
    loud(theirs)
    kind, config, state = from_diffusers.codec(theirs.config, theirs.state_dict())
    network, pixels = ours(kind, config, state), pictures()
    assert isinstance(network, VAE)
    posterior = theirs.encode(pixels).latent_dist
    torch.testing.assert_close(network.moments(pixels), torch.cat([posterior.mean, posterior.logvar], 1), **CLOSE)
    torch.testing.assert_close(network.encode(pixels), 0.3 * posterior.mean, **CLOSE)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network.decode(0.3 * latents), theirs.decode(latents).sample, **CLOSE)


@torch.no_grad()
def test_vq_model_of_diffusers() -> None:
    theirs = vq_model()
    loud(theirs)
    theirs.quantize.embedding.weight.mul_(6)  # as far apart as the features lie
    kind, config, state = from_diffusers.codec(theirs.config, theirs.state_dict())
    network, pixels = ours(kind, config, state), pictures()
    assert isinstance(network, VQGAN)
    features = theirs.encode(pixels).latents
    torch.testing.assert_close(network.features(pixels), features, **CLOSE)
    _, _, (_, _, ids) = theirs.quantize(features)
    assert (network.encode(pixels).flatten() == ids.flatten()).all()
    assert len(set(ids.flatten().tolist())) > 3
    torch.testing.assert_close(network.decode(network.encode(pixels)), theirs.decode(features).sample, **CLOSE)


# taming-transformers and latent-diffusion: the published equations, by the published names


SHAPE: dict[str, Any] = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention": (1,)}


@torch.no_grad()
def test_vqgan_of_taming() -> None:
    state = published_state(**SHAPE, z=16)
    ends(state, 16, 8)
    state["post_quant_conv.weight"], state["post_quant_conv.bias"] = torch.randn(16, 8, 1, 1) / 3, torch.randn(16) / 9
    state["quantize.embedding.weight"] = torch.randn(40, 8)
    checkpoint = {**state, "loss.discriminator.main.0.weight": torch.zeros(3)}
    kind, config, weights = from_compvis.codec(from_compvis.codec_state(checkpoint))
    network, pixels, published = ours(kind, config, weights), pictures(), Published(state, 32)
    assert isinstance(network, VQGAN)
    features = published.encode(pixels, 3)
    torch.testing.assert_close(network.features(pixels), features, **CLOSE)
    vectors = state["quantize.embedding.weight"]
    ids = (features[:, None] - vectors[None, :, :, None, None]).square().sum(2).argmin(1)
    assert torch.equal(network.encode(pixels), ids)
    assert len(set(ids.flatten().tolist())) > 3
    torch.testing.assert_close(network.decode(ids), published.decode(vectors[ids].permute(0, 3, 1, 2), 3), **CLOSE)


@torch.no_grad()
def test_gumbel_vqgan_of_taming() -> None:
    state = published_state(**SHAPE, z=8)
    ends(state, 8, 8)
    state["post_quant_conv.weight"], state["post_quant_conv.bias"] = torch.randn(8, 8, 1, 1) / 3, torch.randn(8) / 9
    state["quantize.embed.weight"] = torch.randn(40, 8)
    state["quantize.proj.weight"], state["quantize.proj.bias"] = torch.randn(40, 8, 1, 1), torch.randn(40)
    kind, config, weights = from_compvis.codec(from_compvis.codec_state(state))
    network, pixels, published = ours(kind, config, weights), pictures(), Published(state, 32)
    assert isinstance(network, VQGAN)
    ids = F.conv2d(published.encode(pixels, 3), state["quantize.proj.weight"], state["quantize.proj.bias"]).argmax(1)
    assert torch.equal(network.encode(pixels), ids)
    assert len(set(ids.flatten().tolist())) > 3
    vectors = state["quantize.embed.weight"][ids].permute(0, 3, 1, 2)
    torch.testing.assert_close(network.decode(ids), published.decode(vectors, 3), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "first_stage_model."], ids=["alone", "inside Stable Diffusion"])
def test_kl_of_latent_diffusion(prefix: str) -> None:
    state = published_state(32, (1, 2, 2, 2), 1, 4, (), double=True)
    ends(state, 8, 8)
    state["post_quant_conv.weight"], state["post_quant_conv.bias"] = torch.randn(4, 4, 1, 1) / 2, torch.randn(4) / 9
    checkpoint = {f"{prefix}{name}": value for name, value in state.items()}
    if prefix:
        checkpoint["model.diffusion_model.out.2.weight"] = torch.zeros(3)
    kind, config, weights = from_compvis.codec(from_compvis.codec_state(checkpoint))
    network, pixels, published = ours(kind, config, weights), pictures(), Published(state, 32)
    assert isinstance(network, VAE)
    moments = published.encode(pixels, 4)
    torch.testing.assert_close(network.moments(pixels), moments, **CLOSE)
    torch.testing.assert_close(network.encode(pixels), 0.18215 * moments[:, :4], **CLOSE)
    torch.testing.assert_close(network.decode(0.18215 * moments[:, :4]), published.decode(moments[:, :4], 4), **CLOSE)


# The published sizes


@pytest.mark.parametrize(
    ("network", "config", "parameters"),
    [
        (VQGAN, vqgan.SIZES["f16-1024"], 72_141_699),
        (VQGAN, vqgan.SIZES["f16-16384"], 76_073_859),
        (VAE, vae.SIZES["kl-f8"], 83_653_863),
    ],
    ids=["f16-1024", "f16-16384", "kl-f8"],
)
def test_published_sizes_have_the_published_parameters(network: Any, config: VQGANConfig, parameters: int) -> None:
    with torch.device("meta"):
        made = network(config)
    assert sum(value.numel() for value in made.parameters()) == parameters
