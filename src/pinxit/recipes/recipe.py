"""A recipe: everything that decides what a trained network becomes, and how to put it together."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

import numpy as np
import torch

from pinxit.atomic import write_atomically
from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import fingerprint, from_config, read_config, save_checkpoint, to_config
from pinxit.data.images import WHITE, Colour
from pinxit.data.loader import Loader, Samples, Transform
from pinxit.data.pairs import open_pairs, source_name
from pinxit.data.sample import BadSample, Captions, Pairs, Sample
from pinxit.errors import PinxitError
from pinxit.objectives.objective import Batch, Objective
from pinxit.training.distributed import World
from pinxit.training.loop import TrainingConfig, train
from pinxit.training.optimizers import OptimizerConfig
from pinxit.training.state import last_step

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

UNMEASURED = "not measured yet"
"""The score to expect of a recipe that nobody has run in full."""

STAINS = "not pictures yet, but coloured stains, which show that everything works"
"""And of a small twin of a recipe for pictures from noise."""

FREE = (
    "recipe.licence",
    "recipe.training.workers",
    "recipe.training.log_every",
    "recipe.training.validate_every",
    "recipe.training.preview_every",
    "recipe.training.checkpoint_every",
    "recipe.training.tensorboard",
    "data.source",  # the fingerprint tells more
    "data.samples",
)
"""What a resumed run may change, since it does not touch the weights. Steps may grow."""

FIXED = ("model.", "made_from.")
"""What the weights are weights of: nobody can accept that it changes under them."""


@dataclass(frozen=True)
class DataConfig:
    """Which pictures are used. Recipes that need more settings derive their own."""

    background: Colour = WHITE
    """What lies under transparent pictures."""
    exclude: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Samples to leave out, by what their source says of them besides: `{"style": ("openmoji",)}`."""


class Source(Protocol):
    """What a recipe learns from: pictures with captions, or what an earlier stage made of them."""

    @property
    def fingerprint(self) -> str:
        """Changes when the content does."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Run:
    """What a recipe puts together for the loop."""

    objective: Objective
    samples: Samples
    transform: Transform
    config: Mapping[str, Any]
    """What config.json of the model says: its "kind", and its hyper-parameters as "config"."""
    validation: Callable[[], Iterable[Batch]] | None = None
    """The validation batches, afresh at each call."""
    tokenizer: str | None = None
    """The text of tokenizer.json."""
    card: Callable[[Mapping[str, float]], str] | None = None
    """The model's card, given the latest validation's numbers; none before the first validation."""


@dataclass(frozen=True)
class Context:
    """Where a stage runs: its data, its folder, the processes, and where the stages before it are."""

    data: str
    out: Path
    world: World = field(default_factory=World)
    parts: Mapping[str, str] = field(default_factory=dict)
    accept_changes: bool = False
    captioned: bool = False
    """Whether pictures without captions are faults, because this stage or one to come learns from captions."""

    def pairs(self, data: DataConfig, size: int) -> Pairs:
        """The pictures that SRC names, less those to exclude; what is drawn on the fly has `size` pixels a side."""
        found = open_pairs(self.data, size=size, background=data.background, captioned=self.captioned)
        return without(found, data.exclude)

    @property
    def source(self) -> str:
        """SRC as a checkpoint tells it."""
        return source_name(self.data)

    def describe(self, source: Source) -> dict[str, Any]:
        """What a checkpoint says of its data."""
        return {"source": self.source, "samples": len(source), "fingerprint": source.fingerprint}

    def part(self, name: str) -> Path:
        """The folder of another stage: the one given by `--part NAME=...`, else the neighbour of that name."""
        folder = Path(self.parts.get(name, self.out.parent / name))
        if not folder.is_dir():
            raise PinxitError(
                f"This needs {name!r} first, which is not in {folder}. Train it there, or give --part {name}=FOLDER."
            )
        return folder

    def model(self, name: str) -> Path:
        """The finished checkpoint of another stage; `--part` may name any model for it, or a system that holds one."""
        folder = catalogue.find(self.parts[name] if name in self.parts else self.part(name)).folder
        inside = catalogue.part(folder, name)
        return inside if (inside / "config.json").is_file() else folder

    def fingerprint(self, name: str) -> str:
        """What tells the product of another stage from any other: its shape and its very weights."""
        return fingerprint(self.model(name))


class Stage(Protocol):
    """A job that can be done by itself or as a part of a pipeline; its settings are its dataclass fields."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    def done(self, context: Context) -> bool:
        """Whether `context.out` holds what this stage would make."""
        ...

    def run(self, context: Context) -> None:
        """Does the job into `context.out`, from where an earlier run stopped."""
        ...


