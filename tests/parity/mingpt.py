"""taming-transformers' and minDALL-E's transformers as functions of a state in their layouts, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
import yaml
from tests.parity.compvis import ends, published_state
from torch import Tensor

CODES, SIDE, SIZE = 40, 4, 16
WIDTH, DEPTH, HEADS = 32, 3, 4
TEXT = 12
CAPTIONS = [f"a {colour} {shape}, on the left." for colour in ("red", "blue") for shape in ("star", "moon")]


def codec_state() -> dict[str, Tensor]:
    """4x4 of 40 codes for a picture of 16 pixels."""
    state = published_state(32, (1, 2, 2), 1, 8, ())
    ends(state, 8, 8)
    generator = torch.Generator().manual_seed(11)
    state["post_quant_conv.weight"] = torch.randn(8, 8, 1, 1, generator=generator) / 3
    state["post_quant_conv.bias"] = torch.zeros(8)
    state["quantize.embedding.weight"] = torch.randn(CODES, 8, generator=generator)
    return state


def random(shapes: Mapping[str, tuple[int, ...]], device: str = "cpu") -> dict[str, Tensor]:
    """So large that every token matters, and none at where it starts, which could hide a swapped one."""
    generator = torch.Generator().manual_seed(5) if device == "cpu" else None

    def made(name: str, shape: tuple[int, ...]) -> Tensor:
        value = torch.randn(*shape, generator=generator, device=device)
        if "emb" in name:
            return value
        return 1 + 0.3 * value if re.search(r"ln.*weight", name) else 0.2 * value

    return {name: made(name, shape) for name, shape in shapes.items()}


def stack_shapes(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Blocks and last norm."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        linears = {f"attn.{part}": (width, width) for part in ("key", "query", "value", "proj")}
        linears |= {"mlp.0": (4 * width, width), "mlp.2": (width, 4 * width)}
        for name, shape in linears.items():
            shapes[f"blocks.{layer}.{name}.weight"], shapes[f"blocks.{layer}.{name}.bias"] = shape, shape[:1]
        for norm in ("ln1", "ln2"):
            shapes |= {f"blocks.{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes | {f"ln_f.{kind}": (width,) for kind in ("weight", "bias")}


def taming_state(vocabulary: int = CODES, block: int = SIDE**2) -> dict[str, Tensor]:
    """Of a whole checkpoint."""
    own = random(
        {
            "tok_emb.weight": (vocabulary, WIDTH),
            "pos_emb": (1, block, WIDTH),
            **stack_shapes(WIDTH, DEPTH),
            "head.weight": (vocabulary, WIDTH),
        }
    )
    masks = {f"blocks.{layer}.attn.mask": torch.ones(1, 1, block, block).tril() for layer in range(DEPTH)}
    return {
        **{f"first_stage_model.{name}": value for name, value in codec_state().items()},
        **{f"transformer.{name}": value for name, value in (own | masks).items()},
    }


def mindalle_shapes(texts: int, length: int, codes: int, n: int, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Of the second stage."""
    return {
        "tok_emb_img.weight": (codes, width),
        "tok_emb_txt.weight": (texts, width),
        "pos_emb_img.weight": (n, width),
        "pos_emb_txt.weight": (length, width),
        **stack_shapes(width, depth),
        "head_img.weight": (codes, width),
        "head_txt.weight": (texts, width),
    }


def stack(state: Mapping[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """minGPT's blocks and last norm, each causal: b n d -> b n d."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    b, n, d = x.shape
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    layer = 0
    while f"blocks.{layer}.ln1.weight" in state:
        name = f"blocks.{layer}"
        h = norm(f"{name}.ln1", x)
        q, k, v = (
            linear(f"{name}.attn.{part}", h).view(b, n, heads, d // heads).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (q @ k.transpose(2, 3) / (d // heads) ** 0.5).masked_fill(later, -torch.inf).softmax(-1)
        x = x + linear(f"{name}.attn.proj", (weights @ v).transpose(1, 2).reshape(b, n, d))
        h = linear(f"{name}.mlp.0", norm(f"{name}.ln2", x))
        x = x + linear(f"{name}.mlp.2", h * 0.5 * (1 + torch.erf(h / 2**0.5)))
        layer += 1
    return norm("ln_f", x)


def taming_logits(state: Mapping[str, Tensor], start: Tensor, image: Tensor) -> Tensor:
    """Start b 1 and image b m -> logits of image tokens 0 ... m, b m+1 k."""
    own = {name.removeprefix("transformer."): value for name, value in state.items()}
    ids = torch.cat([start, image], 1)
    x = own["tok_emb.weight"][ids] + own["pos_emb"][:, : ids.shape[1]]
    return stack(own, x, HEADS) @ own["head.weight"].T


def mindalle_logits(state: Mapping[str, Tensor], text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Text b l and image b m -> logits of text tokens 1 ... l-1, and of image tokens 0 ... m, b m+1 k."""
    texts = state["tok_emb_txt.weight"][text] + state["pos_emb_txt.weight"]
    images = state["tok_emb_img.weight"][image] + state["pos_emb_img.weight"][: image.shape[1]]
    x = stack(state, torch.cat([texts, images], 1), HEADS)
    last = text.shape[1] - 1
    return x[:, :last] @ state["head_txt.weight"].T, x[:, last:] @ state["head_img.weight"].T


UNCONDITIONAL = {"cond_stage_config": "__is_unconditional__", "sos_token": 3, "unconditional": True}
CLASSES = {"cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 5}}}


def save_taming(file: Path, state: Mapping[str, Tensor], told: Mapping[str, Any]) -> Path:
    """A checkpoint with its yaml beside it."""
    torch.save({"state_dict": state, "global_step": 7}, file)
    params = {"transformer_config": {"target": "taming...GPT", "params": {"n_head": HEADS}}, **told}
    file.with_suffix(".yaml").write_text(yaml.safe_dump({"model": {"base_learning_rate": 1e-6, "params": params}}))
    return file


def save_tokenizer(folder: Path) -> Any:
    """minDALL-E's two files, and the tokenizer that they are read as there."""
    learner = tokenizers.CharBPETokenizer(unk_token="[UNK]", lowercase=True)
    learner.train_from_iterator(CAPTIONS * 3, 60, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    folder.mkdir(parents=True)
    learner.save_model(str(folder), "bpe-16k")
    theirs = tokenizers.CharBPETokenizer.from_file(
        str(folder / "bpe-16k-vocab.json"), str(folder / "bpe-16k-merges.txt"), unk_token="[UNK]", lowercase=True
    )
    theirs.add_special_tokens(["[PAD]"])
    return theirs


def save_mindalle(folder: Path) -> tuple[dict[str, Tensor], Any]:
    """The folder that unpacking leaves; gives the second stage's state, and the tokenizer."""
    tokenizer = save_tokenizer(folder / "tokenizer")
    tokenizer.enable_padding(length=TEXT, pad_id=tokenizer.token_to_id("[PAD]"))
    tokenizer.enable_truncation(max_length=TEXT)
    state = random(mindalle_shapes(tokenizer.get_vocab_size(), TEXT, CODES, SIDE**2, WIDTH, DEPTH))
    torch.save({"state_dict": codec_state()}, folder / "stage1_last.ckpt")
    torch.save({"state_dict": state}, folder / "stage2_last.ckpt")
    hparams = {"n_heads": HEADS, "gelu_use_approx": False}
    (folder / "config.yaml").write_text(yaml.safe_dump({"stage2": {"type": "transformer1d", "hparams": hparams}}))
    return state, tokenizer
