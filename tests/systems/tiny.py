"""DALL·E 1 with random weights, small enough for any test, and its folder as the recipe's last stage writes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.models import clip, dvae, token_transformer
from pinxit.models.clip import CLIP
from pinxit.models.dvae import DVAE
from pinxit.models.token_transformer import TokenTransformer
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.conditions import TextCondition
from pinxit.systems.token_drawing import TokenDrawer
from pinxit.systems.token_system import TokenSystem
from pinxit.text.tokenizer import Tokenizer

CAPTIONS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "moon")]


def make_tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS * 2, 600)


def make_codec(seed: int = 0, codes: int = 64) -> Codec:
    torch.manual_seed(seed)
    network = DVAE(replace(dvae.SIZES["tiny-32"], codes=codes, patch=8))  # 4x4 codes
    for parameter in network.decoder.parameters():  # residual paths begin at zero: different codes must look different
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Codec(network)


def make_transformer(tokenizer: Tokenizer, codec: Codec) -> TokenTransformer:
    torch.manual_seed(1)
    config = replace(
        token_transformer.SIZES["tiny-32"],
        condition_vocabulary=tokenizer.vocab_size,
        image_vocabulary=codec.codes or 0,
        grid=codec.grid,
    )
    network = TokenTransformer(config)
    for parameter in network.parameters():  # the text must matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def make_drawer(tokenizer: Tokenizer, codec: Codec) -> TokenDrawer:
    return TokenDrawer.ready(make_transformer(tokenizer, codec), torch.device("cpu"))


def make_clip(tokenizer: Tokenizer, levels: int | None = None) -> CLIPSystem:
    torch.manual_seed(2)
    config = clip.SIZES["tiny-32"].with_vocabulary(tokenizer.vocab_size)
    return CLIPSystem(CLIP(replace(config, vision=replace(config.vision, levels=levels))), tokenizer)


def make_dalle1(*, with_clip: bool = True) -> TokenSystem:
    tokenizer, codec = make_tokenizer(), make_codec()
    chooses = make_clip(tokenizer) if with_clip else None
    system = TokenSystem("dalle1", codec, make_drawer(tokenizer, codec), TextCondition(tokenizer, 16), chooses)
    system.name = "tiny"
    return system


def save_codec(codec: Codec, folder: Path, dtype: torch.dtype | None = None) -> Path:
    config = {"kind": "dvae", "config": to_config(codec.network.config)}
    save_checkpoint(folder, config, {"dvae": codec.network}, dtype=dtype)
    return folder


def save_dalle1(system: TokenSystem, folder: Path, dtype: torch.dtype | None = None) -> Path:
    save_checkpoint(folder, {"kind": "dalle1", "defaults": {"top_p": 0.9}}, {})
    save_codec(system.codec, folder / "dvae", dtype)
    condition = system.condition
    assert isinstance(condition, TextCondition)
    text = condition.tokenizer.to_json()
    config = {"kind": "token_transformer", "config": to_config(system.prior.config)}
    networks = {"transformer": system.prior}
    save_checkpoint(folder / "transformer", config, networks, tokenizer=text, dtype=dtype)
    if system.clip is not None:
        config = {"kind": "clip", "config": to_config(system.clip.clip.config)}
        save_checkpoint(folder / "clip", config, {"clip": system.clip.clip}, tokenizer=text, dtype=dtype)
    return folder
