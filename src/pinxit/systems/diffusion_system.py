"""The systems that draw from noise, pixel by pixel.

- `ddpm`: pictures like those it has learnt from (Ho et al. 2020; Nichol and Dhariwal 2021).
- `adm`: after a class, led by a classifier of noisy pictures where there is one (Dhariwal and Nichol 2021).
- `glide`: after a text, led by a CLIP of noisy pictures where there is one, and parts anew (Nichol et al. 2021).

Each may be a cascade: a base network, and one that enlarges what it has drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pinxit.checkpoints.files import read_config
from pinxit.data.images import fit, to_pil, to_tensor
from pinxit.diffusion.guidance import ALWAYS
from pinxit.diffusion.process import roughened
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Asked
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import Condition, LabelCondition, NoCondition, TextCondition, read_word_condition
from pinxit.systems.gradients import Judge, read_judge
from pinxit.systems.masking import edited, masked
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer, noise_of
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import best, check_wish
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

LOW_LEVEL = 0.1
"""How noisy an upsampler that has learnt from noisy pictures is shown those of the base: what it has drawn hides its
faults in as much."""


class DiffusionSystem(System):
    """A denoiser and its condition; where there are, a denoiser that enlarges and a CLIP that reranks."""

    kind = "diffusion"
    """Of the class; every one that is opened has that of its checkpoint."""

    def __init__(
        self,
        kind: str,
        base: NoiseDrawer,
        condition: Condition,
        upsampler: NoiseDrawer | None = None,
        clip: CLIPSystem | None = None,
        judge: Judge | None = None,
        defaults: Settings | None = None,
    ) -> None:
        if base.config.low:
            raise PinxitError(f"The base of this {kind} enlarges pictures of {base.config.low} pixels: it draws none.")
        if upsampler and upsampler.config.low != base.size:
            raise PinxitError(
                f"The upsampler of this {kind} enlarges pictures of {upsampler.config.low} pixels; the base draws "
                f"{base.size}. They must fit."
            )
        self.kind = kind  # type: ignore[misc]
        self.device = base.device
        self.base, self.upsampler, self.condition, self.clip, self.judge = base, upsampler, condition, clip, judge
        known = defaults_of(kind, upsampler=upsampler is not None, judge=judge is not None)
        self.defaults = Settings(**{**known, **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: `base/` and, if there are, those that enlarge, rerank and lead."""
        config = read_config(folder)
        base = NoiseDrawer.from_checkpoint(folder / "base", device)
        condition = read_word_condition(folder / "base", base.config.text, base.config.classes)
        upsampler, clip = folder / "upsampler", folder / "clip"
        judge = read_judge(folder, base.config.process, condition, device)
        known = defaults_of(config["kind"], upsampler=upsampler.exists(), judge=judge is not None)
        return cls(
            config["kind"],
            base,
            condition,
            NoiseDrawer.from_checkpoint(upsampler, device) if upsampler.exists() else None,
            CLIPSystem.from_checkpoint(clip, device) if clip.exists() else None,
            judge,
            read_defaults(folder, config.get("defaults") or {}, known),
        )

    @classmethod
    def takes(cls, kind: str) -> Settings:
        """Those of upsampling and of gradients too."""
        return defaults_of(kind, upsampler=True, judge=kind != "ddpm")

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return (self.upsampler or self.base).size

    @property
    def reads_texts(self) -> bool:
        """Whether its prompts are captions, rather than classes or nothing."""
        return isinstance(self.condition, TextCondition)

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """The denoisers; CLIP, which passes a picture once, stays as it is."""
        for drawer in (self.base, self.upsampler):
            if drawer:
                drawer.quicken(bf16=bf16, compile=compile)

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Draws for the prompt: a text, the name of a class, or "" where it knows pictures alone."""
        return self._make(prompt, n, seed, settings, progress)

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
        if "edit" not in KINDS[self.kind].can:
            raise self.lacks("edit")
        before, white = masked(image, mask, self.size)
        made = self._make(prompt, n, seed, settings, progress, shown=(before, white))
        return [edited(picture, before, white) for picture in made]

    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        progress: Progress | None = None,
        *,
        shown: tuple[Image.Image, Image.Image] | None = None,
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings.

        `shown` is a picture, and a mask that is white where it is to be painted.
        """
        how = Drawing(
            sampler=settings["sampler"],
            steps=settings["steps"] or DEFAULTS["steps"] or 1,
            guidance=settings.get("guidance", 1.0),
            interval=settings.get("interval") or ALWAYS,
            threshold=settings["threshold"],
            gradient=settings.get("gradient_guidance", 0.0),
        )
        words = self._asked(prompts)
        away = None if isinstance(self.condition, NoCondition) else self._asked([settings.get("negative") or ""])
        upsampler = self.upsampler
        parts = 2 if upsampler else 1

        def told(part: int) -> Progress | None:
            return progress and (lambda done, total: progress(part * total + done, parts * total))

        pixels = self.base.draw(
            self._shown(words, self.base, shown, len(prompts)),
            seeds,
            how,
            away=away,
            score=self.judge(prompts) if self.judge and how.gradient else None,
            progress=told(0),
        )
        if upsampler:
            how = Drawing("ddim", settings["upsample_steps"] or upsampler.few_steps, temperature=0.997)
            pixels = upsampler.draw(
                self._shown(self._enlarging(words, pixels, seeds), upsampler, shown, len(prompts)),
                seeds,
                how,
                stream=1,
                progress=told(1),
            )
        return [to_pil(picture) for picture in pixels]

    def _asked(self, prompts: Sequence[str]) -> Asked:
        """Of the base, for the prompts."""
        told = self.condition(prompts)
        match self.condition:
            case TextCondition():
                return Asked(ids=told)
            case LabelCondition():
                return Asked(labels=told[:, 0])
            case _:
                return Asked()

    def _enlarging(self, words: Asked, low: Tensor, seeds: Sequence[int]) -> Asked:
        """Of the upsampler: the same, and the small pictures, with as much noise as it wants them to have."""
        assert self.upsampler
        config = self.upsampler.config
        asked = Asked(labels=words.labels if config.classes else None, ids=words.ids if config.text else None, low=low)
        if not config.low_noise:
            return asked
        levels = torch.full((len(low),), LOW_LEVEL)
        return replace(asked, low=roughened(low, noise_of(seeds, 2, low.device)(low), levels), low_level=levels)

    def _shown(
        self, asked: Asked, drawer: NoiseDrawer, shown: tuple[Image.Image, Image.Image] | None, count: int
    ) -> Asked:
        """With a part of a picture, at the size of a network."""
        if shown is None:
            return asked
        before, white = (fit(one, drawer.size) for one in (shown[0], shown[1].convert("RGB")))
        mask = torch.from_numpy((np.asarray(white)[None, ..., 0] == 0).astype(np.float32))
        return replace(
            asked, known=to_tensor(before).expand(count, -1, -1, -1), mask=mask[None].expand(count, -1, -1, -1)
        )

    def _make(
        self,
        prompt: str,
        n: int,
        seed: int,
        settings: Settings,
        progress: Progress | None,
        *,
        shown: tuple[Image.Image, Image.Image] | None = None,
    ) -> list[Picture]:
        """The n best of as many candidates as the settings ask for, best first."""
        chosen = self.resolve(n, seed, settings)
        check_wish(self.name, chosen, self.clip)
        seeds = range(seed, seed + (chosen["rerank"] or n))
        images = self.paint([prompt] * len(seeds), seeds, chosen, progress, shown=shown)
        if self.base.bf16:
            chosen = chosen | {"bf16": True}  # type: ignore[assignment]
        return best(images, prompt, seeds, n, name=self.name, settings=chosen, clip=self.clip)


def defaults_of(kind: str, *, upsampler: bool, judge: bool) -> Settings:
    """The settings that a kind of system takes, by the parts that it has."""
    known: dict[str, Any] = {**DEFAULTS}
    if upsampler:
        known["upsample_steps"] = None
    if judge:
        known["gradient_guidance"] = 0.0
    if kind == "ddpm":
        for name in ("guidance", "negative", "interval"):
            del known[name]
    return cast("Settings", known)
