"""More candidates than are kept, and CLIP to choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from pinxit.errors import PinxitError
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.picture import Picture
from pinxit.systems.system import Settings


def check_wish(name: str, asked: Settings, chosen: Settings, clip: CLIPSystem | None) -> None:
    """Raises PinxitError for what leads to nothing: reranking without CLIP, and what is asked of guidance without it.

    `chosen` are what is `asked` and the defaults.
    """
    if chosen["rerank"] and clip is None:
        raise PinxitError(f"{name or 'This model'} has no CLIP, so it cannot rerank. Leave --rerank out.")
    if asked.get("negative") and chosen["guidance"] <= 1:
        raise PinxitError(
            f"`negative` is what guidance leads away from, and guidance={chosen['guidance']:g} leads nowhere. Raise "
            "guidance above 1, to 2 say."
        )
    if asked.get("interval") and chosen["guidance"] == 1:
        raise PinxitError(
            "`interval` is where guidance is on, and guidance=1 is none. Raise guidance, to 3 say, or leave it out."
        )


class Painter(Protocol):
    """What draws a picture for each prompt and seed."""

    name: str

    @property
    def clip(self) -> CLIPSystem | None: ...

    def resolve(self, n: int, seed: int, settings: Settings) -> Settings: ...

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, progress: Progress | None = None
    ) -> list[Image.Image]: ...


def painted(
    painter: Painter,
    prompt: str,
    n: int,
    seed: int,
    settings: Settings,
    progress: Progress | None,
    *,
    bf16: bool = False,
    **more: Any,
) -> list[Picture]:
    """The n best of as many candidates as the settings ask for, best first; `more` is what `paint` takes besides."""
    chosen = painter.resolve(n, seed, settings)
    check_wish(painter.name, settings, chosen, painter.clip)
    seeds = range(seed, seed + (chosen["rerank"] or n))
    images = painter.paint([prompt] * len(seeds), seeds, chosen, progress, **more)
    return best(images, prompt, seeds, n, name=painter.name, settings=in_half(chosen, bf16), clip=painter.clip)


def in_half(settings: Settings, bf16: bool) -> Settings:
    """Settings as a picture keeps them, which tell that it was drawn in bfloat16."""
    return Settings(**{**settings, "bf16": True}) if bf16 else settings  # type: ignore[typeddict-unknown-key]


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
