"""From texts to CLIP embeddings of pictures of them, by either prior (Ramesh et al. 2022, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.diffusion import guidance, samplers
from pinxit.diffusion.process import Process
from pinxit.errors import PinxitError
from pinxit.models.ar_prior import ARPrior, ARPriorConfig
from pinxit.models.prior import Begun, Prior, PriorConfig, Read, read
from pinxit.progress import Progress
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.noise_drawing import mixed, noise_of
from pinxit.systems.system import Settings
from pinxit.systems.token_drawing import TokenDrawer

Network = TypeVar("Network", bound=nn.Module)

BATCH = 64
"""Embeddings that are drawn at once, with what each block keeps of their texts."""

STREAM = 8
"""Of an embedding's noise, which is none of its picture's; each further candidate takes the next."""


class PriorDrawing(NamedTuple):
    """How embeddings are drawn."""

    steps: int = 64
    """Of the diffusion prior, as in the paper (table 3)."""
    guidance: float = 1.0
    """Away from what has no text; 1 is none."""
    candidates: int = 2
    """Of the diffusion prior, of which the one is kept whose dot product with the text's embedding is the largest."""


class Imagines(Protocol):
    """What turns texts into embeddings."""

    @property
    def unit(self) -> bool:
        """Whether those are of length 1, or as CLIP's towers give them."""
        ...

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], how: PriorDrawing, progress: Progress | None = None
    ) -> Tensor:
        """Rows b d on the CPU, for each prompt and its seed, each the same alone and among others."""
        ...


def opened(folder: Path, file: str, config: type[Any], network: type[Network], clip: CLIPSystem) -> Network:
    """A prior's network in a checkpoint folder, frozen; one that was trained with another CLIP is refused."""
    said = check_clip(folder, clip)
    if said["kind"] != file:
        raise PinxitError(f"{folder} is of kind {said['kind']}; a network of kind {file} is wanted there.")
    found = network(from_config(config, said.get("config", {})))
    load_network(folder, file, found)
    return found.to(clip.device).eval().requires_grad_(False)


def check_clip(folder: Path, clip: CLIPSystem) -> dict[str, Any]:
    """What config.json says of a network, which must not have been trained with another CLIP."""
    said = read_config(folder)
    if (trained := said.get("clip")) not in (None, clip.fingerprint):
        raise PinxitError(
            f"{folder} was trained with the embeddings of CLIP {trained}, and this one is {clip.fingerprint}: what "
            "comes of them would be noise. Put the CLIP that it was trained with beside it."
        )
    return said


def check_fit(known: tuple[int, ...], clip: CLIPSystem, third: str, own: int) -> None:
    """Raises PinxitError where a prior knows other embeddings or texts than those of a CLIP."""
    given = (clip.shape[0], clip.clip.config.text.length, own)
    if known != given:
        raise PinxitError(
            f"The prior knows embeddings of {known[0]} numbers and texts of {known[1]} tokens {third} {known[2]}; "
            f"those of this CLIP are {given[0]}, {given[1]} and {given[2]}. They must belong together."
        )


class PriorDrawer:
    """A diffusion prior at work, for the texts of its CLIP."""

    def __init__(self, prior: Prior, clip: CLIPSystem) -> None:
        known = prior.config
        check_fit((known.embedding, known.length, known.text_width), clip, "of", clip.clip.config.text.width)
        self.clip, self.prior = clip, prior
        self.process = Process(known.process)

    @classmethod
    def from_checkpoint(cls, folder: Path, clip: CLIPSystem) -> PriorDrawer:
        """Reads config.json and prior.safetensors."""
        return cls(opened(folder, "prior", PriorConfig, Prior, clip), clip)

    @property
    def device(self) -> torch.device:
        """Where it is, which may change as it trains."""
        return self.prior.mean.device

    @property
    def unit(self) -> bool:
        """Whether its embeddings are of length 1."""
        return self.prior.config.unit

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        how: PriorDrawing = PriorDrawing(),  # noqa: B008  (a tuple never changes)
        progress: Progress | None = None,
    ) -> Tensor:
        """Rows b d on the CPU, for each prompt and its seed, each the same alone and among others."""
        drawn: list[Tensor] = []
        for start in range(0, len(seeds), BATCH):
            own = slice(start, start + BATCH)
            told = self.read(prompts[own])
            guided = how.guidance != 1
            begun = self.prior.begun(told.joined(self.read([""] * len(prompts[own]))) if guided else told)
            rows = [self._draw(begun, seeds[own], how, STREAM + i) for i in range(how.candidates)]
            candidates = torch.stack(rows)  # c b d
            best = F.cosine_similarity(candidates, told.embedding, dim=2).argmax(0)
            drawn.append(candidates[best, torch.arange(len(best), device=best.device)].cpu())
            if progress:
                progress(min(start + BATCH, len(seeds)), len(seeds))
        return torch.cat(drawn)

    def read(self, prompts: Sequence[str]) -> Read:
        """What the CLIP reads of texts."""
        return read(self.clip.clip, self.clip.ids_of(prompts).to(self.device), unit=self.unit)

    def _draw(self, begun: Begun, seeds: Sequence[int], how: PriorDrawing, stream: int) -> Tensor:
        noise = noise_of(seeds, stream, self.device)
        x = noise(torch.empty(0, self.prior.config.embedding))
        denoise = self.process.denoiser(lambda x, times: self.prior.continued(x, times, begun))
        denoise = guidance.classifier_free(denoise, denoise, how.guidance)  # always on, or never
        denoise = guidance.clipped(denoise, self.prior.config.bound)
        levels = self.process.schedule.levels(how.steps)
        x = samplers.last(samplers.ancestral(denoise, x, levels, error=self.prior.error, noise=noise))
        rows = self.prior.unscaled(x)
        return F.normalize(rows, dim=1) if self.unit else rows


class ARPriorDrawer:
    """An autoregressive prior at work: each picture is to be as near to its text as the nearer half is."""

    unit = True

    def __init__(self, prior: ARPrior, clip: CLIPSystem) -> None:
        known = prior.config
        check_fit((known.embedding, known.length, known.vocabulary), clip, "out of", clip.clip.config.text.vocab_size)
        self.clip, self.prior = clip, prior
        self.tokens = TokenDrawer(prior.transformer)

    @classmethod
    def from_checkpoint(cls, folder: Path, clip: CLIPSystem) -> ARPriorDrawer:
        """Reads config.json and ar_prior.safetensors."""
        return cls(opened(folder, "ar_prior", ARPriorConfig, ARPrior, clip), clip)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        how: PriorDrawing = PriorDrawing(),  # noqa: B008
        progress: Progress | None = None,
    ) -> Tensor:
        """Rows b d on the CPU, for each prompt and its seed, each the same alone and among others."""
        prior, device = self.prior, self.prior.mean.device
        half, codes = prior.config.dots // 2, prior.config.dots
        generators = [torch.Generator().manual_seed(mixed(seed, STREAM)) for seed in seeds]
        near = torch.cat([torch.randint(half, codes, (1,), generator=generator) for generator in generators])
        ids = self.clip.ids_of(prompts).to(device)
        asked = prior.condition(ids, near.to(device), self.clip.clip.encode_text(ids))
        settings = Settings(guidance=how.guidance, temperature=1.0, top_k=None, top_p=None)
        own = [mixed(seed, STREAM + 1) for seed in seeds]  # apart from the noise of the picture
        drawn = self.tokens.draw(asked, own, settings, progress=progress)
        return prior.decode(drawn.flatten(1)).cpu()
