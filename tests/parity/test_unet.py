"""Our denoiser beside guided-diffusion's and GLIDE's: their equations and names, through the converter."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from tests.parity.guided import LENGTH, TEXTS, Theirs
from torch import Tensor

from pinxit.checkpoints import from_diffusers, from_guided
from pinxit.checkpoints.files import from_config, to_config
from pinxit.errors import PinxitError
from pinxit.models.denoiser import SIZES, Conditioning, Denoiser, DenoiserConfig
from pinxit.models.unet import Guide, UNet, UNetConfig

SMALL: dict[str, Any] = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2",
    "attention_resolutions": "16,8",
    "num_heads": 2,
    "num_head_channels": -1,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "learn_sigma": True,
}
PUBLISHED = {
    "adm-64": 295_904_454,
    "adm-128": 421_529_606,
    "adm-256": 553_838_086,
    "adm-256-unconditional": 552_814_086,
    "adm-512": 558_997_638,
    "adm-64-to-256": 311_795_910,
    "adm-128-to-512": 308_835_270,
    "glide-base": 385_030_726,
    "glide-upsample": 398_361_286,
    "glide-base-inpaint": 385_037_638,
    "glide-upsample-inpaint": 398_368_198,
}
TOLD = {"dalle2-decoder": 3.5e9, "dalle2-upsample": 7e8, "dalle2-upsample-1024": 3e8}
"""As the paper's table 3 rounds them."""
TIMES = torch.tensor([13, 700])


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ours(theirs: Theirs) -> Denoiser:
    config, state = from_guided.denoiser(theirs.state, theirs.flags)
    network = Denoiser(from_config(DenoiserConfig, to_config(config)))
    network.load_state_dict(state)
    return network.eval()


