"""The systems that draw tokens: a network paints codes, a codec turns them into pixels, CLIP chooses the best.

- `dalle1`: after a text, by a dVAE (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation").
- `taming`: after a text, a class, an embedding of CLIP's or nothing, by a VQGAN (Esser et al. 2021, "Taming
  Transformers for High-Resolution Image Synthesis").
- `igpt`: after nothing, by a palette (Chen et al. 2020, "Generative Pretraining from Pixels").
- `pixelcnn`: after a text or a class, by a VQ-VAE of one level or two (van den Oord et al. 2017; Razavi et al. 2019).
- `maskgit`: as `taming`, but all at once in a few steps, and parts anew (Chang et al. 2022, "MaskGIT").
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

from pinxit.checkpoints.catalogue import part
from pinxit.checkpoints.files import read_config
from pinxit.errors import PinxitError
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.conditions import Condition, EmbeddingCondition, TextCondition, ViewCondition, read_condition
from pinxit.systems.masking import composed, masked
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import best, check_wish, in_half
from pinxit.systems.system import KINDS, Settings, System, read_defaults
from pinxit.systems.token_drawing import Prior, TokenDrawer, defaults_of

PARTS = {
    "dalle1": ("dvae", "transformer"),
    "taming": ("codec", "transformer"),
    "igpt": ("codec", "transformer"),
    "maskgit": ("codec", "transformer"),
    "pixelcnn": ("codec", "prior"),
}
"""The kinds, and the folders of their codec and of their network over codes."""


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
        if (config.image_vocabulary, config.shape) != (codec.codes, codec.shape):
            raise PinxitError(
                f"The {PARTS[kind][1]} paints {config.shape} of {config.image_vocabulary} codes, but the {codec.kind} "
                f"has {codec.shape} of {codec.codes}. They must be trained together."
            )
        if (kind == "maskgit") != (config.order == "masked"):
            raise PinxitError(f"The transformer of this {kind} has learnt order={config.order}, which is another's.")
        self.kind = kind  # type: ignore[misc]
        self.device = codec.device
        self.codec, self.drawer, self.condition, self.clip = codec, drawer, condition, clip
        self.defaults = Settings(**{**defaults_of(config.order), **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: the two of `PARTS` and, if it is there, `clip/`."""
        config = read_config(folder)
        first, prior = (part(folder, name) for name in PARTS[config["kind"]])
        codec = Codec.from_checkpoint(first, device)
        drawer = TokenDrawer.from_checkpoint(prior, device)
        chooses = part(folder, "clip")
        clip = CLIPSystem.from_checkpoint(chooses, device) if chooses.exists() else None
        return cls(
            config["kind"],
            codec,
            drawer,
            read_condition(prior, drawer.network.config, codec, clip),
            clip,
            read_defaults(folder, config.get("defaults") or {}, defaults_of(drawer.network.config.order)),
        )

    @classmethod
    def takes(cls, kind: str) -> Settings:
        """Steps too, where codes are drawn in any order."""
        return defaults_of("masked" if kind == "maskgit" else "raster")

    @property
    def prior(self) -> Prior:
        """The network that paints."""
        return self.drawer.network

    @property
    def reads_texts(self) -> bool:
        """Whether its prompts are captions, rather than classes or nothing."""
        return isinstance(self.condition, TextCondition | EmbeddingCondition)

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """The codec and the network over codes; CLIP, which passes a picture once, stays as it is."""
        self.codec.quicken(bf16=bf16, compile=compile)
        self.drawer.quicken(bf16=bf16, compile=compile)

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Paints all codes after the prompt: a text, the name of a class, or "" where it knows pictures alone.

        A `size` that is larger than the trained one is painted by a window that slides over it.
        """
        return self._make(prompt, n, seed, settings, progress)

    def translate(
        self,
        image: Image.Image,
        n: int = 4,
        *,
        as_it_is: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """Paints pictures that have the picture's edges, low resolution or lower half (Esser et al. 2021, section 4.1).

        Which of these, the model has learnt. `as_it_is`: the picture is such a view, a drawing of edges say.
        """
        if "translate" not in KINDS[self.kind].can:
            raise self.lacks("translate")
        if not isinstance(self.condition, ViewCondition):
            raise PinxitError(f"{self.name or 'This model'} draws for prompts, not from pictures. Use `generate`.")
        condition = self.condition.of(image, as_it_is=as_it_is)
        pictures = self._make("", n, seed, settings, progress, condition=condition)
        return [replace(picture, settings={**picture.settings, "as_it_is": as_it_is}) for picture in pictures]

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
        sides = self.codec.autoencoder.grids
        rows = sides[0]
        kept = rows // 2 if keep_rows is None else keep_rows
        if not 0 <= kept <= rows:
            raise PinxitError(f"{kept} rows cannot be kept: the picture has {rows} rows of codes.")
        known = torch.cat([torch.arange(side**2) < kept * side * (side // rows) for side in sides])
        codes = self.codec.encode(image).flatten(1)
        pictures = self._make(prompt, n, seed, settings, progress, given=codes, known=known)
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
        size, (rows, columns) = self.codec.size, self.codec.grid
        before, white = masked(image, mask, size)
        cells = torch.from_numpy(np.asarray(white) > 0)
        touched = cells.view(rows, size // rows, columns, size // columns).any(3).any(1).flatten()
        codes = self.codec.encode(before).flatten(1)
        made = self._make(prompt, n, seed, settings, progress, given=codes, known=~touched)
        return [composed(picture, before, white) for picture in made]

    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pictures -> codes, int64 b h w."""
        return self.codec.encode(images)

    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes b h w -> pictures."""
        return self.codec.decode(codes)

    def reconstruct(self, images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures -> the same through the codec."""
        return self.codec.reconstruct(images)

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, progress: Progress | None = None
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings."""
        return self.decode(self.sample(prompts, seeds, settings, progress))

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, progress: Progress | None = None
    ) -> Tensor:
        """Its codes, int64 b *shape."""
        return self._sample(self.condition(prompts), seeds, settings, progress)

    def _sample(
        self,
        conditions: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        progress: Progress | None,
        given: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        return self.drawer.draw(
            conditions,
            seeds,
            settings,
            away=self.condition([settings.get("negative") or ""]),
            shape=self._shape_of(settings.get("size")),
            given=given,
            known=known,
            progress=progress,
        )

    def _shape_of(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """Of the codes of a picture of width and height in pixels."""
        if size is None:
            return self.codec.shape
        if len(self.codec.shape) != 2:
            raise PinxitError(f"size is fixed for codes of several grids, which {self.name or 'this model'} draws.")
        pixels = self.codec.size // self.codec.grid[0]
        if min(size) < self.codec.size or any(side % pixels for side in size):
            raise PinxitError(
                f"size is {size[0]}x{size[1]}; give at least {self.codec.size}x{self.codec.size}, in steps of {pixels}."
            )
        return size[1] // pixels, size[0] // pixels

    def _make(
        self,
        prompt: str,
        n: int,
        seed: int,
        settings: Settings,
        progress: Progress | None,
        *,
        condition: Tensor | None = None,
        given: Tensor | None = None,
        known: Tensor | None = None,
    ) -> list[Picture]:
        """The n best of as many candidates as the settings ask for, best first."""
        chosen = self.resolve(n, seed, settings)
        if chosen["size"] and (given is not None or condition is not None):
            raise PinxitError("`size` goes with pictures that are drawn from a prompt alone. Leave it out.")
        check_wish(self.name, settings, chosen, self.clip)
        seeds = range(seed, seed + (chosen["rerank"] or n))
        condition = self.condition([prompt]) if condition is None else condition
        codes = self._sample(condition.expand(len(seeds), -1), seeds, chosen, progress, given, known)
        images, told = self.codec.decode(codes), in_half(chosen, self.codec.bf16)
        return best(images, prompt, seeds, n, name=self.name, settings=told, clip=self.clip)
