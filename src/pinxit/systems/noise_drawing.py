"""Pictures from noise by a denoiser: what all systems that draw by diffusion have in common."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.diffusion import guidance, samplers
from pinxit.diffusion.guidance import ALWAYS, Lead
from pinxit.diffusion.levels import Denoiser as Denoise
from pinxit.diffusion.levels import Level
from pinxit.diffusion.process import Process
from pinxit.diffusion.samplers import Step
from pinxit.diffusion.schedules import FAST27, Discrete
from pinxit.errors import PinxitError, unknown
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig
from pinxit.models.unet import Guide
from pinxit.nn.compiling import check_compiler
from pinxit.progress import Progress
from pinxit.systems.tiles import TILE, by_tiles

BATCH = 32
"""Pictures of 64 pixels a side that are drawn at once; fewer of larger ones."""

Score = Callable[[Tensor, Level], Tensor]
"""Noisy values b ... and their level -> how good they are, b: what gradient guidance climbs."""

Walk = Callable[..., Iterator[Step]]

SAMPLERS: dict[str, Walk] = {
    "ddpm": samplers.ancestral,
    "ddim": samplers.ddim,
    "euler": partial(samplers.heun, correct=False),
    "heun": samplers.heun,
    "plms": samplers.plms,
    "dpm-solver": samplers.dpm_solver,
    "dpm-solver-sde": partial(samplers.dpm_solver, random=True),
}
"""What `sampler` may be."""

RANDOM = ("ddpm", "dpm-solver-sde")
"""Those that add noise on the way."""

REPEATS = 5
"""How often RePaint, by networks that have not learnt to be shown a part, goes over each tenth of the way."""

CALM = 0.997
"""What the noise is scaled by from which larger pictures are drawn, as in GLIDE, so that they are less grainy."""

FAST = "fast27"
"""The steps of GLIDE's upsampler, by their name."""


class Drawing(NamedTuple):
    """How a network's pictures are reached."""

    sampler: str = "ddpm"
    steps: int | str = 100
    """Their number, or "fast27"."""
    guidance: float = 1.0
    interval: tuple[float, float] = ALWAYS
    """sigma/alpha at which guidance is on."""
    threshold: float | None = None
    """The share of values that dynamic thresholding keeps within 1; without it they are clipped."""
    gradient: float = 0.0
    """Scale of gradient guidance."""
    temperature: float = 1.0
    """Scales the noise that drawing starts from."""
    eta: float = 0.0
    """How random DDIM is: not at all, up to 1 as DDPM is."""


