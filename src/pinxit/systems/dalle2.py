"""DALL·E 2: texts to CLIP embeddings of pictures by a prior, and those to pictures by a decoder and what enlarges them.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents". A picture is two things here: z,
its embedding, which says what is in it, and x_T, the noise that the decoder makes it of, which says all the rest
(section 3). Variations keep z and x_T, blends go from one to another, and restyling turns z along the difference of two
texts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pinxit.checkpoints.catalogue import part
from pinxit.checkpoints.files import read_config
from pinxit.data.images import fit, opaque, to_pil, to_tensor
from pinxit.diffusion.guidance import ALWAYS
from pinxit.errors import PinxitError, unknown
from pinxit.models.denoiser import Conditioning
from pinxit.models.prior import read
from pinxit.progress import Progress
from pinxit.systems.cascade import Cascade, Shown, edited, upsampled
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import Condition, NoCondition, read_word_condition
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.systems.picture import Picture
from pinxit.systems.prior_drawing import ARPriorDrawer, Imagines, PriorDrawer, PriorDrawing, check_clip
from pinxit.systems.reranking import check_wish, in_half, painted
from pinxit.systems.system import Settings, System, read_defaults

NO_PRIOR = "none"
"""What `prior` may be besides: the decoder is given the embedding of the text (section 5.1)."""

PRIORS: dict[str, tuple[str, type[PriorDrawer | ARPriorDrawer]]] = {
    "diffusion": ("prior", PriorDrawer),
    "autoregressive": ("ar_prior", ARPriorDrawer),
}
"""What `prior` may be: its folder, and what draws by it."""

OF_PRIORS: Mapping[str, Settings] = {
    "diffusion": {"prior_steps": 64, "prior_candidates": 2, "prior_guidance": 1.0},
    "autoregressive": {"prior_guidance": 1.0},
    NO_PRIOR: {},
}
"""The settings that each of them takes."""

FROM_TEXTS = ("prior", *OF_PRIORS["diffusion"], "rerank")
"""Settings that have no part in what is made of pictures."""

LARGER = ("upsampler", "second_upsampler")
"""The folders of what enlarges, in their order."""


class DALLE2System(System):
    """CLIP, a prior, and a cascade whose base is unCLIP's decoder."""

    kind = "dalle2"

    def __init__(
        self,
        clip: CLIPSystem,
        priors: Mapping[str, Imagines],
        cascade: Cascade,
        condition: Condition,
        defaults: Settings | None = None,
    ) -> None:
        if cascade.base.config.embedding != clip.shape[0]:
            raise PinxitError(
                f"The decoder draws of embeddings of {cascade.base.config.embedding} numbers, this CLIP makes "
                f"{clip.shape[0]}. They must belong together."
            )
        self.unit = cascade.base.config.unit
        if odd := [name for name, prior in priors.items() if prior.unit != self.unit]:
            lengths = {True: "of length 1", False: "of any length"}
            raise PinxitError(
                f"The decoder draws of embeddings {lengths[self.unit]}, the {odd[0]} prior tells embeddings "
                f"{lengths[not self.unit]}. They must belong together."
            )
        self.device = cascade.base.device
        self.clip, self.priors, self.cascade, self.condition = clip, priors, cascade, condition
        known = defaults_of(tuple(priors), upsampler=bool(cascade.larger))
        said = {name: value for name, value in (defaults or {}).items() if name in known}
        self.defaults = cast("Settings", {**known, **said})

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json and the parts: `clip/`, `decoder/` and, if there are, priors and those that enlarge."""
        clip = CLIPSystem.from_checkpoint(part(folder, "clip"), device)
        first = part(folder, "decoder")
        networks = [first, *(path for name in LARGER if (path := part(folder, name)).exists())]
        for network in networks:
            check_clip(network, clip)
        decoder, *larger = (NoiseDrawer.from_checkpoint(network, device) for network in networks)
        return cls(
            clip,
            {
                name: drawer.from_checkpoint(found, clip)
                for name, (own, drawer) in PRIORS.items()
                if (found := part(folder, own)).exists()
            },
            Cascade(decoder, *larger),
            read_word_condition(first, decoder.config.text, None),
            read_defaults(folder, read_config(folder).get("defaults") or {}, cls.takes(cls.kind)),
        )

    @classmethod
    def takes(cls, kind: str) -> Settings:  # noqa: ARG003
        """Those of the prior, the decoder and what enlarges."""
        return defaults_of(tuple(PRIORS), upsampler=True)

    def resolve(self, n: int, seed: int, settings: Settings) -> Settings:
        """Without those of other priors than the one that is asked for."""
        chosen = super().resolve(n, seed, settings)
        if chosen["prior"] not in (*self.priors, NO_PRIOR):
            raise unknown("prior", chosen["prior"], (*self.priors, NO_PRIOR))
        for name in OF_PRIORS["diffusion"].keys() - OF_PRIORS[chosen["prior"]].keys():
            if settings.get(name) is not None:
                raise PinxitError(f"prior={chosen['prior']} does not take {name}. Leave it out, or change the prior.")
            chosen.pop(name, None)  # type: ignore[misc]
        return chosen

    @property
    def size(self) -> int:
        """Pixels a side of what it draws."""
        return self.cascade.size

    reads_texts = True

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """The cascade; CLIP and the prior, which are quick, stay as they are."""
        self.cascade.quicken(bf16=bf16, compile=compile)

    # From texts.

    def generate(
        self, prompt: str, n: int = 4, *, seed: int = 0, progress: Progress | None = None, **settings: Unpack[Settings]
    ) -> list[Picture]:
        """Draws for a text; for an empty one, whatever the prior comes upon."""
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
        """Paints anew where the mask is white, at every stage; the rest stays as it was, to the pixel."""
        return edited(self, image, mask, prompt, n, seed, settings, progress)

    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        progress: Progress | None = None,
        *,
        shown: Shown | None = None,
    ) -> list[Image.Image]:
        """A picture for each prompt and seed, by resolved settings."""
        embeddings = self.imagine(prompts, seeds, settings)
        return self.paint_embeddings(embeddings, seeds, settings, prompts=prompts, shown=shown, progress=progress)

    def imagine(self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings) -> Tensor:
        """Texts -> the embeddings b d of pictures to draw, by the prior that the settings name."""
        if settings["prior"] == NO_PRIOR:
            rows = self.clip.encode_text(prompts, unit=self.unit)
            rows[[not prompt for prompt in prompts]] = self._nothing
            return rows
        how = {name.removeprefix("prior_"): settings[name] for name in OF_PRIORS[settings["prior"]]}  # type: ignore[literal-required]
        return self.priors[settings["prior"]].draw(prompts, seeds, PriorDrawing(**how))

    def paint_embeddings(
        self,
        embeddings: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        *,
        prompts: Sequence[str] | None = None,
        noise: Tensor | None = None,
        eta: float = 0.0,
        shown: Shown | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Pictures of embeddings b d, told their texts where there are; of some `noise` x_T rather than a seed's."""
        away = self._asked(self._nothing, [settings["negative"] or ""])
        drawn = self.cascade.up_to(settings.get("size")).draw(
            self._asked(embeddings, prompts or [""] * len(embeddings)),
            seeds,
            Drawing(
                sampler=settings["sampler"],
                steps=settings["steps"] or 1,
                guidance=settings["guidance"],
                interval=settings["interval"] or ALWAYS,
                threshold=settings["threshold"],
                eta=eta,
            ),
            away=away,
            shown=shown,
            noise=noise,
            steps=settings.get("upsample_steps"),
            progress=progress,
        )
        return [to_pil(picture) for picture in drawn]

    # From pictures.

    def vary(
        self,
        image: Image.Image,
        n: int = 4,
        *,
        eta: float = 1.0,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """Draws the picture's z again from its x_T, the more at random the larger `eta`, from 0 to 1 (section 3.1).

        With 0 it comes back as it was, as near as the decoder can.
        """
        if not 0 <= eta <= 1:
            raise PinxitError(f"eta is {eta}; give 0, for the picture itself, to 1, for the most various.")
        chosen = self._certain(n, seed, settings)
        z, noise = self.take_apart([image], chosen)
        seeds = range(seed, seed + n)
        pictures = self.paint_embeddings(
            z.expand(n, -1), seeds, chosen, noise=noise.expand(n, -1, -1, -1), eta=eta, progress=progress
        )
        return self._pictures(pictures, "", seeds, chosen, varied=True, eta=eta)

    def blend(
        self,
        images: Sequence[Image.Image],
        frames: int = 8,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """From each picture to the next in `frames`, both ends among them: z and x_T turn together (section 3.2)."""
        if len(images) < 2:
            raise PinxitError(f"A blend goes from picture to picture: give two at least, not {len(images)}.")
        if frames < 2:
            raise PinxitError(f"A blend has a frame at each end: give two at least, not {frames}.")
        chosen = self._certain(1, seed, settings)
        z, noise = self.take_apart(images, chosen)
        steps = torch.linspace(0, 1, frames)
        ways = [
            (slerp(z[i], z[j], steps), slerp(noise[i].flatten(), noise[j].flatten(), steps))
            for i, j in pairwise(range(len(images)))
        ]
        rows = torch.cat([ours for ours, _ in ways])
        start = torch.cat([theirs for _, theirs in ways]).view(-1, *noise.shape[1:])
        pictures = self.paint_embeddings(rows, [seed] * len(rows), chosen, noise=start, progress=progress)
        return _numbered(self._pictures(pictures, "", [seed] * len(rows), chosen, blended=len(images)))

    def reconstruct(
        self,
        images: Image.Image | Sequence[Image.Image],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Pictures -> the same from their z and x_T: what comes back, and what the decoder loses (section 3.1).

        As large as the decoder draws them, unless a `size` is asked for.
        """
        chosen = self._certain(1, seed, self._small(settings))
        several = [images] if isinstance(images, Image.Image) else images
        z, noise = self.take_apart(several, chosen)
        return self.paint_embeddings(z, [seed] * len(several), chosen, noise=noise, progress=progress)

    def by_components(
        self,
        image: Image.Image,
        dimensions: Sequence[int],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """A picture by so many of the principal components of its z, those first that vary most (figure 7).

        All from the noise of one seed: x_T would know the rest. As large as the decoder draws them, unless a `size` is
        asked for.
        """
        prior = self.priors.get("autoregressive")
        if not isinstance(prior, ARPriorDrawer):
            raise PinxitError("Principal components of embeddings are kept by an autoregressive prior; here is none.")
        most = prior.prior.config.embedding
        if not dimensions or not all(0 <= count <= most for count in dimensions):
            told = ", ".join(map(str, dimensions)) or "none"
            raise PinxitError(f"Embeddings have {most} components; give numbers from 0 to as many, not {told}.")
        chosen = self._certain(1, seed, self._small(settings))
        z = self.clip.encode_image([opaque(image)])
        rows = torch.cat([prior.prior.truncated(z.to(prior.prior.mean.device), count) for count in dimensions]).cpu()
        pictures = self.paint_embeddings(rows, [seed] * len(rows), chosen, progress=progress)
        return [
            self._pictures([made], "", [seed], chosen, dimensions=count)[0]
            for count, made in zip(dimensions, pictures, strict=True)
        ]

    def restyle(
        self,
        image: Image.Image,
        from_text: str,
        to_text: str,
        frames: int = 4,
        *,
        strength: float = 0.35,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> list[Picture]:
        """Turns z towards the difference of two texts, in `frames` up to `strength` of the way (section 3.3)."""
        if not 0 < strength <= 1:
            raise PinxitError(f"strength is {strength}; give more than 0 and at most 1.")
        if frames < 1:
            raise PinxitError(f"{frames} frames show nothing; ask for at least 1.")
        chosen = self._certain(1, seed, settings)
        z, noise = self.take_apart([image], chosen)
        to, source = self.clip.encode_text([to_text, from_text], unit=self.unit)
        if torch.allclose(to, source):
            raise PinxitError(
                f"{from_text!r} and {to_text!r} are the same to this CLIP, so there is no way between them."
            )
        towards = F.normalize(to - source, dim=0) * z[0].norm()
        along = slerp(z[0], towards, strength * torch.arange(1, frames + 1) / frames)
        seeds = [seed] * frames
        pictures = self.paint_embeddings(
            along, seeds, chosen, noise=noise.expand(frames, -1, -1, -1), progress=progress
        )
        made = self._pictures(pictures, to_text, seeds, chosen, restyled_from=from_text, strength=strength)
        return _numbered(made)

    def upsample(
        self,
        image: Image.Image,
        prompt: str = "",
        *,
        seed: int = 0,
        upsample_steps: int | None = None,
        progress: Progress | None = None,
    ) -> Picture:
        """Enlarges a picture of any size by the networks that enlarge what it draws, which know of no prompt."""
        return upsampled(
            self, self.cascade, image, Conditioning(), prompt, seed, steps=upsample_steps, progress=progress
        )

    def take_apart(self, images: Sequence[Image.Image], settings: Settings) -> tuple[Tensor, Tensor]:
        """Pictures -> z b d and x_T b 3 h w: what CLIP sees of them, and the noise that gives them by DDIM."""
        base = self.cascade.base
        z = self.clip.encode_image([opaque(image) for image in images], unit=self.unit)
        pixels = torch.stack([to_tensor(fit(opaque(image), base.size)) for image in images])
        return z, base.invert(self._asked(z, [""] * len(images)), pixels, settings["steps"] or 1)

    def _small(self, settings: Settings) -> Settings:
        return Settings(**{"size": (self.cascade.base.size,) * 2, **settings}) if self.cascade.larger else settings

    def _certain(self, n: int, seed: int, settings: Settings) -> Settings:
        """Settings by which a picture comes back from its noise, but for those that are asked for."""
        asked = {name: value for name, value in settings.items() if value is not None}
        for name, value in asked.items():
            if name in FROM_TEXTS or (name == "sampler" and value != "ddim"):
                raise PinxitError(f"{name} is for pictures from texts; what is made of pictures is drawn by ddim.")
        chosen = self.resolve(n, seed, Settings(**{"sampler": "ddim", "guidance": 1.0, **asked}))  # type: ignore[typeddict-item]
        check_wish(self.name, settings, chosen, self.clip)
        return chosen

    @property
    def _nothing(self) -> Tensor:
        """1 d: what stands for no embedding."""
        return self.cascade.base.network.no_embedding[None].cpu()

    def _asked(self, embeddings: Tensor, prompts: Sequence[str]) -> Conditioning:
        if self.cascade.base.config.reads:
            seen = read(self.clip.clip, self.clip.ids_of(prompts), unit=self.unit)
            return Conditioning(
                embedding=embeddings, read=seen.tokens, read_mask=seen.mask, read_embedding=seen.embedding
            )
        told = None if isinstance(self.condition, NoCondition) else self.condition(prompts)
        return Conditioning(ids=told, embedding=embeddings)

    def _pictures(
        self, images: Sequence[Image.Image], prompt: str, seeds: Sequence[int], settings: Settings, **more: Any
    ) -> list[Picture]:
        told = in_half(settings, self.cascade.base.bf16)
        kept = {name: value for name, value in told.items() if value is not None and name not in FROM_TEXTS} | more
        return [Picture(image, prompt, seed, self.name, kept) for image, seed in zip(images, seeds, strict=True)]


def _numbered(pictures: Sequence[Picture]) -> list[Picture]:
    """Frames that know which of how many they are."""
    count = len(pictures)
    return [replace(one, settings={**one.settings, "frame": i, "frames": count}) for i, one in enumerate(pictures, 1)]


def defaults_of(priors: Collection[str], *, upsampler: bool) -> Settings:
    """The settings that a system takes, by the parts that it has, with what is in force where nobody says anything."""
    known: dict[str, Any] = {"prior": next(iter(priors), NO_PRIOR)}
    for prior in priors:
        known |= OF_PRIORS[prior]
    known |= {"sampler": "ddim", "steps": 50, "guidance": 1.0, "negative": None, "interval": None, "threshold": None}
    if upsampler:
        known |= {"upsample_steps": None, "size": None}
    return cast("Settings", {**known, "rerank": None})


def slerp(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    """From vector a to b, d each, along the arc between them and in even lengths -> k d for shares k from 0 to 1."""
    angle = math.acos(float(torch.clamp(F.cosine_similarity(a, b, dim=0), -1, 1)))
    if math.sin(angle) < 1e-4:
        return torch.lerp(a, b, shares[:, None])
    return (torch.sin((1 - shares) * angle)[:, None] * a + torch.sin(shares * angle)[:, None] * b) / math.sin(angle)