@dataclass(frozen=True)
class Recipe:
    """One network, or several that are trained together: a stage that trains."""

    name: str
    summary: str
    hardware: str
    hours: float | None
    """None where nobody has measured it."""
    expected: str
    """The score to expect, in words."""
    model: Any
    """The network's config dataclass."""
    objective: Any
    """The objective's settings, a dataclass; None where there are none."""
    data: Any
    """What is learnt from and how it is varied: a `DataConfig`, or of its own kind where there are no pictures."""
    optimizer: OptimizerConfig
    training: TrainingConfig
    learns_from: Callable[[Any, Context], Source]
    """Opens what is learnt from, given this recipe (as it is after overrides) and its context."""
    build: Callable[[Any, Context, Any], Run]
    """Puts the run together from this recipe, its context and what `learns_from` has opened."""
    licence: str = "that of the training pictures"
    """Of the weights; goes into the model's config.json."""
    needs: tuple[str, ...] = ()
    """The stages whose products this one learns from. If one of them was made anew, this one is no longer done."""
    takes: tuple[str, ...] = ()
    """Parts that `--part` may name beyond stages; they count as those do."""
    captioned: bool = False
    """Whether it learns from captions."""
    turns: Mapping[str, OptimizerConfig] = field(default_factory=dict)
    """Of the objective, that learn otherwise than by `optimizer`."""

    suits: Callable[[Recipe, Context], None] | None = None
    """Raises PinxitError where the pictures cannot be learnt from, before the stages of a pipeline that come first."""

    settings: ClassVar[tuple[str, ...]] = ("model", "objective", "data", "optimizer", "turns", "training", "licence")

    def resolved(self) -> dict[str, Any]:
        """The name and every setting, as JSON can hold them."""
        groups = {name: getattr(self, name) for name in self.settings}
        return {"name": self.name, **{name: to_config(group) for name, group in groups.items() if group}}

    def done(self, context: Context) -> bool:
        """Whether `context.out` holds the finished model of this very recipe, from this source and these parts."""
        try:
            config = read_config(context.out / "model")
            if config.get("step", 0) < self.training.steps or config.get("licence") != self.licence:
                return False
            said = self._said(context, self.learns_from(self, context))
        except PinxitError:
            return False
        return not differences(context.out, said, type(self.model))

    def check(self, context: Context) -> None:
        """Raises PinxitError for pictures that it cannot learn from."""
        if self.suits:
            self.suits(self, context)

    def run(self, context: Context) -> None:
        """Trains into `context.out`: recipe.json, log.jsonl, samples/, checkpoints/, model/."""
        out, world = context.out, context.world
        source = self.learns_from(self, context)  # before anything is written: it may not be there
        out.mkdir(parents=True, exist_ok=True)
        with claim(out) if world.leads else contextlib.nullcontext():
            said = self._said(context, source)
            self._check_changes(context, differences(out, said, type(self.model)))
            torch.manual_seed(self.training.seed)  # the first weights
            self._train(self.build(self, context, source), said, context)

    def _check_changes(self, context: Context, changed: list[str]) -> None:
        """Raises PinxitError unless a run in `context.out` may go on with what has changed."""
        if not changed:
            return
        begun = f"{context.out} was begun with other settings: {'; '.join(changed)}."
        if fixed := [change for change in changed if change.startswith(FIXED)]:
            several = "these" if len(fixed) > 1 else "this"
            raise PinxitError(
                f"{begun} Its weights cannot take over {several} ({'; '.join(fixed)}): give the same to go on, or "
                "another --out to begin anew."
            )
        if not context.accept_changes:
            raise PinxitError(
                f"{begun} Give the same ones to go on, another --out to begin anew, or --accept-changes to go on with "
                "the new ones."
            )
        if (step := last_step(context.out / "checkpoints")) >= self.training.steps:
            raise PinxitError(
                f"{begun} No step is left that could use the new ones: {step} of {self.training.steps} are done. Give "
                "more training.steps, or another --out to begin anew."
            )

    def _said(self, context: Context, source: Source) -> dict[str, Any]:
        given = [name for name in self.takes if name in context.parts]
        made_from = {name: context.fingerprint(name) for name in (*self.needs, *given)}
        return {"recipe": self.resolved(), "data": context.describe(source), "made_from": made_from}

    def _train(self, run: Run, said: Mapping[str, Any], context: Context) -> None:
        world, training = context.world, self.training

        def save_model(folder: Path, *, step: int, metrics: Mapping[str, float]) -> None:
            save_checkpoint(
                folder,
                {**run.config, **said, "step": step, "metrics": metrics, "licence": self.licence},
                run.objective.networks(),
                tokenizer=run.tokenizer,
                card=run.card(metrics) if run.card else None,
            )

        def begin() -> None:
            world.wait()  # all have compared with the earlier one
            if world.leads:
                text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
                write_atomically(context.out / "recipe.json", text.encode())

        loader = Loader(
            run.samples,
            batch_size=training.batch_size // training.accumulate,
            transform=run.transform,
            seed=training.seed,
            rank=world.rank,
            world=world.size,
            workers=training.workers,
        )
        train(
            run.objective,
            loader,
            training,
            self.optimizer,
            out=context.out,
            save_model=save_model,
            validation=run.validation,
            begin=begin,
            world=world,
            turns=self.turns,
        )


