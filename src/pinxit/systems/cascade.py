"""Pictures by a network that draws small ones and others that enlarge them, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pinxit.data.images import fit, to_tensor
from pinxit.diffusion.process import roughened
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Asked
from pinxit.progress import Progress
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer, Score, noise_of

LOW_LEVEL = 0.1
"""How noisy a network that has learnt to enlarge noisy pictures is shown those drawn before: what they have of faults
hides in as much."""

Shown = tuple[Image.Image, Image.Image]
"""A picture, and a mask that is white where it is to be painted."""


class Cascade:
    """A base, and what enlarges its pictures, smallest first."""

    def __init__(self, base: NoiseDrawer, *larger: NoiseDrawer) -> None:
        if base.config.low:
            raise PinxitError(f"The base enlarges pictures of {base.config.low} pixels: it draws none.")
        for before, after in pairwise((base, *larger)):
            if after.config.low != before.size:
                raise PinxitError(
                    f"What enlarges pictures of {after.config.low} pixels cannot follow what draws {before.size}. They "
                    "must fit."
                )
        self.base, self.larger = base, larger

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return (self.base, *self.larger)[-1].size

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """All networks."""
        for drawer in (self.base, *self.larger):
            drawer.quicken(bf16=bf16, compile=compile)

    def draw(
        self,
        asked: Asked,
        seeds: Sequence[int],
        how: Drawing,
        *,
        away: Asked | None = None,
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
        parts = 1 + len(self.larger)

        def told(part: int) -> Progress | None:
            return progress and (lambda done, total: progress(part * total + done, parts * total))

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
            wanted = enlarging(drawer, asked, pixels, seeds, 2 * part)
            pixels = drawer.draw(
                showing(drawer, wanted, shown, len(seeds)),
                seeds,
                drawer.enlarging._replace(steps=steps) if steps else drawer.enlarging,
                stream=2 * part - 1,
                progress=told(part),
            )
        return pixels


def showing(drawer: NoiseDrawer, asked: Asked, shown: Shown | None, rows: int) -> Asked:
    """With a part of a picture, at the size of a network."""
    if shown is None:
        return asked
    before, white = (fit(one, drawer.size) for one in (shown[0], shown[1].convert("RGB")))
    mask = torch.from_numpy((np.asarray(white)[None, ..., 0] == 0).astype(np.float32))
    return replace(asked, known=to_tensor(before).expand(rows, -1, -1, -1), mask=mask[None].expand(rows, -1, -1, -1))


def enlarging(drawer: NoiseDrawer, asked: Asked, low: Tensor, seeds: Sequence[int], stream: int) -> Asked:
    """What one is asked that enlarges b small pictures: these, as noisy as it wants them, and what else it knows."""
    config = drawer.config
    wanted = Asked(
        labels=asked.labels if config.classes else None,
        ids=asked.ids if config.text else None,
        embedding=asked.embedding if config.embedding else None,
        low=low,
    )
    if not config.low_noise:
        return wanted
    levels = torch.full((len(low),), LOW_LEVEL)
    return replace(wanted, low=roughened(low, noise_of(seeds, stream, low.device)(low), levels), low_level=levels)
