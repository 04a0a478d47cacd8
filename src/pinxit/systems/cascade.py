"""Pictures by a network that draws small ones and others that enlarge them, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pinxit.data.images import LIMITS, fit, opaque, to_pil, to_tensor
from pinxit.diffusion.process import roughened
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning
from pinxit.progress import Progress
from pinxit.systems.masking import composed, masked
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer, Score, noise_of
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import Painter, in_half, painted
from pinxit.systems.system import Settings, System, check

LOW_LEVEL = 0.05
"""How noisy a network that has learnt to enlarge noisy pictures is shown those drawn before: what they have of faults
hides in as much."""

MARGIN = 4
"""Pixels by which a small picture goes on beyond its border, as it ends there, while it is enlarged: a convolution
knows nothing of what lies outside, and leaves specks."""

Shown = tuple[Image.Image, Image.Image]
"""A picture, and a mask that is white where it is to be painted."""


class Cascade:
    """A base, and what enlarges its pictures, smallest first."""

    def __init__(self, base: NoiseDrawer, *larger: NoiseDrawer) -> None:
        if base.config.low:
            raise PinxitError(f"The base enlarges pictures of {base.config.low} pixels: it draws none.")
        for before, after in pairwise((base, *larger)):
            if after.config.low != before.size and after.config.local:
                after.suit(before.size)
            if after.config.low != before.size:
                raise PinxitError(
                    f"What enlarges pictures of {after.config.low} pixels cannot follow what draws {before.size}. Give "
                    f"one that enlarges {before.size}."
                )
        self.base, self.larger = base, larger

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return (self.base, *self.larger)[-1].size

    def up_to(self, size: tuple[int, int] | None) -> Cascade:
        """The part of it that draws pictures of a width and height; all where nothing is said of that.

        Raises PinxitError for other sizes than those of its networks.
        """
        if size is None:
            return self
        sides = [drawer.size for drawer in (self.base, *self.larger)]
        if size[0] != size[1] or size[0] not in sides:
            told = ", ".join(f"{side}x{side}" for side in sides)
            raise PinxitError(f"This model draws {told}, not {size[0]}x{size[1]}.")
        return Cascade(self.base, *self.larger[: sides.index(size[0])])

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """All networks."""
        for drawer in (self.base, *self.larger):
            drawer.quicken(bf16=bf16, compile=compile)

    def draw(
        self,
        asked: Conditioning,
        seeds: Sequence[int],
        how: Drawing,
        *,
        away: Conditioning | None = None,
        score: Callable[[int, int], Score] | None = None,
        shown: Shown | None = None,
        noise: Tensor | None = None,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Pixels b 3 h w in [-1, 1] for what is asked of each and its seed, the base's as `NoiseDrawer.draw` has them.

        The base starts from `noise` where that is given. `steps` are those of each network that enlarges, which is not
        guided.
        """
        told = shares(progress, 1 + len(self.larger))
        pixels = self.base.draw(
            showing(self.base, asked, shown, len(seeds)),
            seeds,
            how,
            away=away,
            score=score,
            start_from=noise,
            progress=told(0),
        )
        for part, drawer in enumerate(self.larger, 1):
            pixels = enlarged(drawer, asked, pixels, seeds, part, shown=shown, steps=steps, progress=told(part))
        return pixels


class Cascading(Painter, Protocol):
    """A system whose pictures a cascade draws."""

    cascade: Cascade


def edited(
    system: Cascading,
    image: Image.Image,
    mask: Image.Image,
    prompt: str,
    n: int,
    seed: int,
    settings: Settings,
    progress: Progress | None,
) -> list[Picture]:
    """A picture, painted anew where the mask is white; all else stays as it was, to the pixel."""
    cascade = system.cascade.up_to(system.resolve(n, seed, settings).get("size"))
    if cascade.base.repaints:
        if settings.get("sampler") not in (None, "ddpm"):
            raise PinxitError(
                f"sampler={settings['sampler']}: this model paints parts by RePaint, which walks by ddpm. Leave it out."
            )
        settings = Settings(**{**settings, "sampler": "ddpm"})
    before, white = masked(image, mask, cascade.size)
    made = painted(system, prompt, n, seed, settings, progress, bf16=cascade.base.bf16, shown=(before, white))
    return [composed(picture, before, white) for picture in made]


