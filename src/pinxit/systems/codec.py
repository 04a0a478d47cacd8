"""A codec by itself: pictures to codes and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn

from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.data.images import fit, opaque, to_pil, to_tensor
from pinxit.errors import PinxitError
from pinxit.models.autoencoder import Autoencoder
from pinxit.models.dvae import DVAE, DVAEConfig
from pinxit.models.palette import Palette, PaletteConfig
from pinxit.models.vae import VAE, VAEConfig
from pinxit.models.vqgan import VQGAN, VQGANConfig
from pinxit.models.vqvae import VQVAE, VQVAEConfig
from pinxit.nn.compiling import check_compiler
from pinxit.systems.system import System


class Network(NamedTuple):
    """A row of the table of codecs."""

    config: type[Any]
    network: type[Any]


NETWORKS = {
    "palette": Network(PaletteConfig, Palette),
    "vae": Network(VAEConfig, VAE),
    "vqvae": Network(VQVAEConfig, VQVAE),
    "dvae": Network(DVAEConfig, DVAE),
    "vqgan": Network(VQGANConfig, VQGAN),
}
"""The kind of a codec, which is also the name of its network's file -> its config and its network."""


def kind_of(config: Any) -> str:
    """The kind of codec that a config is of."""
    return next(kind for kind, row in NETWORKS.items() if isinstance(config, row.config))


def read_codec_config(folder: Path) -> Any:
    """The config of a codec's network, from its checkpoint's config.json."""
    config = read_config(folder)
    if config["kind"] not in NETWORKS:
        raise PinxitError(
            f"{folder} is of kind {config['kind']}, which is no codec. Codecs are: {', '.join(NETWORKS)}."
        )
    return from_config(NETWORKS[config["kind"]].config, config.get("config", {}))


class Codec(System):
    """A network of one of the kinds in `NETWORKS`. Pictures are scaled and cropped to the square it was trained on."""

    kind = "codec"
    """Of the class; every one that is opened has that of its network."""

    def __init__(self, network: nn.Module, device: torch.device | None = None) -> None:
        self.kind = kind_of(network.config)  # type: ignore[misc]
        self.device = device or torch.device("cpu")
        self.bf16 = False
        self.network = network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the network's safetensors."""
        config = read_codec_config(folder)
        kind = kind_of(config)
        network = NETWORKS[kind].network(config)
        load_network(folder, kind, network)
        return cls(network, device)

    @property
    def autoencoder(self) -> Autoencoder:
        """The network by what it can do."""
        return cast("Autoencoder", self.network)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.autoencoder.size

    @property
    def codes(self) -> int | None:
        """k, how many codes there are; None where codes are numbers."""
        return self.autoencoder.codes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes of a picture: h w; n where there are several grids; c h w where codes are numbers."""
        return self.autoencoder.code_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a single grid of codes."""
        if len(self.shape) != 2:
            raise PinxitError(
                f"The codes of {self.name or 'this codec'} have the shape {self.shape}, not rows and columns."
            )
        return self.shape[0], self.shape[1]

    @property
    def batch(self) -> int:
        """Pictures to pass at once: 64 of 64 pixels a side, fewer of larger ones."""
        return max(1, 64 * 64**2 // self.size**2)

    @property
    def fingerprint(self) -> str:
        """A name for these weights; codes of codecs that differ in it mean different things."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """Codes are compared in float32 all the same."""
        self.bf16 = bf16
        if compile:
            check_compiler(self.device)
        for name in ("encode", "decode"):
            self.network.__dict__.pop(name, None)  # what an earlier call compiled
            if compile:
                setattr(self.network, name, torch.compile(getattr(self.network, name), dynamic=False))

    @torch.inference_mode()
    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pictures of any mode, what is transparent on white -> codes, int64 ids or float32 latents, b *shape."""
        images = [images] if isinstance(images, Image.Image) else images
        pixels = torch.stack([to_tensor(fit(opaque(image), self.size)) for image in images])
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            codes = self.autoencoder.encode(pixels)
        return codes if self.codes else codes.float()

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes b *shape -> pictures."""
        self._check(codes)
        codes = codes.to(self.device, torch.float32 if self.codes is None else torch.int64)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pixels = self.autoencoder.decode(codes)
        return [to_pil(picture) for picture in pixels.float().clamp(-1, 1)]

    def reconstruct(self, images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures -> the same through the codes."""
        return self.decode(self.encode(images))

    def _check(self, codes: Tensor) -> None:
        given = f"Codes of shape {tuple(codes.shape)} and type {codes.dtype} cannot be decoded"
        axes = {1: "b n", 2: "b h w", 3: "b c h w"}[len(self.shape)]
        if not codes.numel() or codes.dtype == torch.bool:
            raise PinxitError(f"{given}: give at least one picture's, as numbers.")
        if self.codes is None:
            if codes.ndim != 4 or codes.shape[1] != self.shape[0] or not codes.is_floating_point():
                raise PinxitError(f"{given}: give numbers {axes} with c = {self.shape[0]}.")
        elif (
            codes.ndim != 1 + len(self.shape)
            or codes.is_floating_point()
            or codes.min() < 0
            or codes.max() >= self.codes
        ):
            raise PinxitError(f"{given}: give integers {axes} from 0 to {self.codes - 1}.")
        if len(self.shape) == 1 and codes.shape[1:] != self.shape:
            raise PinxitError(f"{given}: n is {self.shape[0]}.")
