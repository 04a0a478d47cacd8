"""A codec by itself: pictures to codes and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.data.images import fit, opaque, to_pil, to_tensor
from pinxit.errors import PinxitError
from pinxit.models.dvae import DVAE, DVAEConfig
from pinxit.systems.system import System, choose_device


class Codec(System):
    """The dVAE of DALL·E 1. Pictures are scaled and cropped to the square that it was trained on."""

    kind = "dvae"

    def __init__(self, dvae: DVAE, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.dvae = dvae.to(self.device).eval().requires_grad_(False)

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and dvae.safetensors."""
        dvae = DVAE(from_config(DVAEConfig, read_config(folder).get("config", {})))
        load_network(folder, "dvae", dvae)
        return cls(dvae, device)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.dvae.config.size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.dvae.config.grid, self.dvae.config.grid

    @property
    def codes(self) -> int:
        """k, how many codes there are."""
        return self.dvae.config.codes

    @property
    def fingerprint(self) -> str:
        """A name for these weights; codes of codecs that differ in it mean different things."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.dvae.state_dict().items()):
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pictures of any mode, what is transparent on white -> codes, int64 b h w."""
        images = [images] if isinstance(images, Image.Image) else images
        pixels = torch.stack([to_tensor(fit(opaque(image), self.size)) for image in images])
        return self.dvae.encode(pixels.to(self.device))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes b h w -> pictures."""
        if codes.ndim != 3 or codes.is_floating_point() or codes.min() < 0 or codes.max() >= self.codes:
            raise PinxitError(
                f"Codes of shape {tuple(codes.shape)} and type {codes.dtype} cannot be decoded: give integers b h w "
                f"from 0 to {self.codes - 1}."
            )
        return [to_pil(picture) for picture in self.dvae.decode(codes.to(self.device))]

    def reconstruct(self, images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures -> the same through the codes."""
        return self.decode(self.encode(images))


def load_codec(name: str | Path, device: str | torch.device | None = None) -> Codec:
    """Opens a codec, a checkpoint of its own or the `dvae` part of a system, by the names that `pinxit.load` takes."""
    found = catalogue.find(name)
    folder = found.folder
    kind = read_config(folder)["kind"]
    if kind != Codec.kind:
        folder = folder / Codec.kind
        if not (folder / "config.json").is_file():
            raise PinxitError(f"{found.name} is of kind {kind} and has no dVAE in it. Give a model that has one.")
    codec = Codec.from_checkpoint(folder, choose_device(device))
    codec.name = found.name
    return codec
