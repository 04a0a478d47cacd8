"""Several stages in order, each into its own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pinxit.recipes.recipe import Context, Stage


@dataclass(frozen=True)
class Pipeline:
    """Stages by the name of their folder below OUT, in the order in which each needs those before it."""

    name: str
    summary: str
    hardware: str
    hours: float
    expected: str
    stages: Mapping[str, Stage]

    def done(self, out: Path) -> bool:
        """Whether every stage is."""
        return all(stage.done(out / name) for name, stage in self.stages.items())

    def run(self, context: Context) -> None:
        """Runs what is not done yet; says what was skipped and what comes next."""
        names = list(self.stages)
        for number, (name, stage) in enumerate(self.stages.items(), start=1):
            place = f"Stage {number} of {len(names)}, {name}"
            if stage.done(context.out / name):
                context.world.say(f"{place}: done.")
                continue
            following = f" Next: {', '.join(names[number:])}." if names[number:] else " The last one."
            context.world.say(f"{place}: {stage.summary}{following}")
            stage.run(replace(context, out=context.out / name))
            context.world.wait()