@dataclass(frozen=True)
class Part:
    """Some of the pairs, by their positions."""

    pairs: Pairs
    positions: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.pairs.name

    @property
    def fingerprint(self) -> str:
        return self.pairs.fingerprint

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return self.pairs[self.positions[index]]

    def captions_at(self, index: int) -> Captions:
        return self.pairs.captions_at(self.positions[index])

    def meta_at(self, index: int) -> Mapping[str, Any]:
        return self.pairs.meta_at(self.positions[index])


def without(pairs: Pairs, exclude: Mapping[str, tuple[str, ...]]) -> Pairs:
    """The pairs, less those whose meta has one of the values under the name: `{"style": ("openmoji",)}`.

    Warns of a name that no sample has: what was to be left out may be learnt from.
    """
    if not exclude:
        return pairs
    names: set[str] = set()
    kept = []
    for index in range(len(pairs)):
        try:
            meta = pairs.meta_at(index)
        except BadSample:
            meta = {}  # whoever reads the sample counts and names it
        names.update(meta)
        if not any(meta.get(name) in values for name, values in exclude.items()):
            kept.append(index)
    for name in sorted(exclude.keys() - names):
        said = ", ".join(sorted(names)) or "nothing"
        logger.warning("data.exclude.%s leaves nothing out: the samples of %s say %s.", name, pairs.name, said)
    return Part(pairs, tuple(kept))


def hold_back(pairs: Pairs, count: int) -> tuple[Part, Part]:
    """The pairs to train on, and `count` others for validation (a tenth at most); the same ones each time."""
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    count = min(count, len(order) // 10)
    return Part(pairs, tuple(sorted(order[count:]))), Part(pairs, tuple(sorted(order[:count])))


def held_batches(held: Samples, transform: Transform, batch_size: int) -> Callable[[], Iterator[Batch]] | None:
    """Validation batches of those held back, in their order, all full; None where nothing was held back."""
    size = min(batch_size, len(held))

    def batches() -> Iterator[Batch]:
        loader = Loader(held, batch_size=size, transform=transform, seed=0, shuffle=False)
        return islice(iter(loader), len(held) // size)

    return batches if len(held) else None


def differences(out: Path, said: Mapping[str, Any], model: type) -> list[str]:
    """What recipe.json in `out` says otherwise than `said`, as "key: before -> now"; what may change is left out.

    Of the same configuration of a `model` there may be several ways to write it.
    """
    file = out / "recipe.json"
    if not file.exists():
        return []
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PinxitError(f"{file} cannot be read: {error}. Begin anew in another folder.") from error
    with contextlib.suppress(PinxitError, KeyError, TypeError):  # what cannot be read differs as it stands
        recorded["recipe"]["model"] = to_config(from_config(model, recorded["recipe"]["model"]))
    both = recorded.keys() & said.keys()
    changed = []
    for key, (was, new) in changes(*({group: value[group] for group in both} for value in (recorded, said))).items():
        grown = key == "recipe.training.steps" and isinstance(was, int) and isinstance(new, int) and new > was
        if key not in FREE and not grown:
            changed.append(f"{key.removeprefix('recipe.')}: {was} -> {new}")
    return changed


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by its path: what it was, and is; None where it was or is not there."""
    was, new = _flat(before), _flat(now)
    return {key: (was.get(key), new.get(key)) for key in {**new, **was} if was.get(key) != new.get(key)}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        key: held
        for name, inner in value.items()
        for key, held in _flat(inner, f"{path}.{name}" if path else name).items()
    }


@contextlib.contextmanager
def claim(out: Path) -> Iterator[None]:
    """Keeps a second process from training into the same folder. The claim ends with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        if not _lock(file):
            raise PinxitError(f"Another process is training into {out}. Wait for it, or choose another --out.")
        yield


def _lock(file: IO[str]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by data workers
    except OSError:
        return False
    return True
