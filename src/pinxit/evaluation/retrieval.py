"""Does CLIP find the caption of a picture among all captions, and the picture of a caption among all pictures?

Recall at k, as Radford et al. 2021 report it in section 3.1.4 and table 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pinxit.systems.clip import CLIPSystem

AT = (1, 5)


@dataclass(frozen=True)
class Retrieval:
    """Recall by k, in both directions, and among how many."""

    text_of_image: dict[int, float]
    image_of_text: dict[int, float]
    pictures: int
    texts: int
    """Different captions."""

    def table(self) -> str:
        """A line for each direction."""

        def told(recall: dict[int, float]) -> str:
            return ", ".join(f"recall@{k} {share:.1%}" for k, share in recall.items())

        return (
            f"the caption of a picture: {told(self.text_of_image)}, among {self.texts} captions\n"
            f"the picture of a caption: {told(self.image_of_text)}, among {self.pictures} pictures"
        )


def retrieval(clip: CLIPSystem, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Retrieval:
    """Recall over pictures with one caption each. Pictures that share a caption are all right answers to it."""
    texts = list(dict.fromkeys(captions))
    place = {text: i for i, text in enumerate(texts)}
    cosines = clip.encode_image(pictures) @ clip.encode_text(texts).T  # b t
    belongs = torch.zeros_like(cosines, dtype=torch.bool)
    belongs[torch.arange(len(captions)), torch.tensor([place[caption] for caption in captions])] = True
    return Retrieval(_recall(cosines, belongs), _recall(cosines.T, belongs.T), len(pictures), len(texts))


def _recall(cosines: Tensor, belongs: Tensor) -> dict[int, float]:
    """The share of rows of which one of the k best columns belongs to it; columns that tie count against it."""
    best = cosines.masked_fill(~belongs, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((cosines >= best) & ~belongs).sum(dim=1)
    return {k: (ahead < k).double().mean().item() for k in AT}
