"""The networks that tell how alike pictures look, and which one answers where none is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import load_network, read_config
from pinxit.models.perceptual import LPIPS, CLIPDistance
from pinxit.systems.clip import CLIPSystem, load_clip


@dataclass(frozen=True)
class Eye:
    """What looks at pictures, on the CPU and frozen."""

    name: str
    """What a person is told of it."""
    distance: nn.Module
    """How far apart two pictures of a batch look: b 3 h w in [-1, 1], twice -> b."""
    clip: CLIPSystem
    """What gives whole pictures their features."""


def load_eye(name: str | Path | None = None) -> Eye:
    """LPIPS, or a CLIP by itself or inside a system; the CLIP of the shipped model where none is named.

    LPIPS has no features of whole pictures; those are then the shipped model's.
    """
    found = catalogue.find(name or catalogue.DEFAULT)
    if read_config(found.folder)["kind"] == "lpips":
        lpips = LPIPS().eval().requires_grad_(False)
        load_network(found.folder, "lpips", lpips)
        return Eye(f"LPIPS ({found.name})", lpips, load_clip(catalogue.DEFAULT, "cpu"))
    clip = load_clip(found.folder, "cpu")
    return Eye(f"the CLIP of {found.name}", CLIPDistance(clip.clip.vision, clip.clip.mean, clip.clip.std), clip)
