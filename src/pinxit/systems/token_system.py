"""The systems that draw tokens: a transformer paints codes, a codec turns them into pixels, CLIP chooses the best.

- `dalle1`: after a text, by a dVAE (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation").
- `taming`: after a text, a class, an embedding of CLIP's or nothing, by a VQGAN (Esser et al. 2021, "Taming
  Transformers for High-Resolution Image Synthesis").
- `igpt`: after nothing, by a palette (Chen et al. 2020, "Generative Pretraining from Pixels").
- `maskgit`: the same all at once in a few steps, and parts anew (Chang et al. 2022, "MaskGIT").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pinxit.checkpoints.files import read_config
from pinxit.data.images import fit, opaque
from pinxit.errors import PinxitError
from pinxit.models.token_transformer import TokenTransformer
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.conditions import Condition, read_condition
from pinxit.systems.picture import Picture
from pinxit.systems.system import KINDS, Settings, System
from pinxit.systems.token_drawing import TokenDrawer, defaults_of, read_defaults

CODEC_PART = {"dalle1": "dvae", "taming": "codec", "igpt": "codec", "maskgit": "codec"}
"""The kinds, and the name of their codec's folder."""


class TokenSystem(System):
    """The parts at work together. Without CLIP nothing can be reranked; the rest works."""

    kind = "tokens"
    """Of the class; every one that is opened has that of its checkpoint."""

    def __init__(
        self,
        kind: str,
        codec: Codec,
        drawer: TokenDrawer,
        condition: Condition,
        clip: CLIPSystem | None = None,
        defaults: Settings | None = None,
    ) -> None:
        config = drawer.network.config
        if (config.image_vocabulary, config.grid) != (codec.codes, codec.shape):
            raise PinxitError(
                f"The transformer paints {config.grid} of {config.image_vocabulary} codes, but the {codec.kind} has "
                f"{codec.shape} of {codec.codes}. They must be trained together."
            )
        if (kind == "maskgit") != (config.order == "masked"):
            raise PinxitError(f"The transformer of this {kind} has learnt order={config.order}, which is another's.")
        self.kind = kind  # type: ignore[misc]
        self.device = codec.device
        self.codec, self.drawer, self.condition, self.clip = codec, drawer, condition, clip
        self.defaults = Settings(**{**defaults_of(config), **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: the codec, `transformer/` and, if it is there, `clip/`."""
        config = read_config(folder)
        drawer = TokenDrawer.from_checkpoint(folder / "transformer", device)
        clip = CLIPSystem.from_checkpoint(folder / "clip", device) if (folder / "clip").exists() else None
        return cls(
            config["kind"],
            Codec.from_checkpoint(folder / CODEC_PART[config["kind"]], device),
            drawer,
            read_condition(folder / "transformer", drawer.network.config, clip),
            clip,
            read_defaults(folder, config.get("defaults") or {}, defaults_of(drawer.network.config)),
        )

    @property
    def transformer(self) -> TokenTransformer:
        """The network that paints."""
        return self.drawer.network

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Paints all codes after the prompt: a text, the name of a class, or "" where it knows pictures alone."""
        return self._paint(prompt, n, seed, settings, None, None, progress)

    def complete(
        self,
        image: Image.Image,
        prompt: str,
        n: int = 4,
        *,
        keep_rows: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """Keeps the codes of the picture's first rows and paints the rest (Ramesh et al. 2021, figure 2)."""
        rows = self.codec.grid[0]
        kept = rows // 2 if keep_rows is None else keep_rows
        if not 0 <= kept <= rows:
            raise PinxitError(f"{kept} rows cannot be kept: the picture has {rows} rows of codes.")
        given = self.codec.encode(image)[:, :kept].flatten(1)
        pictures = self._paint(prompt, n, seed, settings, given, None, progress)
        return [replace(picture, settings={**picture.settings, "keep_rows": kept}) for picture in pictures]

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
        """Paints anew where the mask is white, seeing all the rest (Chang et al. 2022, section 4.2).

        What the mask leaves black stays as it was, to the pixel. Codes that it touches at all are painted anew.
        """
        if "edit" not in KINDS[self.kind].can:
            raise self.lacks("edit")
        if mask.size != image.size:
            raise PinxitError(f"The mask has {mask.size} pixels, the picture {image.size}. Give one of the same size.")
        size, (rows, columns) = self.codec.size, self.codec.grid
        before = fit(opaque(image), size)
        white = fit(mask.convert("L").convert("RGB"), size).convert("L").point(lambda value: 255 * (value >= 128))
        cells = torch.from_numpy(np.asarray(white) > 0)
        touched = cells.view(rows, size // rows, columns, size // columns).any(3).any(1).flatten()
        if not touched.any():
            raise PinxitError("The mask is black all over, so there is nothing to paint. Make white what is to change.")
        made = self._paint(prompt, n, seed, settings, self.codec.encode(before).flatten(1), ~touched, progress)
        return [replace(picture, image=Image.composite(picture.image, before, white)) for picture in made]

    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pictures -> codes, int64 b h w."""
        return self.codec.encode(images)

    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes b h w -> pictures."""
        return self.codec.decode(codes)

    def reconstruct(self, images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures -> the same through the codec."""
        return self.codec.reconstruct(images)

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        given: Tensor | None = None,
        known: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One grid of codes a prompt and seed, int64 b h w; `given` and `known` as in `TokenDrawer.draw`."""
        away = self.condition([settings.get("negative") or ""])
        return self.drawer.draw(
            self.condition(prompts), seeds, settings, away=away, given=given, known=known, progress=progress
        )

    def _paint(
        self,
        prompt: str,
        n: int,
        seed: int,
        settings: Settings,
        given: Tensor | None,
        known: Tensor | None,
        progress: Progress | None,
    ) -> list[Picture]:
        """The n best of as many candidates as the settings ask for, best first."""
        chosen = self.resolve(n, seed, settings)
        if chosen["rerank"] and self.clip is None:
            raise PinxitError(f"{self.name or 'This model'} has no CLIP, so it cannot rerank. Leave --rerank out.")
        if chosen["negative"] and chosen["guidance"] <= 1:
            raise PinxitError(
                f"`negative` is what guidance leads away from, which one of {chosen['guidance']:g} does not. Raise it "
                "above 1, to 2 say."
            )
        seeds = range(seed, seed + (chosen["rerank"] or n))
        images = self.codec.decode(self.sample([prompt] * len(seeds), seeds, chosen, given, known, progress))
        scores: list[float | None] = [None] * len(images)
        if chosen["rerank"] and self.clip is not None:
            scores = list(self.clip.score(images, prompt).flatten().tolist())
        kept = {name: value for name, value in chosen.items() if value is not None}
        pictures = [
            Picture(image, prompt, s, self.name, kept, score)
            for image, s, score in zip(images, seeds, scores, strict=True)
        ]
        return sorted(pictures, key=lambda picture: -(picture.score or 0.0))[:n]
