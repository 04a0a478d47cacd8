"""Does a system draw what was asked, and how much better is the best of k candidates, as CLIP chooses it?

For scenes, whose asks `evaluation.following` can judge. All k are read off the same N candidates a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pinxit.data.scene_world import CATEGORIES, Ask
from pinxit.errors import PinxitError
from pinxit.evaluation.following import Following, following, follows
from pinxit.progress import Progress
from pinxit.systems.dalle2 import DALLE2System
from pinxit.systems.diffusion_system import DiffusionSystem
from pinxit.systems.gan import GANSystem
from pinxit.systems.system import Settings
from pinxit.systems.token_system import TokenSystem

APART = 1024
"""Candidate i of prompt j has the seed S + 1024 j + i, whatever N is; so there are at most as many candidates."""

AT_ONCE = 512
"""Candidates that are held in memory."""


Painter = TokenSystem | DiffusionSystem | DALLE2System | GANSystem
"""What draws pictures after prompts."""


@dataclass(frozen=True)
class Drawn:
    """What became of one prompt: CLIP's score of each candidate, None without CLIP, and whether it shows the ask."""

    prompt: str
    ask: Ask
    seed: int
    scores: tuple[float | None, ...]
    right: tuple[bool, ...]

    def best(self, k: int) -> bool:
        """Whether CLIP's favourite among the first k candidates is right."""
        return self.right[max(range(k), key=lambda i: self.scores[i] or 0.0)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        asked = {"prompt": self.prompt, "category": self.ask.category, "seed": self.seed}
        return {**asked, "scores": list(self.scores), "right": list(self.right)}


@dataclass(frozen=True)
class BestOf:
    """Following of real pictures, of their reconstructions, and of what was drawn, for the same asks."""

    real: Following
    reconstructed: Following | None
    """None for a system that draws without a codec."""
    curve: dict[int, Following]
    """By k: of the best of k candidates, as CLIP chooses it."""
    any_of: Following
    """Counts a prompt as right where any candidate is: what a perfect choice would reach."""
    prompts: tuple[Drawn, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "real": self.real.to_json(),
            "reconstructed": self.reconstructed.to_json() if self.reconstructed else None,
            "best_of": {str(k): value.to_json() for k, value in self.curve.items()},
            "any_of": self.any_of.to_json(),
            "prompts": [drawn.to_json() for drawn in self.prompts],
        }

    def table(self) -> str:
        """A line a category, with the overall score last; columns from what could be had to what is drawn."""
        columns = {"real": self.real, **({"codec": self.reconstructed} if self.reconstructed else {})}
        columns |= {f"best of {k}" if k > 1 else "drawn": value for k, value in self.curve.items()}
        if len(self.curve) > 1:
            columns[f"any of {max(self.curve)}"] = self.any_of
        rows = [("", "asked", *columns)]
        for name in self.real.judged:
            rows.append((name, str(self.real.judged[name]), *(f"{c.share(name):.1%}" for c in columns.values())))
        total = sum(self.real.judged.values())
        rows.append(("overall", str(total), *(f"{c.overall:.1%}" for c in columns.values())))
        return "\n".join(f"{row[0]:14s}" + "".join(f"{cell:>11s}" for cell in row[1:]) for row in rows)


def best_of(
    system: Painter,
    prompts: Sequence[tuple[str, Ask]],
    pictures: Sequence[Image.Image],
    reconstructions: Sequence[Image.Image] | None,
    *,
    seed: int,
    settings: Settings,
    progress: Progress | None = None,
) -> BestOf:
    """Draws `rerank` candidates for each prompt (1 if that is None) and judges them all.

    `settings` are resolved ones; `pictures` and `reconstructions` show what the prompts ask.
    """
    n = settings["rerank"] or 1
    if settings["rerank"] and system.clip is None:
        raise PinxitError(f"{system.name or 'This model'} has no CLIP, so it cannot rerank. Leave --rerank out.")
    if n > APART:
        raise PinxitError(f"{n} candidates a prompt are too many: at most {APART}.")
    drawn: list[Drawn] = []
    step = max(1, AT_ONCE // n)
    for start in range(0, len(prompts), step):
        part = prompts[start : start + step]
        drawn += _draw(system, part, [seed + APART * (start + j) for j in range(len(part))], n, settings)
        if progress:
            progress(len(drawn) * n, len(prompts) * n)
    asks = [ask for _, ask in prompts]
    return BestOf(
        real=following(pictures, asks),
        reconstructed=None if reconstructions is None else following(reconstructions, asks),
        curve={k: _counted(asks, [one.best(k) for one in drawn]) for k in doublings(n)},
        any_of=_counted(asks, [any(one.right) for one in drawn]),
        prompts=tuple(drawn),
    )


def doublings(n: int) -> list[int]:
    """1, 2, 4 and so on below n, and n."""
    return [2**i for i in range(n.bit_length()) if 2**i < n] + [n]


def _draw(
    system: Painter, prompts: Sequence[tuple[str, Ask]], first_seeds: Sequence[int], n: int, settings: Settings
) -> list[Drawn]:
    """n candidates for each prompt, scored and judged; all prompts together, so that batches are full."""
    texts = [text for text, _ in prompts for _ in range(n)]
    seeds = [first + i for first in first_seeds for i in range(n)]
    pictures = system.paint(texts, seeds, settings)
    scores: list[float | None] = [None] * len(texts)
    if settings["rerank"] and system.clip is not None:
        scores = list(system.clip.score(pictures, texts).tolist())
    drawn = []
    for j, ((prompt, ask), seed) in enumerate(zip(prompts, first_seeds, strict=True)):
        own = slice(j * n, (j + 1) * n)
        right = tuple(follows(picture, ask).correct for picture in pictures[own])
        drawn.append(Drawn(prompt, ask, seed, tuple(scores[own]), right))
    return drawn


def _counted(asks: Sequence[Ask], right: Sequence[bool]) -> Following:
    """Verdicts by category."""
    names = [ask.category for ask in asks]
    order = [name for name in CATEGORIES if name in names]
    return Following(
        right={name: sum(one for one, own in zip(right, names, strict=True) if own == name) for name in order},
        judged={name: names.count(name) for name in order},
    )
