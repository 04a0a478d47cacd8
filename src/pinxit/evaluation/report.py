"""What there is to measure of a model on a source of pictures with captions, as one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pinxit.data.faults import Faults
from pinxit.data.images import fit
from pinxit.data.pairs import source_name
from pinxit.data.sample import BadSample, Pairs, Sample
from pinxit.data.scene_world import Ask
from pinxit.errors import PinxitError
from pinxit.evaluation.best_of import BestOf, Painter, best_of
from pinxit.evaluation.features import load_eye
from pinxit.evaluation.fidelity import Fidelity, fidelity
from pinxit.evaluation.retrieval import Retrieval, retrieval
from pinxit.progress import Progress, silent
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.dalle2 import DALLE2System
from pinxit.systems.diffusion_system import DiffusionSystem
from pinxit.systems.gan import GANSystem
from pinxit.systems.system import Settings, System
from pinxit.systems.token_system import TokenSystem

KINDS = ("short", "long", "alt")
"""Which caption speaks for a picture that has several: the first of the first kind it has."""


@dataclass(frozen=True)
class Report:
    """The measures that fit the model and the source; None where one does not."""

    model: str
    source: str
    pictures: int
    skipped: Mapping[str, int]
    """Unusable samples by reason."""
    codec: Fidelity | None = None
    clip: Retrieval | None = None
    following: BestOf | None = None
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    """How pictures were drawn, if any were."""

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values; the source without its folders."""
        told: dict[str, Any] = {
            "model": self.model,
            "source": source_name(self.source),
            "pictures": self.pictures,
            "skipped": dict(self.skipped),
        }
        if self.codec is not None:
            told["codec"] = asdict(self.codec)
        if self.clip is not None:
            told["clip"] = asdict(self.clip)
        if self.following is not None:
            told |= {"seed": self.seed, "settings": dict(self.settings), "following": self.following.to_json()}
        return told

    def table(self) -> str:
        """What a person reads."""
        skipped = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items())
        lines = [f"{self.model} on {self.pictures} pictures of {self.source}"]
        lines += [f"skipped: {skipped}"] if skipped else []
        for name, part in (("codec", self.codec), ("CLIP", self.clip)):
            lines += [f"{name}: {line}" for line in part.table().splitlines()] if part is not None else []
        if self.following is not None:
            asked = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value is not None)
            lines += ["", f"share of pictures that show what was asked ({asked}, seed {self.seed})"]
            lines += [self.following.table()]
        return "\n".join(lines)


def evaluate(
    system: System,
    pairs: Pairs,
    *,
    source: str,
    n: int = 1000,
    seed: int = 0,
    settings: Settings | None = None,
    features: str | None = None,
    watch: Callable[[str], AbstractContextManager[Progress]] = silent,
) -> Report:
    """Measures a system on at most n samples, spread evenly over all.

    A codec: how well it reconstructs. A CLIP: recall. A system that draws: those of its parts that are such, and of
    scenes, whose samples say what was asked, whether what it draws after their captions shows that. `settings` are
    those of sampling. `features` names what tells how alike pictures look (`evaluation.features`). `watch` shows how
    far it is. Raises PinxitError for a system of another kind, where there is nothing to measure, for a setting that
    it does not take, and a source without usable samples.
    """
    codec, clip = parts(system)
    painter = system if isinstance(system, Painter) and system.reads_texts else None
    if not (codec or clip or painter):
        raise _unmeasured(system, "It knows no texts, and has no codec and no CLIP.")
    resolved = system.resolve(1, seed, settings or Settings())
    with watch("reading") as progress:
        samples, skipped = _read(pairs, n, picture_size(system), progress)
    if not all("ask" in sample.meta for sample in samples):
        painter = None
    if not (codec or clip or painter):
        raise _unmeasured(system, "Give scenes, which say what was asked, so that what it draws can be judged.")
    pictures = [sample.image for sample in samples]
    captions = [_caption(sample) for sample in samples] if needs_captions(system) else []
    kept, reconstructions = fidelity(codec, pictures, load_eye(features)) if codec else (None, None)
    followed = None
    if painter:
        prompts = [(text, Ask.from_json(sample.meta["ask"])) for text, sample in zip(captions, samples, strict=True)]
        with watch("drawing") as progress:
            followed = best_of(
                painter, prompts, pictures, reconstructions, seed=seed, settings=resolved, progress=progress
            )
    return Report(
        model=system.name or system.kind,
        source=source,
        pictures=len(samples),
        skipped=skipped,
        codec=kept,
        clip=retrieval(clip, pictures, captions) if clip else None,
        following=followed,
        seed=seed,
        settings=resolved,
    )


def _unmeasured(system: System, why: str) -> PinxitError:
    return PinxitError(f"Nothing of {system.name or 'a model'}, of kind {system.kind}, can be measured here. {why}")


def parts(system: System) -> tuple[Codec | None, CLIPSystem | None]:
    """What of a system can be measured by itself."""
    if isinstance(system, TokenSystem):
        return system.codec, system.clip
    if isinstance(system, DiffusionSystem | DALLE2System | GANSystem):
        return None, system.clip
    if isinstance(system, Codec):
        return system, None
    if isinstance(system, CLIPSystem):
        return None, system
    raise PinxitError(
        f"{system.name or 'A model'} of kind {system.kind} cannot be evaluated. What can: a codec, a CLIP, a "
        "system that draws."
    )


def needs_captions(system: System) -> bool:
    """Whether anything that is measured of a system takes more than pictures."""
    return parts(system)[1] is not None or (isinstance(system, Painter) and system.reads_texts)


def picture_size(system: System) -> int:
    """Pixels a side at which a system is measured: the codec's, or those that it draws, or that CLIP looks at."""
    codec, clip = parts(system)
    if isinstance(system, DiffusionSystem | DALLE2System | GANSystem):
        return system.size
    if codec is not None:
        return codec.size
    assert clip is not None
    return clip.clip.config.vision.size


def _read(pairs: Pairs, n: int, size: int, progress: Progress) -> tuple[list[Sample], dict[str, int]]:
    """At most n usable samples, their pictures scaled to `size`, and the others' reasons."""
    total = min(n, len(pairs))
    faults, samples = Faults(), []
    for i in range(total):
        faults.seen += 1
        try:
            sample = pairs[i * len(pairs) // total]
            samples.append(replace(sample, image=fit(sample.image, size)))
        except BadSample as fault:
            faults.add(fault)
        faults.judge()
        progress(i + 1, total)
    if not samples:
        raise PinxitError(f"{pairs.name} has no usable sample. `pinxit data check` says why.")
    return samples, dict(faults.reasons)


def _caption(sample: Sample) -> str:
    for kind in KINDS:
        if kind in sample.captions:
            return sample.captions[kind][0]
    return next(iter(sample.captions.values()))[0]