class NoiseDrawer:
    """A denoiser at work."""

    last: NoiseDrawer | None = None
    """The network that takes the last step in its place, as Karlo has one for that."""

    def __init__(self, network: Denoiser) -> None:
        """The network as it stands; `ready` prepares one that learns no more."""
        self.network = network
        self.process = Process(network.config.process)
        self.enlarging = Drawing("ddim", self.few_steps, temperature=CALM)
        self.bf16 = False
        self._twin = network
        """What draws in the place of `network`, where it is faster."""
        self._forward: Callable[[Tensor, Tensor, Guide], Tensor] = network.drawing

    @classmethod
    def ready(cls, network: Denoiser, device: torch.device) -> NoiseDrawer:
        """For a network that learns no more."""
        return cls(network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False))  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return next(self.network.parameters()).device

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> NoiseDrawer:
        """Reads config.json and the network's safetensors; in `last/`, if there is one, those of its last step."""
        config = read_config(folder)
        if config["kind"] != "denoiser":
            raise PinxitError(f"{folder} is of kind {config['kind']}; a denoiser is wanted there.")
        network = Denoiser(from_config(DenoiserConfig, config.get("config", {})))
        load_network(folder, "denoiser", network)
        made = cls.ready(network, device)
        made.enlarging = _read_drawing(folder, config.get("enlarging", {}), made.enlarging)
        if (folder / "last").exists():
            made.last = cls.from_checkpoint(folder / "last", device)
            if made.last.config != network.config:
                raise PinxitError(f"{folder / 'last'} is of another shape than the network whose last step it takes.")
        return made

    def quicken(self, *, bf16: bool = False, compile: bool = False) -> None:
        """Multiplies in bfloat16, through a compiled network, or both."""
        self.bf16 = bf16
        if compile:
            check_compiler(self.device)
        # Autocast alone would convert all weights anew in every pass.
        self._twin = copy.deepcopy(self.network).bfloat16() if bf16 else self.network
        self._forward = torch.compile(self._twin.drawing, dynamic=False) if compile else self._twin.drawing
        if self.last:
            self.last.quicken(bf16=bf16, compile=compile)

    def suit(self, low: int) -> None:
        """From now on it enlarges pictures of `low`, as one can that has learnt from parts of them."""
        self.network.config = self.config.enlarging(low)
        if self.last:
            self.last.suit(low)

    @property
    def config(self) -> DenoiserConfig:
        """The network's."""
        return self.network.config

    @property
    def size(self) -> int:
        """Pixels a side that it has learnt to draw."""
        return self.config.unet.size

    @property
    def reads(self) -> bool:
        """Whether it is asked for texts or classes."""
        return bool(self.config.text or self.config.classes)

    @property
    def repaints(self) -> bool:
        """Whether it paints parts by RePaint, which walks as DDPM does.

        What has learnt to be shown a part needs none, nor what enlarges, which is shown a small one of all.
        """
        return not (self.config.known or self.config.low)

    @property
    def few_steps(self) -> int | str:
        """As many as are enough to enlarge: GLIDE's 27, as it spaces them where levels are counted."""
        return FAST if isinstance(self.process.schedule, Discrete) else sum(FAST27)

    def levels(self, steps: int | str) -> list[Level]:
        """The levels of drawing in so many steps."""
        schedule = self.process.schedule
        if steps == FAST:
            if not isinstance(schedule, Discrete):
                raise PinxitError(f"steps={FAST} is for levels of noise that are counted; give a number.")
            return schedule.sections(FAST27)
        if not isinstance(steps, int):
            raise unknown("steps", steps, (FAST, "a number"))
        return schedule.levels(steps)

    @torch.no_grad()
    def draw(
        self,
        asked: Conditioning,
        seeds: Sequence[int],
        how: Drawing,
        *,
        away: Conditioning | None = None,
        score: Callable[[int, int], Score] | None = None,
        stream: int = 0,
        start_from: Tensor | None = None,
        small: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Pictures b c h w in [-1, 1], on the CPU, for what is asked of each and its seed, in batches.

        `away` (of one picture) is what guidance leads away from. `score` makes, for the pictures from one place to
        another, what gradient guidance climbs. A picture's noise belongs to its seed and the `stream`, so that it is
        the same alone and among others; drawing may `start_from` other noise b c h w, such as `invert` has found.
        `small` are pictures that those drawn become when they are made smaller.
        """
        if how.sampler not in SAMPLERS:
            raise unknown("sampler", how.sampler, SAMPLERS)
        batch = max(1, BATCH * 64**2 // self.size**2)
        levels = self.levels(how.steps)
        count = len(levels) - 1  # RePaint takes more, and stands still at the end
        drawn: list[Tensor] = []
        for start in range(0, len(seeds), batch):
            own = seeds[start : start + batch]
            end = start + len(own)
            rows = asked.rows(start, end).to(self.device)
            denoise = self._denoiser(rows, away, how)
            if self.last:
                denoise = _ending(denoise, self.last._denoiser(rows, away, how), levels[-2])
            denoise = guidance.consistent(denoise, None if small is None else small[start:end].to(self.device))
            lead = None if score is None else guidance.uphill(score(start, end), how.gradient)
            noise = noise_of(own, stream, self.device)
            x = self._start(noise, levels, how, rows) if start_from is None else start_from[start:end].to(self.device)
            for done, step in enumerate(self._walk(denoise, x, noise, levels, how, rows, lead)):
                x = step.x
                if progress:
                    progress(start * count + min(done + 1, count) * len(own), len(seeds) * count)
            drawn.append(x.float().clamp(-1, 1).cpu())
        return torch.cat(drawn)

    @torch.no_grad()
    def invert(self, asked: Conditioning, pixels: Tensor, steps: int, *, refine: int = 1) -> Tensor:
        """The noise b c h w from which DDIM makes these pictures in [-1, 1], on the CPU, if it is asked the same.

        Without guidance, in as many steps; each is told `refine` times more (`samplers.invert`).
        """
        batch = max(1, BATCH * 64**2 // self.size**2)
        levels, found = self.levels(steps), []
        for start in range(0, len(pixels), batch):
            x = pixels[start : start + batch].to(self.device)
            denoise = guidance.clipped(self._told(asked.rows(start, start + len(x)).to(self.device)))
            found.append(samplers.last(samplers.invert(denoise, x, levels, refine=refine)).cpu())
        return torch.cat(found)

    def _start(self, noise: samplers.Noise, levels: list[Level], how: Drawing, asked: Conditioning) -> Tensor:
        unet, low = self.config.unet, self.config.low
        sides = [unet.size, unet.size]
        if low and asked.low is not None:  # of any size, and so is what is made of it
            sides = [side * unet.size // low for side in asked.low.shape[2:]]
        x = noise(torch.empty(0, unet.inputs, *sides)) * how.temperature
        return x * math.hypot(levels[0].alpha, levels[0].sigma)

    def _walk(
        self,
        denoise: Denoise,
        x: Tensor,
        noise: samplers.Noise,
        levels: list[Level],
        how: Drawing,
        asked: Conditioning,
        lead: Lead | None,
    ) -> Iterator[Step]:
        variance = "learned" if self.config.process.learned_variance else "small"
        ancestral: dict[str, Any] = {"noise": noise, "variance": variance, "lead": lead}
        known, painted = asked.known, None if asked.mask is None else 1 - asked.mask
        if known is not None and painted is not None and self.repaints:
            ancestral |= {"known": known, "mask": painted, "jump": max(1, len(levels) // 10), "repeats": REPEATS}
            return samplers.repaint(denoise, x, levels, **ancestral)
        options = ancestral if how.sampler == "ddpm" else {"noise": noise} if how.sampler in RANDOM else {}
        if how.sampler != "ddpm":
            denoise = guidance.by_gradient(denoise, lead)
        if how.sampler == "ddim" and how.eta:
            options |= {"eta": how.eta, "noise": noise}
        if known is not None:
            denoise = guidance.keeping(denoise, known, painted)
        return SAMPLERS[how.sampler](denoise, x, levels, **options)

    def _denoiser(self, asked: Conditioning, away: Conditioning | None, how: Drawing) -> Denoise:
        """Led by guidance, and within the bounds of pixels."""
        plain = self._told(asked)
        denoise = plain
        if how.guidance != 1 and away is not None:
            both = self._told(asked.joined(asked.instead(away.to(self.device))))
            denoise = guidance.classifier_free(plain, both, how.guidance, interval=how.interval)
        if how.threshold is not None:
            return guidance.dynamic_threshold(denoise, how.threshold)
        return guidance.clipped(denoise)

    def _told(self, asked: Conditioning) -> Denoise:
        """The network as samplers know it, for what is asked; one that has learnt from parts sees large pictures so."""
        guide: Guide | None = None

        def network(x: Tensor, times: Tensor) -> Tensor:
            nonlocal guide
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                guide = known = guide or self._twin.guide(asked)
                if not self.config.local or max(x.shape[2:]) <= TILE:
                    return self._forward(x, times, known).float()

                def tile(part: Tensor, rows: slice, columns: slice) -> Tensor:
                    beside = None if known.beside is None else known.beside[..., rows, columns]
                    return self._forward(part, times, replace(known, beside=beside)).float()

                return by_tiles(tile, x, self.config.unet.factor)

        return self.process.denoiser(network)


def _read_drawing(folder: Path, told: Any, otherwise: Drawing) -> Drawing:
    """What config.json says of how a network that enlarges is drawn by."""
    kinds = {"sampler": str, "steps": int, "temperature": float}
    if not isinstance(told, dict) or any(not isinstance(value, kinds.get(name, ())) for name, value in told.items()):
        raise PinxitError(f"{folder / 'config.json'}: enlarging={told}. Allowed are {', '.join(kinds)}.")
    return otherwise._replace(**told)


def _ending(denoise: Denoise, last: Denoise, level: Level) -> Denoise:
    """By another network from this level on, which is that of the last step."""
    return lambda x, at: (last if at.time <= level.time else denoise)(x, at)


def noise_of(seeds: Sequence[int], stream: int, device: torch.device) -> samplers.Noise:
    """Normal noise, a row for each seed; its own numbers each time it is asked, whatever the other rows are."""
    generators = [torch.Generator().manual_seed(mixed(seed, stream)) for seed in seeds]

    def noise(like: Tensor) -> Tensor:
        rows = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
        drawn = torch.stack(rows).to(device)
        return drawn.contiguous(memory_format=torch.channels_last) if drawn.ndim == 4 else drawn

    return noise


def mixed(seed: int, stream: int) -> int:
    """A seed of its own for each stream of noise that a picture takes."""
    return (seed + stream * 0x9E3779B97F4A7C15) % 2**64
