"""DALL·E 1: a transformer paints codes after a text, a dVAE turns them into pixels, CLIP chooses the best.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation".
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
from pinxit.errors import PinxitError
from pinxit.models.token_transformer import TokenTransformer
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.picture import Picture
from pinxit.systems.system import Settings, System
from pinxit.systems.token_drawing import DEFAULTS, TokenDrawer, read_defaults
from pinxit.text.captions import clean
from pinxit.text.tokenizer import Tokenizer, pad_per_position


class DALLE1(System):
    """The three parts. Without CLIP nothing can be reranked; the rest works."""

    kind = "dalle1"

    def __init__(
        self,
        codec: Codec,
        drawer: TokenDrawer,
        tokenizer: Tokenizer,
        clip: CLIPSystem | None = None,
        defaults: Settings | None = None,
    ) -> None:
        config = drawer.network.config
        if (config.image_vocabulary, config.grid) != (codec.codes, codec.grid):
            raise PinxitError(
                f"The transformer paints {config.grid} of {config.image_vocabulary} codes, but the dVAE has "
                f"{codec.grid} of {codec.codes}. They must be trained together."
            )
        if config.condition_vocabulary != tokenizer.vocab_size:
            raise PinxitError(
                f"The tokenizer has {tokenizer.vocab_size} ids, the transformer knows {config.condition_vocabulary}."
            )
        self.device = codec.device
        self.codec = codec
        self.drawer = drawer
        self.tokenizer = tokenizer
        self.clip = clip
        self.defaults = Settings(**{**DEFAULTS, **(defaults or {})})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts in `dvae/`, `transformer/` and, if it is there, `clip/`."""
        config = read_config(folder)
        return cls(
            Codec.from_checkpoint(folder / "dvae", device),
            TokenDrawer.from_checkpoint(folder / "transformer", device),
            Tokenizer.load(folder / "transformer" / "tokenizer.json"),
            CLIPSystem.from_checkpoint(folder / "clip", device) if (folder / "clip").exists() else None,
            read_defaults(folder, config.get("defaults") or {}, DEFAULTS),
        )

    @property
    def transformer(self) -> TokenTransformer:
        """The network that paints."""
        return self.drawer.network

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Paints all codes from the text."""
        return self._draw(prompt, n, seed, None, progress, settings)

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
        """Keeps the codes of the picture's first rows and paints the rest (figure 2 of the paper)."""
        rows = self.codec.grid[0]
        kept = rows // 2 if keep_rows is None else keep_rows
        if not 0 <= kept <= rows:
            raise PinxitError(f"{kept} rows cannot be kept: the picture has {rows} rows of codes.")
        pictures = self._draw(prompt, n, seed, self.codec.encode(image)[:, :kept].flatten(1), progress, settings)
        return [replace(picture, settings={**picture.settings, "keep_rows": kept}) for picture in pictures]

    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Pictures -> codes, int64 b h w."""
        return self.codec.encode(images)

    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes b h w -> pictures."""
        return self.codec.decode(codes)

    def reconstruct(self, images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures -> the same through the dVAE."""
        return self.codec.reconstruct(images)

    def _draw(
        self, prompt: str, n: int, seed: int, given: Tensor | None, progress: Progress | None, settings: Settings
    ) -> list[Picture]:
        chosen = self.resolve(n, seed, settings)
        if chosen["rerank"] and self.clip is None:
            raise PinxitError(f"{self.name or 'This model'} has no CLIP, so it cannot rerank. Leave --rerank out.")
        if chosen["negative"] and chosen["guidance"] <= 1:
            raise PinxitError(
                f"`negative` is what guidance leads away from, which one of {chosen['guidance']:g} does not. Raise it "
                "above 1, to 2 say."
            )
        seeds = range(seed, seed + (chosen["rerank"] or n))
        images = self.codec.decode(self.sample([prompt] * len(seeds), seeds, chosen, given, progress))
        scores: list[float | None] = [None] * len(images)
        if chosen["rerank"] and self.clip is not None:
            scores = list(self.clip.score(images, prompt).flatten().tolist())
        kept = {name: value for name, value in chosen.items() if value is not None}
        pictures = [
            Picture(image, prompt, s, self.name, kept, score)
            for image, s, score in zip(images, seeds, scores, strict=True)
        ]
        return sorted(pictures, key=lambda picture: -(picture.score or 0.0))[:n]

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        given: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One grid of codes a prompt and seed, int64 b h w, in batches; `given` 1 m are the first codes of each."""
        text = torch.from_numpy(self.tokenize(prompts))
        away = torch.from_numpy(self.tokenize([settings.get("negative") or ""]))
        return self.drawer.draw(text, seeds, settings, away=away, given=given, progress=progress)

    def tokenize(self, prompts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Texts -> ids b l, each padded with the pads of its positions; longer ones are cut."""
        ids = [self.tokenizer.encode_ids(clean(prompt)) for prompt in prompts]
        return pad_per_position(ids, self.transformer.config.condition_length, self.tokenizer.vocab_size)