@torch.no_grad()
def agrees(theirs: Theirs, asked: Conditioning, **told: Any) -> None:
    x = random(2, 3, 32, 32)
    expected = theirs(x, TIMES, **told)
    assert expected.std() > 0.1
    assert from_guided.is_denoiser(theirs.state)
    torch.testing.assert_close(ours(theirs)(x, TIMES, asked), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("block_changes", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_guided_diffusion(new_order: bool, block_changes: bool, scale_shift: bool) -> None:
    flags = {
        "use_new_attention_order": new_order,
        "resblock_updown": block_changes,
        "use_scale_shift_norm": scale_shift,
    }
    labels = torch.tensor([1, 4])
    agrees(Theirs({**SMALL, **flags, "image_size": 32, "class_cond": True}), Conditioning(labels=labels), labels=labels)


def test_its_upsampler() -> None:
    low = random(2, 3, 8, 8, seed=2)
    large = F.interpolate(low, (32, 32), mode="bilinear")
    agrees(Theirs({**SMALL, "large_size": 32, "small_size": 8}), Conditioning(low=low), beside=(large,))


@pytest.mark.parametrize("upsamples", [False, True])
@pytest.mark.parametrize("inpaints", [False, True])
def test_glide(upsamples: bool, inpaints: bool) -> None:
    sizes = {"large_size": 32, "small_size": 8} if upsamples else {"image_size": 32}
    ids = torch.randint(TEXTS, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(LENGTH) < torch.tensor([[3], [LENGTH]])
    asked: dict[str, Tensor] = {"ids": torch.where(mask, ids, TEXTS + torch.arange(LENGTH))}
    beside: list[Tensor] = []
    if inpaints:
        known, shown = random(2, 3, 32, 32, seed=4), (random(2, 1, 32, 32, seed=5) > 0).float()
        asked |= {"known": known, "mask": shown}
        beside += [known * shown, shown]
    if upsamples:
        asked["low"] = random(2, 3, 8, 8, seed=2)
        beside.append(F.interpolate(asked["low"], (32, 32), mode="bilinear"))
    theirs = Theirs({**SMALL, **sizes, "text_ctx": LENGTH, "xf_heads": 4})
    agrees(theirs, Conditioning(**asked), ids=ids, mask=mask, beside=tuple(beside))


def test_nothing_known_is_nothing_shown() -> None:
    theirs = Theirs({**SMALL, "image_size": 32})
    with torch.no_grad():
        x = random(2, 3, 32, 32)
        expected = theirs(x, TIMES, beside=(torch.zeros(2, 4, 32, 32),))
        torch.testing.assert_close(ours(theirs)(x, TIMES, Conditioning()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    assert counted(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", TOLD)
def test_sizes_of_unclip(name: str) -> None:
    assert counted(name) == pytest.approx(TOLD[name], rel=0.06)


def counted(name: str) -> int:
    with torch.device("meta"):
        network = Denoiser(SIZES[name])
    return sum(value.numel() for value in network.parameters())


def test_published_weights_need_no_flags() -> None:
    """By their number; what comes out is as large as ours."""
    flags = {**SMALL, "image_size": 64, "num_channels": 192, "num_res_blocks": 3, "channel_mult": "1,2,3,4"}
    theirs = Theirs({**flags, "attention_resolutions": "32,16,8", "class_cond": True})
    with torch.device("meta"):
        theirs.generator = None  # type: ignore[assignment]
        theirs(torch.zeros(1, 3, 64, 64), torch.zeros(1), labels=torch.zeros(1, dtype=torch.int64))
    state = {name: value for name, value in theirs.state.items() if name != "label_emb.weight"}
    state["label_emb.weight"] = torch.zeros(1_000, 768, device="meta")
    config, converted = from_guided.denoiser(state, None)
    assert config == SIZES["adm-64"]
    with torch.device("meta"):
        wanted = Denoiser(config).state_dict()
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in wanted.items()}


def test_others_have_to_tell_their_flags() -> None:
    theirs = Theirs({**SMALL, "image_size": 32})
    theirs(random(1, 3, 32, 32), TIMES[:1])
    with pytest.raises(PinxitError, match="Put a yaml of the flags of training"):
        from_guided.denoiser(theirs.state, None)
    for flag, value, message in (
        ("num_head_channels", 32, "num_head_channels=32"),
        ("diffusion_steps", 4000, "rescale_timesteps=true"),
        ("channel_mult", "", "channel_mult is needed"),
    ):
        with pytest.raises(PinxitError, match=message):
            from_guided.denoiser(theirs.state, {**theirs.flags, flag: value})


# diffusers, where its networks coincide with these


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("block_changes", [False, True])
@torch.no_grad()
def test_unet_2d_of_diffusers(scale_shift: bool, block_changes: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    change = "resnet" if block_changes else "conv"
    theirs = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D" if block_changes else "DownBlock2D", *["AttnDownBlock2D"] * 2),
        up_block_types=(*["AttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D" if block_changes else "UpBlock2D"),
        downsample_type=change,
        upsample_type=change,
        attention_head_dim=16,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.06 if value.ndim > 1 else 0.2)
    config = UNetConfig(32, 32, (1, 2, 2), 2, (16, 8), heads=4, scale_shift=scale_shift, resample=change_of(change))
    network = taken_over(UNet(config), theirs.state_dict())
    x = random(2, 3, 32, 32)
    expected = theirs.eval()(x, TIMES).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(network.eval()(x, TIMES), expected, atol=1e-5, rtol=1e-5)


def taken_over(network: UNet, state: dict[str, Tensor]) -> UNet:
    network.load_state_dict(from_diffusers.unet_weights(network, state))
    return network


@torch.no_grad()
def test_unet_2d_condition_of_diffusers() -> None:
    """Their unCLIP decoder's: the tokens' keys and values before those of the picture, as GLIDE has them."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        attention_head_dim=16,
        cross_attention_dim=24,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.06 if value.ndim == 4 else 0.2)
    network = taken_over(UNet(UNetConfig(16, 32, (1, 2), 1, (8,), heads=4, outputs=6, tokens=24)), theirs.state_dict())
    x, tokens, added = random(2, 3, 16, 16), random(2, 5, 24, seed=2), random(2, 128, seed=3)
    expected = theirs.eval()(x, TIMES, tokens, class_labels=added).sample
    assert (expected - theirs(x, TIMES, 2 * tokens, class_labels=added).sample).abs().max() > 0.01
    ours = network.eval()(x, TIMES, Guide(added, tokens))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def change_of(name: str) -> Literal["block", "conv"]:
    return "block" if name == "resnet" else "conv"
