"""What a person can ask of a system, and the table that finds the system of a checkpoint."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch
from PIL import Image

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import read_config
from pinxit.data import images
from pinxit.errors import PinxitError, unknown
from pinxit.progress import Progress
from pinxit.systems.picture import Picture


class Settings(TypedDict, total=False):
    """How pictures are drawn. A system takes those that its `defaults` name and refuses the rest."""

    guidance: float
    """Classifier-free guidance: 1 is none, 0 ignores the prompt."""
    negative: str | None
    """What guidance leads away from; nothing in particular where it is left out."""
    steps: int | None
    """Steps of drawing, for systems that draw in steps."""
    sampler: str
    """How noise becomes pictures: a name of `noise_drawing.SAMPLERS`."""
    upsample_steps: int | None
    """Steps of the network that enlarges, where there is one."""
    interval: tuple[float, float] | None
    """The noise, as sigma/alpha, between which guidance is on; always where it is left out."""
    threshold: float | None
    """Dynamic thresholding: the share of a picture's values that stay within their range; clipped where left out."""
    prior: str
    """What makes embeddings of texts, where pictures are drawn of those: "diffusion", "autoregressive" or "none"."""
    prior_steps: int
    """Steps of drawing an embedding."""
    prior_candidates: int
    """Embeddings that are drawn for a picture, of which the one nearest to the text is kept."""
    prior_guidance: float
    """Guidance of the prior."""
    gradient_guidance: float
    """How hard to follow a classifier or CLIP that has learnt from noisy pictures; 0 is not at all."""
    temperature: float
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None
    """Draw among the k likeliest tokens only."""
    top_p: float | None
    """Draw among the likeliest tokens that together hold this share of the probability."""
    rerank: int | None
    """Make this many candidates and keep the n that CLIP likes best, best first."""
    size: tuple[int, int] | None
    """Width and height in pixels."""


@dataclass(frozen=True)
class Kind:
    """A row of the table: where the class is, and what can be asked of it beyond loading."""

    target: str
    can: tuple[str, ...]


TOKENS = "pinxit.systems.token_system:TokenSystem"
DIFFUSION = "pinxit.systems.diffusion_system:DiffusionSystem"

CODEC = ("encode", "decode", "reconstruct")
"""What every codec can, and every system that has one."""

KINDS = {
    "dalle1": Kind(TOKENS, ("generate", "complete", *CODEC)),
    "taming": Kind(TOKENS, ("generate", "complete", "translate", *CODEC)),
    "igpt": Kind(TOKENS, ("generate", "complete", *CODEC)),
    "maskgit": Kind(TOKENS, ("generate", "complete", "edit", *CODEC)),
    "pixelcnn": Kind(TOKENS, ("generate", "complete", *CODEC)),
    "ddpm": Kind(DIFFUSION, ("generate", "edit")),
    "adm": Kind(DIFFUSION, ("generate", "edit", "upsample")),
    "glide": Kind(DIFFUSION, ("generate", "edit", "upsample")),
    "dalle2": Kind(
        "pinxit.systems.dalle2:DALLE2System",
        ("generate", "edit", "vary", "blend", "restyle", "upsample", "reconstruct", "by_components"),
    ),
    "gan": Kind("pinxit.systems.gan:GANSystem", ("generate",)),
    **{kind: Kind("pinxit.systems.codec:Codec", CODEC) for kind in ("palette", "vae", "vqvae", "dvae", "vqgan")},
    "clip": Kind(
        "pinxit.systems.clip:CLIPSystem",
        ("encode", "encode_image", "encode_text", "classify", "score", "build_index"),
    ),
}
"""The `kind` in a checkpoint's config.json -> its system. Only the one that is asked for gets imported."""


class Unsupported(PinxitError, AttributeError):  # noqa: N818
    """Asked of a system what it cannot do.

    An AttributeError as well, so that `hasattr(system, "classify")` tells. It does not for `generate`, `complete` and
    `edit`, which every system has; those that lack them raise this when they are called, and `KINDS` tells beforehand.
    """


