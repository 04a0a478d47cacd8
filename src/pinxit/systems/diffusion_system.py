"""The systems that draw from noise, pixel by pixel.

- `ddpm`: pictures like those it has learnt from (Ho et al. 2020; Nichol and Dhariwal 2021).
- `adm`: after a class, or whatever it likes, led by a classifier of noisy pictures where there is one (Dhariwal and
  Nichol 2021).
- `glide`: after a text, led by a CLIP of noisy pictures where there is one, and parts anew (Nichol et al. 2021).

Each may be a cascade: a base network, and one that enlarges what it has drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
from PIL import Image

from pinxit.checkpoints.catalogue import part
from pinxit.checkpoints.files import read_config
from pinxit.data.images import to_pil
from pinxit.diffusion.guidance import ALWAYS
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning
from pinxit.progress import Progress
from pinxit.systems.cascade import Cascade, Shown, edited, upsampled
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import (
    Condition,
    LabelCondition,
    TextCondition,
    check_alike,
    read_word_condition,
)
from pinxit.systems.gradients import CLASSIFIER, CLIP, Judge, read_classes, read_judge
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import painted
from pinxit.systems.system import KINDS, Settings, System, read_defaults

DEFAULTS: Settings = {
    "sampler": "ddpm",
    "steps": 100,
    "guidance": 1.0,
    "negative": None,
    "interval": None,
    "threshold": None,
    "rerank": None,
}
"""What is in force where a checkpoint and the person say nothing."""


class DiffusionSystem(System):
    """A denoiser and its condition; where there are, a denoiser that enlarges and a CLIP that reranks."""

    kind = "diffusion"
    """Of the class; every one that is opened has that of its checkpoint."""

    def __init__(
        self,
        kind: str,
        cascade: Cascade,
        condition: Condition,
        clip: CLIPSystem | None = None,
        judge: Judge | None = None,
        defaults: Settings | None = None,
    ) -> None:
        self.kind = kind  # type: ignore[misc]
        self.device = cascade.base.device
        self.cascade, self.condition, self.clip, self.judge = cascade, condition, clip, judge
        known = defaults_of(reads=cascade.base.reads, upsampler=bool(cascade.larger), judge=judge is not None)
        self.defaults = Settings(**{**known, **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: `base/` and, if there are, those that enlarge, rerank and lead."""
        config = read_config(folder)
        first = part(folder, "base")
        base = NoiseDrawer.from_checkpoint(first, device)
        condition = read_word_condition(first, base.config.text, base.config.classes)
        if not base.reads:
            condition = read_classes(folder) or condition
        upsampler, clip = part(folder, "upsampler"), part(folder, "clip")
        judge = read_judge(folder, base.config, condition, device)
        known = defaults_of(reads=base.reads, upsampler=upsampler.exists(), judge=judge is not None)
        larger = [NoiseDrawer.from_checkpoint(upsampler, device)] if upsampler.exists() else []
        for drawer in larger:
            check_alike(upsampler, drawer.config.text, drawer.config.classes, condition)
        return cls(
            config["kind"],
            Cascade(base, *larger),
            condition,
            CLIPSystem.from_checkpoint(clip, device) if clip.exists() else None,
            judge,
            read_defaults(folder, config.get("defaults") or {}, known),
        )

    def resolve(self, n: int, seed: int, settings: Settings) -> Settings:
        """As all systems do, once there is what leads, where something should."""
        if settings.get("gradient_guidance") and self.judge is None and "gradient_guidance" in self.takes(self.kind):
            recipe, folder = ("noised-clip", CLIP) if self.reads_texts else ("adm-classifier", CLASSIFIER)
            raise PinxitError(
                f"{self.name or self.kind} has nothing to judge noisy pictures by, whose gradient could lead it. Train "
                f"the recipe {recipe}, and copy the `model` folder of that run to {folder}, beside this model's base."
            )
        return super().resolve(n, seed, settings)

    @classmethod
    def takes(cls, kind: str) -> Settings:
        """Those of upsampling and of gradients too."""
        return defaults_of(reads=kind != "ddpm", upsampler=True, judge=kind != "ddpm")

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return self.cascade.size

    @property
    def reads_texts(self) -> bool:
        """Whether its prompts are captions, rather than classes or nothing."""
        return isinstance(self.condition, TextCondition)

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """The denoisers; CLIP, which passes a picture once, stays as it is."""
        self.cascade.quicken(bf16=bf16, compile=compile)

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Draws for the prompt: a text, the name of a class, or "" where it knows pictures alone."""
        return painted(self, prompt, n, seed, settings, progress, bf16=self.cascade.base.bf16)

    def edit(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str,
        n: int = 4,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """Paints anew where the mask is white, seeing all the rest; that stays as it was, to the pixel.

        A network that has learnt to be shown a part is (Nichol et al. 2021, section 2.5); others take as many turns
        at each tenth of the way as it needs for both parts to agree (RePaint, Lugmayr et al. 2022).
        """
        return edited(self, image, mask, prompt, n, seed, settings, progress)

    def upsample(
        self,
        image: Image.Image,
        prompt: str = "",
        *,
        seed: int = 0,
        upsample_steps: int | None = None,
        progress: Progress | None = None,
    ) -> Picture:
        """Enlarges a picture of any size by the network that enlarges what it draws itself, which may know a prompt."""
        if "upsample" not in KINDS[self.kind].can:
            raise self.lacks("upsample")
        return upsampled(
            self, self.cascade, image, self._asked([prompt]), prompt, seed, steps=upsample_steps, progress=progress
        )

    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        progress: Progress | None = None,
        *,
        shown: Shown | None = None,
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings.

        `shown` is a picture, and a mask that is white where it is to be painted.
        """
        free = isinstance(self.condition, LabelCondition) and not any(prompts)  # of any class, so that none leads
        leads = self.judge is not None and bool(settings.get("gradient_guidance")) and not free
        if isinstance(self.condition, LabelCondition) and not (self.cascade.base.reads or leads or free):
            raise PinxitError(
                f"{self.name or self.kind} draws whatever it likes, and its classifier alone leads to a class. Raise "
                "gradient guidance above 0."
            )
        how = Drawing(
            sampler=settings["sampler"],
            steps=settings["steps"] or DEFAULTS["steps"] or 1,
            guidance=settings.get("guidance", 1.0),
            interval=settings.get("interval") or ALWAYS,
            threshold=settings["threshold"],
            gradient=settings.get("gradient_guidance", 0.0),
        )
        pixels = self.cascade.up_to(settings.get("size")).draw(
            self._asked(prompts),
            seeds,
            how,
            away=self._asked([settings.get("negative") or ""]) if self.cascade.base.reads else None,
            score=self.judge(prompts) if self.judge and leads else None,
            shown=shown,
            steps=settings.get("upsample_steps"),
            progress=progress,
        )
        return [to_pil(picture) for picture in pixels]

    def _asked(self, prompts: Sequence[str]) -> Conditioning:
        """Of the base, for the prompts."""
        told = self.condition(prompts)
        match self.condition:
            case TextCondition():
                return Conditioning(ids=told)
            case LabelCondition():
                return Conditioning(labels=told[:, 0])
            case _:
                return Conditioning()


def defaults_of(*, reads: bool, upsampler: bool, judge: bool) -> Settings:
    """The settings that a system takes, by whether its base reads what is asked, and the parts that it has."""
    known: dict[str, Any] = {**DEFAULTS}
    if upsampler:
        known |= {"upsample_steps": None, "size": None}
    if judge:
        known["gradient_guidance"] = 0.0
    if not reads:
        for name in ("guidance", "negative", "interval"):
            del known[name]
    return cast("Settings", known)
