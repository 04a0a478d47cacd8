"""The palette of iGPT (Chen et al. 2020, section 3.1): k-means over the colours of pixels, no network.

pinxit train palette --data SRC --out runs/palette
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pinxit.checkpoints.files import read_config, save_checkpoint, to_config
from pinxit.data.faults import Faults
from pinxit.data.images import fit, to_tensor
from pinxit.data.sample import BadSample, Pairs
from pinxit.errors import PinxitError
from pinxit.models.palette import Palette, PaletteConfig
from pinxit.nn.quantizers import place
from pinxit.progress import shown
from pinxit.recipes.recipe import Context, DataConfig

PIXELS = 100_000
"""Pixels that the colours are placed by, drawn evenly from the pictures."""


@dataclass(frozen=True)
class PaletteStage:
    """Places the colours."""

    name: str
    summary: str
    model: PaletteConfig
    data: DataConfig
    pictures: int = 2_000
    """At most so many are looked at, spread evenly over all."""
    rounds: int = 30
    """Of k-means."""
    licence: str = "that of the training pictures"

    settings: ClassVar[tuple[str, ...]] = ("model", "data", "pictures", "rounds", "licence")

    def done(self, context: Context) -> bool:
        """Whether `context.out` holds the palette of these pictures and settings."""
        try:
            config = read_config(context.out / "model")
            said = self._said(context, context.pairs(self.data, self.model.size))
        except PinxitError:
            return False
        return {name: config.get(name) for name in said} == said

    def run(self, context: Context) -> None:
        """Looks at the pictures and writes model/."""
        if context.world.leads:
            pairs = context.pairs(self.data, self.model.size)
            palette, generator = Palette(self.model), torch.Generator().manual_seed(0)
            place(palette.colours, self._pixels(pairs, generator), generator, self.rounds)
            said = {"kind": "palette", "config": to_config(self.model), **self._said(context, pairs)}
            card = f"# {self.model.codes} colours\n\nPlaced by pinxit over the pixels of `{context.source}`.\n"
            save_checkpoint(context.out / "model", said, {"palette": palette}, card=card)
        context.world.wait()

    def _pixels(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """m 3, a few from each picture."""
        total = min(self.pictures, len(pairs))
        each = max(1, PIXELS // max(total, 1))
        faults, rows = Faults(), [torch.empty(0, 3)]
        with shown("looking") as progress:
            for i in range(total):
                faults.seen += 1
                try:
                    pixels = to_tensor(fit(pairs[i * len(pairs) // total].image, self.model.size)).flatten(1).t()
                    rows.append(pixels[torch.randint(len(pixels), (each,), generator=generator)])
                except BadSample as fault:
                    faults.add(fault)
                faults.judge()
                progress(i + 1, total)
        if len(rows) == 1:
            raise PinxitError(f"{pairs.name} has no usable sample. `pinxit data check` says why.")
        return torch.cat(rows)

    def _said(self, context: Context, pairs: Pairs) -> dict[str, Any]:
        recipe: dict[str, Any] = {name: to_config(getattr(self, name)) for name in ("model", "data")}
        recipe |= {"pictures": self.pictures, "rounds": self.rounds}
        return {"recipe": recipe, "data": context.describe(pairs), "licence": self.licence}


def palette() -> PaletteStage:
    """512 colours, 9 bits a pixel, as published."""
    return PaletteStage(
        name="palette",
        summary="iGPT's palette: 512 colours by k-means, a code a pixel, no network.",
        model=PaletteConfig(size=32, codes=512),
        data=DataConfig(),
    )


def palette_tiny() -> PaletteStage:
    """32 colours."""
    return PaletteStage(
        name="palette-tiny",
        summary="The recipe palette with 32 colours.",
        model=PaletteConfig(size=16, codes=32),
        data=DataConfig(),
        pictures=200,
        rounds=10,
    )
