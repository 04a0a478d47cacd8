"""`pinxit convert`: finds out what public weights are, and writes them as a checkpoint of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pinxit.checkpoints import catalogue, from_compvis, from_diffusers, from_lpips, from_openai
from pinxit.checkpoints.files import PICKLES, from_config, read_config, save_checkpoint, to_config
from pinxit.checkpoints.pickles import read_tensors
from pinxit.errors import PinxitError
from pinxit.models.dvae import DVAE, DVAEConfig
from pinxit.models.perceptual import LPIPS
from pinxit.models.vae import VAE, VAEConfig
from pinxit.models.vqgan import VQGAN, VQGANConfig

NETWORKS: dict[str, tuple[Any, Any]] = {
    "dvae": (DVAEConfig, DVAE),
    "vae": (VAEConfig, VAE),
    "vqgan": (VQGANConfig, VQGAN),
    "lpips": (None, LPIPS),
}
"""What can come out: kind -> config and network."""

LAYOUTS = (
    "OpenAI's dVAE (a folder with encoder.pkl and decoder.pkl)",
    "VQGANs and KL autoencoders of taming-transformers and latent-diffusion (.ckpt, .safetensors), also inside a "
    "Stable Diffusion file",
    "folders of diffusers' AutoencoderKL and VQModel, also inside a pipeline's",
    "LPIPS with its VGG16 (of the package lpips, or inside a VQGAN: --part lpips)",
)

HUB_FILES = (
    ["*.json", "vae/*.safetensors", "vqvae/*.safetensors"],
    ["*.safetensors"],
    [f"*{suffix}" for suffix in PICKLES],
)
"""What is fetched from the hub, until there are weights: the codec of a pipeline before all of it, pickles last."""


class Converted(NamedTuple):
    """What was found."""

    kind: str
    layout: str
    parameters: int


def convert(source: str, out: Path, *, part: str | None = None, size: int | None = None) -> Converted:
    """Writes what `source`, a file, a folder or hf:owner/name, holds into the checkpoint folder `out`.

    `part` is "lpips" for the perceptual distance inside a VQGAN's checkpoint. `size` is the side of the pictures it was
    trained on, where the weights do not tell. Raises PinxitError for what is unknown.
    """
    _refuse_to_replace(out)
    path = _local(source)
    try:
        layout, kind, config, state = _recognise(path, part)
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as fault:
        raise PinxitError(
            f"{path} is like a layout that is known here, but not quite: {type(fault).__name__} at {fault}. Known are: "
            f"{'; '.join(LAYOUTS)}."
        ) from fault
    if size is not None:
        config = _with_size(config, size)
    _check_fit(path, kind, config, state)
    said = {
        "kind": kind,
        "config": config,
        "converted_from": {"source": source if source.startswith("hf:") else path.name, "layout": layout},
        "licence": "that of the original weights",
    }
    save_checkpoint(out, said, {kind: state}, card=_card(source, layout, kind))
    return Converted(kind, layout, sum(value.numel() for value in state.values()))


def _refuse_to_replace(out: Path) -> None:
    """Raises PinxitError where `out` holds anything but an earlier conversion, which the new one would replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = "converted_from" in read_config(out)
    except PinxitError:
        earlier = False
    if not earlier:
        raise PinxitError(f"{out} holds other things, which would be lost. Give an empty folder or a new one.")


def _check_fit(path: Path, kind: str, config: Any, state: Mapping[str, Tensor]) -> None:
    """Raises PinxitError where the weights are not those of the network that the config describes."""
    with torch.device("meta"):
        network = NETWORKS[kind][1](*([from_config(NETWORKS[kind][0], config)] if NETWORKS[kind][0] else []))
    wanted = network.state_dict()
    odd = sorted(wanted.keys() ^ state.keys()) or sorted(
        name for name, value in wanted.items() if value.shape != state[name].shape
    )
    if odd:
        raise PinxitError(f"{path} is not whole, or of another shape than its layout: {odd[0]!r} does not fit.")