class System(ABC):
    """Frozen parts, and what can be asked of them.

    A capability is a method named in the system's row of `KINDS`. `generate`, `complete` and `edit` are declared here
    because every system that draws shares their form; others belong to one family and are declared there. Asking a
    system for a capability that it lacks raises `Unsupported`, which names those that have it.
    """

    kind: ClassVar[str]
    name: str = ""
    """What the person called it: the shipped name, the folder's name or `hf:owner/name`."""
    defaults: Settings = {}  # noqa: RUF012  (instances set their own, this one stays empty)
    """The settings that this system understands, each with the value in force when nothing is asked."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """The system in a checkpoint folder, ready on the device, its networks frozen and in evaluation mode."""

    @classmethod
    def takes(cls, kind: str) -> Settings:  # noqa: ARG003
        """The settings that a system of a kind may have, whatever its parts are."""
        return Settings()

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Makes n pictures from text.

        Picture i has the seed `seed + i` and does not depend on the others: made alone from that seed it is the same.
        With `rerank` there are that many candidates, and the n best come back, best first, each with its own seed.
        """
        raise self.lacks("generate")

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
        """Keeps the first rows of the picture's tokens (half of them by default) and draws the rest from the prompt."""
        raise self.lacks("complete")

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
        """Paints the picture anew where the mask is white, from the prompt."""
        raise self.lacks("edit")

    def resolve(self, n: int, seed: int, settings: Settings) -> Settings:
        """The defaults, overridden by what was asked (None asks for nothing), once all of it is known to make sense."""
        asked = {name: value for name, value in settings.items() if value is not None}
        for name in asked:
            if name not in self.defaults:
                takes = ", ".join(self.defaults) or "none"
                raise PinxitError(f"{self.name or self.kind} does not take the setting {name!r}. It takes: {takes}.")
        resolved = Settings(**{**self.defaults, **asked})  # type: ignore[typeddict-item]
        check(n, seed, resolved)
        return resolved

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """From now on multiplies in bfloat16, or through networks that `torch.compile` has made, or both.

        Worth it for many pictures: compiling takes a minute or so at the first. In bfloat16 numbers agree with those of
        float32 to two or three digits, so that a code may give way to a neighbour.
        """
        raise PinxitError(f"{self.name or self.kind} computes in float32, as it is. Leave bf16 and compile out.")

    def lacks(self, capability: str) -> Unsupported:
        """The error for a capability that this system does not have."""
        able = ", ".join(sorted(kind for kind, row in KINDS.items() if capability in row.can))
        label = f"{self.name} (kind {self.kind})" if self.name else self.kind
        return Unsupported(f"{label} cannot {capability.replace('_', ' ')}. Systems that can: {able or 'none yet'}.")

    def __getattr__(self, name: str) -> Any:
        if any(name in row.can for row in KINDS.values()):
            raise self.lacks(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def load(
    name: str | Path, device: str | torch.device | None = None, *, bf16: bool = False, compile: bool = False
) -> System:
    """Opens a model: a shipped name, a checkpoint folder, or `hf:owner/name`.

    Without a device it runs on the GPU where there is one; `bf16` and `compile` are those of `System.quicken`. Raises
    PinxitError for a name that leads nowhere, a folder that is no whole checkpoint, or one that is only a part of a
    system.
    """
    found = catalogue.find(name)
    kind = read_config(found.folder)["kind"]
    if kind not in KINDS:
        fault = unknown("system for checkpoints of kind", str(kind), KINDS)
        raise PinxitError(f"{fault} Give the folder of a whole model, or of a run that has finished.")
    system = system_class(kind).from_checkpoint(found.folder, choose_device(device))
    system.name = found.name
    if bf16 or compile:
        system.quicken(bf16=bf16, compile=compile)
    return system


def usual(capability: str) -> str:
    """The shipped model that answers where none is named: the default, unless only another can do what is asked."""
    kinds = {name: read_config(folder)["kind"] for name, folder in catalogue.shipped().items()}
    able = [name for name, kind in kinds.items() if kind in KINDS and capability in KINDS[kind].can]
    return catalogue.DEFAULT if catalogue.DEFAULT in able else next(iter(able), catalogue.DEFAULT)


def system_class(kind: str) -> type[System]:
    """The class of a kind in the table; imports its module."""
    module, _, name = KINDS[kind].target.partition(":")
    found: type[System] = getattr(importlib.import_module(module), name)
    return found


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or else the GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise PinxitError(f"{str(device)!r} is no device. Give cpu, cuda or cuda:N.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise PinxitError("This machine offers no CUDA device to PyTorch. Use cpu.")
    return chosen


def check(n: int, seed: int, settings: Settings) -> None:
    """Raises PinxitError for a count, seed or setting outside its range."""
    if not _whole(n) or n < 1:
        raise PinxitError(f"{n} pictures cannot be made; ask for at least 1.")
    if (candidates := settings.get("rerank")) is not None and not (_whole(candidates) and candidates >= n):
        raise PinxitError(f"rerank is {candidates!r} for {n} pictures; make at least as many candidates as you keep.")
    last = 2**32 - (candidates or n)  # PyTorch's generator on the CPU tells no more apart
    if not _whole(seed) or not 0 <= seed <= last:
        raise PinxitError(f"The seed {seed} is out of range: give 0 to {last}, so that every picture's is below 2^32.")
    for name in ("guidance", "temperature", "prior_guidance", "gradient_guidance"):
        value = settings.get(name)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise PinxitError(f"{name} is {value!r}; give a number of at least 0.")
    if (k := settings.get("top_k")) is not None and not (_whole(k) and k >= 1):
        raise PinxitError(f"top_k is {k!r}; give a whole number of at least 1.")
    if (p := settings.get("top_p")) is not None and not (isinstance(p, int | float) and 0 < p <= 1):
        raise PinxitError(f"top_p is {p!r}; give more than 0 and at most 1.")
    if (negative := settings.get("negative")) is not None and not isinstance(negative, str):
        raise PinxitError(f"negative is {negative!r}; give a text.")
    for name in ("steps", "prior_steps", "prior_candidates", "upsample_steps"):
        steps = settings.get(name)
        if steps is not None and not (_whole(steps) and steps >= 1):  # type: ignore[operator]
            raise PinxitError(f"{name} is {steps!r}; give a whole number of at least 1.")
    if (share := settings.get("threshold")) is not None and not (isinstance(share, int | float) and 0 < share <= 1):
        raise PinxitError(f"threshold is {share!r}; give more than 0 and at most 1, 0.995 say.")
    if (interval := settings.get("interval")) is not None:
        numbers = [value for value in interval if isinstance(value, int | float) and value >= 0]
        if len(numbers) != 2 or numbers[0] > numbers[1]:
            raise PinxitError(f"interval is {interval!r}; give the least and the most noise, such as 0.3 and 5.")
    if (size := settings.get("size")) is not None:
        if not (isinstance(size, tuple | list) and len(size) == 2 and all(_whole(side) and side >= 1 for side in size)):
            raise PinxitError(f"size is {size!r}; give width and height in pixels.")
        if size[0] * size[1] > images.LIMITS.pixels:
            raise PinxitError(f"size is {size[0]}x{size[1]}; give at most {images.LIMITS.pixels:,} pixels in all.")


def read_defaults(folder: Path, given: Any, known: Settings) -> Settings:
    """The `defaults` of a checkpoint's config.json, once they make sense."""
    try:
        if not isinstance(given, dict):
            raise PinxitError("they are no object.")
        for name in given:
            if name not in known:
                raise unknown("setting", name, known)
        asked = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]
        check(1, 0, asked)
    except PinxitError as fault:
        raise PinxitError(f"The defaults in {folder / 'config.json'} cannot be used: {fault}") from None
    return asked


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def grid(pictures: Sequence[Picture], columns: int | None = None) -> Picture:
    """Lays pictures out as one, near square unless `columns` is given.

    The result is named after the first picture; its settings add the `columns`, and the `prompts` and `seeds` of all,
    and leave out which frame that was.
    """
    if not pictures:
        raise PinxitError("A grid needs at least one picture.")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    first = pictures[0]
    prompts = [picture.prompt for picture in pictures]
    several = {"prompts": prompts} if len(set(prompts)) > 1 else {}
    return Picture(
        image=images.grid([picture.image for picture in pictures], columns),
        prompt=" | ".join(dict.fromkeys(prompts)),
        seed=first.seed,
        model=first.model,
        settings={
            **{name: value for name, value in first.settings.items() if name != "frame"},
            **several,
            "columns": columns,
            "seeds": [picture.seed for picture in pictures],
        },
    )
