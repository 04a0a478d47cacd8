"""More candidates than are kept, and CLIP to choose among them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pinxit.errors import PinxitError
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.picture import Picture
from pinxit.systems.system import Settings


def check_wish(name: str, settings: Settings, clip: CLIPSystem | None) -> None:
    """Raises PinxitError for settings that lead to nothing: reranking without CLIP, leading away without guidance."""
    if settings["rerank"] and clip is None:
        raise PinxitError(f"{name or 'This model'} has no CLIP, so it cannot rerank. Leave --rerank out.")
    if settings.get("negative") and settings["guidance"] <= 1:
        raise PinxitError(
            f"`negative` is what guidance leads away from, which one of {settings['guidance']:g} does not. Raise it "
            "above 1, to 2 say."
        )


def best(
    images: Sequence[Image.Image],
    prompt: str,
    seeds: Sequence[int],
    n: int,
    *,
    name: str,
    settings: Settings,
    clip: CLIPSystem | None,
) -> list[Picture]:
    """The n that CLIP likes best, best first; all in their order where nothing is asked of it."""
    scores: list[float | None] = [None] * len(images)
    if settings["rerank"] and clip is not None:
        scores = list(clip.score(images, prompt).flatten().tolist())
    kept = {key: value for key, value in settings.items() if value is not None}
    pictures = [
        Picture(image, prompt, seed, name, kept, score)
        for image, seed, score in zip(images, seeds, scores, strict=True)
    ]
    return sorted(pictures, key=lambda picture: -(picture.score or 0.0))[:n]
