"""What every system answers alike that draws by a cascade of denoisers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

from PIL import Image

from pinxit.progress import Progress
from pinxit.systems.cascade import Cascade, Shown
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.masking import edited, masked
from pinxit.systems.picture import Picture
from pinxit.systems.reranking import painted
from pinxit.systems.system import KINDS, Settings, System


class CascadeSystem(System):
    """A cascade and what it is asked by, which each system has its own way to tell."""

    cascade: Cascade
    clip: CLIPSystem | None
    """Of what reranks."""

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return self.cascade.size

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """The denoisers; CLIP and what draws embeddings, which are quick, stay as they are."""
        self.cascade.quicken(bf16=bf16, compile=compile)

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Draws for the prompt: a text, the name of a class, or "" for nothing in particular."""
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
        """Paints anew where the mask is white, at every stage, seeing all the rest; that stays as it was, to the pixel.

        A network that has learnt to be shown a part is (Nichol et al. 2021, section 2.5); others take as many turns
        at each tenth of the way as it needs for both parts to agree (RePaint, Lugmayr et al. 2022).
        """
        if "edit" not in KINDS[self.kind].can:
            raise self.lacks("edit")
        before, white = masked(image, mask, self.size)
        half = self.cascade.base.bf16
        made = painted(self, prompt, n, seed, settings, progress, bf16=half, shown=(before, white))
        return [edited(picture, before, white) for picture in made]

    @abstractmethod
    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        progress: Progress | None = None,
        *,
        shown: Shown | None = None,
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings; `shown` is a part of one, to paint the rest of."""
