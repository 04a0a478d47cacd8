"""A generator at work: pictures in one pass, after a text, a class or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, Unpack

import torch
from PIL import Image

from pinxit.checkpoints.catalogue import part
from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.data.images import to_pil
from pinxit.models.gan import GANConfig, Generator
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import (
    Condition,
    LabelCondition,
    NoCondition,
    TextCondition,
    read_word_condition,
)
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import painted
from pinxit.systems.system import Settings, System, read_defaults

BATCH = 64

DEFAULTS: Settings = {"temperature": 1.0, "rerank": None}
"""`temperature` scales the noise: below 1 pictures are plainer and alike (Brock et al. 2019, truncation)."""


class GANSystem(System):
    """A generator and its condition."""

    kind = "gan"

    def __init__(
        self,
        generator: Generator,
        condition: Condition,
        clip: CLIPSystem | None = None,
        defaults: Settings | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.generator = generator.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.condition, self.clip = condition, clip
        self.defaults = Settings(**{**DEFAULTS, **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: `generator/` and, if it is there, `clip/`."""
        own, clip = part(folder, "generator"), part(folder, "clip")
        config = from_config(GANConfig, read_config(own).get("config", {}))
        generator = Generator(config)
        load_network(own, "generator", generator)
        return cls(
            generator,
            read_word_condition(own, config.text, config.classes),
            CLIPSystem.from_checkpoint(clip, device) if clip.exists() else None,
            read_defaults(folder, read_config(folder).get("defaults") or {}, DEFAULTS),
            device,
        )

    @classmethod
    def takes(cls, kind: str) -> Settings:  # noqa: ARG003
        """The noise's scale, and CLIP's choice."""
        return DEFAULTS

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        config: GANConfig = self.generator.config
        return config.size

    @property
    def reads_texts(self) -> bool:
        """Whether its prompts are captions, rather than classes or nothing."""
        return isinstance(self.condition, TextCondition)

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Draws for the prompt: a text, the name of a class, or "" where it knows pictures alone."""
        return painted(self, prompt, n, seed, settings, progress)

    @torch.inference_mode()
    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, progress: Progress | None = None
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings."""
        told = self.condition(prompts)
        latent, drawn = self.generator.config.latent, []
        for start in range(0, len(seeds), BATCH):
            own = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + BATCH]]
            noise = torch.stack([torch.randn(latent, generator=generator) for generator in own])
            asked = None if isinstance(self.condition, NoCondition) else told[start : start + BATCH].to(self.device)
            if isinstance(self.condition, LabelCondition) and asked is not None:
                asked = asked[:, 0]
            pixels = self.generator(noise.to(self.device) * settings["temperature"], asked)
            drawn += [to_pil(picture) for picture in pixels]
            if progress:
                progress(len(drawn), len(seeds))
        return drawn
