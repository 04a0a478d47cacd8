"""Several stages in order, each into its own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pinxit.checkpoints.files import from_config, read_config
from pinxit.errors import PinxitError, unknown
from pinxit.models.clip import CLIPConfig
from pinxit.models.denoiser import DenoiserConfig
from pinxit.recipes.recipe import Context, Recipe, Stage


@dataclass(frozen=True)
class Pipeline:
    """Stages by the name of their folder below OUT, in the order in which each needs those before it."""

    name: str
    summary: str
    hardware: str
    hours: float | None
    """None where nobody has measured it."""
    expected: str
    stages: Mapping[str, Stage]

    def done(self, context: Context) -> bool:
        """Whether every stage is, or is taken from elsewhere."""
        context = self._seen(context)
        return all(
            name in context.parts or stage.done(replace(context, out=context.out / name))
            for name, stage in self.stages.items()
        )

    def run(self, context: Context) -> None:
        """Runs what is neither done yet nor taken from elsewhere; says what was skipped and what comes next."""
        context, names = self._seen(context), list(self.stages)
        known = [*names, *(part for stage in self.stages.values() for part in getattr(stage, "takes", ()))]
        for part in context.parts:
            if part not in known:
                raise unknown("part", part, known)
            # What is not there, or another network, is told before hours of training.
            _check_part(part, context.parts[part], context.model(part), self.stages.get(part))
        for name, stage in self.stages.items():
            if isinstance(stage, Recipe) and name not in context.parts:
                stage.check(replace(context, out=context.out / name))  # and so is what comes to nothing
        for number, (name, stage) in enumerate(self.stages.items(), start=1):
            place = f"Stage {number} of {len(names)}, {name}"
            inner = replace(context, out=context.out / name)
            if name in context.parts:
                context.world.say(f"{place}: taken from {context.parts[name]}.")
                continue
            # The leader's answer counts for all: one that asks later would see what another has begun to write.
            if context.world.any(context.world.leads and stage.done(inner)):
                context.world.say(f"{place}: done.")
                continue
            following = f" Next: {', '.join(names[number:])}." if names[number:] else " The last one."
            context.world.say(f"{place}: {stage.summary}{following}")
            stage.run(inner)
            context.world.wait()

    def _seen(self, context: Context) -> Context:
        """All stages see the same pictures: those without captions only if none that is still to be made reads any."""
        captioned = any(
            getattr(stage, "captioned", False) for name, stage in self.stages.items() if name not in context.parts
        )
        return replace(context, captioned=captioned)


def _check_part(name: str, given: str, folder: Path, stage: Stage | None) -> None:
    """Raises PinxitError for what cannot stand for a stage that makes a CLIP or a denoiser.

    Of other stages any that the system reads will do, such as another codec.
    """
    if not isinstance(stage, Recipe) or not isinstance(stage.model, CLIPConfig | DenoiserConfig):
        return
    wanted, said = stage.model, read_config(folder)
    try:
        found = from_config(type(wanted), said.get("config", {}))
    except PinxitError:
        raise PinxitError(
            f"--part {name}={given} is of kind {said['kind']}. What the recipe {stage.name} makes is wanted there, or "
            "a system with such a part."
        ) from None
    if isinstance(found, DenoiserConfig) and isinstance(wanted, DenoiserConfig):
        asks = [("texts" if config.text else "classes" if config.classes else "nothing") for config in (found, wanted)]
        if asks[0] != asks[1]:
            raise PinxitError(f"--part {name}={given} draws after {asks[0]}, and {stage.name} after {asks[1]}.")