def _recognise(path: Path, part: str | None) -> tuple[str, str, dict[str, Any], dict[str, Tensor]]:
    """Layout, kind, config as JSON holds it, and weights."""
    if part not in (None, "lpips"):
        raise PinxitError(f"There is no part {part!r} to convert. Allowed is lpips, or none for the model itself.")
    if path.is_dir() and part is None:
        for folder in (path, path / "vae", path / "vqvae"):
            if (described := _diffusers(folder)) is not None:
                return "diffusers", *_told(from_diffusers.codec(described, _weights_in(folder)))
        halves = [path / "encoder.pkl", path / "decoder.pkl"]
        if all(half.is_file() for half in halves):
            encoder, decoder = (read_state(half) for half in halves)
            if from_openai.is_half(encoder) and from_openai.is_half(decoder):
                return "openai", *_told(from_openai.dvae(encoder, decoder, size=256))
    state = _weights_in(path) if path.is_dir() else read_state(path)
    if part is None and (codec := from_compvis.codec_state(state)):
        return "compvis", *_told(from_compvis.codec(codec, from_compvis.scale_of(state)))
    if held := from_lpips.lpips_state(state):
        return "lpips", "lpips", {}, from_lpips.lpips(held)
    if from_openai.is_half(state):
        raise PinxitError(
            f"{path} is one half of OpenAI's dVAE. Give the folder that holds encoder.pkl and decoder.pkl."
        )
    names = ", ".join(sorted(state)[:3]) or "none"
    raise PinxitError(
        f"{path} is of no layout that is known here (its first tensors: {names}). Known are: {'; '.join(LAYOUTS)}."
    )


def _told(found: tuple[str, Any, dict[str, Tensor]]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    kind, config, state = found
    return kind, to_config(config), state


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickle, by name."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError, ValueError) as fault:
            raise PinxitError(f"{file} is damaged or no safetensors file: {fault}.") from fault
    return read_tensors(file)


def _weights_in(folder: Path) -> dict[str, Tensor]:
    """Of the one file with weights in a folder, safetensors first."""
    for suffixes in ((".safetensors",), PICKLES):
        files = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
        plain = [file for file in files if ".fp16." not in file.name] or files
        if len(plain) == 1:
            return read_state(plain[0])
        if plain:
            raise PinxitError(
                f"{folder} holds several weights: {', '.join(file.name for file in plain)}. Give one of them."
            )
    raise PinxitError(f"{folder} holds no weights. Known are: {'; '.join(LAYOUTS)}.")


def _diffusers(folder: Path) -> Mapping[str, Any] | None:
    """The config.json of a model of diffusers that is known here."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(config, dict) and config.get("_class_name") in ("AutoencoderKL", "VQModel")
    return config if known else None


def _local(source: str) -> Path:
    if source.startswith("hf:"):
        folder = catalogue.fetch(source, HUB_FILES[0])
        for files in HUB_FILES[1:]:
            if any(file.suffix in (".safetensors", *PICKLES) for file in folder.rglob("*")):
                break
            folder = catalogue.fetch(source, files)
        return folder
    path = Path(source).expanduser()
    if not path.exists():
        raise PinxitError(f"{source!r} is no file and no folder. Give one, or hf:owner/name.")
    return path


def _with_size(config: dict[str, Any], size: int) -> dict[str, Any]:
    """The config for pictures of another size: everything is convolutional, but attention is told by sides."""
    pyramid = config.get("pyramid")
    if pyramid is None:
        return {**config, "size": size}
    attention = [side * size // pyramid["size"] for side in pyramid["attention"]]
    return {**config, "pyramid": {**pyramid, "size": size, "attention": attention}}


def _card(source: str, layout: str, kind: str) -> str:
    return f"""# {Path(source.removeprefix("hf:")).name}

A {kind}, converted by pinxit from the layout of {layout}. The licence of the original weights holds.
"""
