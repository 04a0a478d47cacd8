"""What turns pictures into codes, latents or embeddings: every codec, and CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import from_config, read_config
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIPConfig
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import NETWORKS, Codec, read_codec_config
from pinxit.systems.system import choose_device


class Encoder(Protocol):
    """A part of a system, by what encoding pictures needs of it."""

    @property
    def size(self) -> int:
        """Pixels a side that it looks at."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes of a picture."""
        ...

    @property
    def codes(self) -> int | None:
        """k, how many codes there are; None where it makes numbers."""
        ...

    @property
    def batch(self) -> int:
        """Pictures to pass at once."""
        ...

    @property
    def fingerprint(self) -> str:
        """A name for its weights."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> b *shape, int64 ids or float32 numbers."""
        ...


def read_size(folder: Path) -> int:
    """Pixels a side that the encoder in a checkpoint folder looks at."""
    config = read_config(folder)
    if config["kind"] == CLIPSystem.kind:
        return from_config(CLIPConfig, config.get("config", {})).vision.size
    size: int = read_codec_config(folder).size
    return size


def open_encoder(folder: Path, device: torch.device) -> Codec | CLIPSystem:
    """The encoder in a checkpoint folder."""
    clip = read_config(folder)["kind"] == CLIPSystem.kind
    return CLIPSystem.from_checkpoint(folder, device) if clip else Codec.from_checkpoint(folder, device)


def load_encoder(name: str | Path, device: str | torch.device | None = None) -> Codec | CLIPSystem:
    """Opens an encoder, a checkpoint of its own or the codec of a system, by the names that `pinxit.load` takes."""
    found = catalogue.find(name)
    folder, kind = found.folder, read_config(found.folder)["kind"]
    if kind not in {*NETWORKS, CLIPSystem.kind}:
        codecs = [path for path in catalogue.parts(folder) if read_config(path)["kind"] in NETWORKS]
        if not codecs:
            raise PinxitError(f"{found.name} is of kind {kind} and has no codec in it. Give a model that has one.")
        folder = codecs[0]
    encoder = open_encoder(folder, choose_device(device))
    encoder.name = found.name
    return encoder