def upsampled(
    system: System,
    cascade: Cascade,
    image: Image.Image,
    asked: Conditioning,
    prompt: str,
    seed: int,
    *,
    steps: int | None,
    progress: Progress | None,
) -> Picture:
    """A picture of any size, enlarged by the network that has learnt of pictures nearest to it in size, and on.

    Raises PinxitError where nothing enlarges, for settings out of range and for what would be too large.
    """
    lows = [drawer.config.low or 1 for drawer in cascade.larger]
    if not lows:
        raise PinxitError(f"{system.name or system.kind} has no network that enlarges.")
    check(1, seed, Settings(upsample_steps=steps))
    steps = steps or system.defaults.get("upsample_steps")
    first = min(range(len(lows)), key=lambda part: abs(math.log(min(image.size) / lows[part])))
    scales = [drawer.size // low for drawer, low in zip(cascade.larger, lows, strict=True)][first:]
    width, height = (math.prod(scales) * side for side in image.size)
    if width * height > LIMITS.pixels:
        raise PinxitError(f"The picture would have {width}x{height} pixels; at most {LIMITS.pixels:,} can be made.")
    told = shares(progress, len(scales))
    pixels = to_tensor(opaque(image))[None]
    for step, (scale, drawer) in enumerate(zip(scales, cascade.larger[first:], strict=True)):
        high, wide = pixels.shape[2:]
        factor = drawer.config.unet.factor
        pad = factor // math.gcd(factor, scale)
        margin = MARGIN if drawer.config.local else 0
        right, below = (margin + -(side + 2 * margin) % pad for side in (wide, high))
        pixels = F.pad(pixels, (margin, right, margin, below), "replicate")
        pixels = enlarged(drawer, asked, pixels, [seed], 1 + first + step, steps=steps, progress=told(step))
        start = scale * margin
        pixels = pixels[..., start : start + scale * high, start : start + scale * wide]
    kept = {"upsampled": list(image.size)} | ({"upsample_steps": steps} if steps else {})
    return Picture(to_pil(pixels[0]), prompt, seed, system.name, in_half(Settings(**kept), cascade.base.bf16))  # type: ignore[typeddict-item]


def shares(progress: Progress | None, parts: int) -> Callable[[int], Progress | None]:
    """The progress of each part of the work, all as long."""
    return lambda part: progress and (lambda done, total: progress(part * total + done, parts * total))


def enlarged(
    drawer: NoiseDrawer,
    asked: Conditioning,
    low: Tensor,
    seeds: Sequence[int],
    part: int,
    *,
    shown: Shown | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures b 3 h w by the network that is `part` of a cascade, from smaller ones.

    One that is shown those noisy is held to them as they are: left to itself it adds detail as it should, and turns
    colours that it has not learnt from into those that it has.
    """
    return drawer.draw(
        showing(drawer, enlarging(drawer, asked, low, seeds, 2 * part), shown, len(seeds)),
        seeds,
        drawer.enlarging._replace(steps=steps) if steps else drawer.enlarging,
        stream=2 * part - 1,
        small=low if drawer.config.low_noise else None,
        progress=progress,
    )


def showing(drawer: NoiseDrawer, asked: Conditioning, shown: Shown | None, rows: int) -> Conditioning:
    """With a part of a picture, at the size of a network."""
    if shown is None:
        return asked
    before, white = (fit(one, drawer.size) for one in (shown[0], shown[1].convert("RGB")))
    mask = torch.from_numpy((np.asarray(white)[None, ..., 0] == 0).astype(np.float32))
    return replace(asked, known=to_tensor(before).expand(rows, -1, -1, -1), mask=mask[None].expand(rows, -1, -1, -1))


def enlarging(drawer: NoiseDrawer, asked: Conditioning, low: Tensor, seeds: Sequence[int], stream: int) -> Conditioning:
    """What one is asked that enlarges b small pictures: these, as noisy as it wants them, and what else it knows."""
    config = drawer.config
    wanted = Conditioning(
        labels=asked.labels if config.classes else None,
        ids=asked.ids if config.text else None,
        embedding=asked.embedding if config.embedding else None,
        low=low,
    )
    if not config.low_noise:
        return wanted
    levels = torch.full((len(low),), min(LOW_LEVEL, config.low_noise))
    return replace(wanted, low=roughened(low, noise_of(seeds, stream, low.device)(low), levels), low_level=levels)
