"""The last stage of a pipeline: the system, all parts in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import (
    fingerprint,
    read_config,
    read_tensors,
    replace_folder,
    write_config,
    write_tensors,
)
from pinxit.errors import PinxitError, unknown
from pinxit.recipes.recipe import Context
from pinxit.systems.system import Settings, check, system_class


@dataclass(frozen=True)
class ModelStage:
    """One folder with all that drawing needs, in half precision."""

    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling settings that this model draws best with."""
    licence: str = "that of the training pictures"
    card: str | None = None
    """The model's card, in Markdown; a plain one where there is none."""
    kind: str = "dalle1"
    """Of the system that the parts make."""
    parts: tuple[str, ...] = ("dvae", "clip", "transformer")
    """The stages whose products go in, each under its name."""
    takes: tuple[str, ...] = ()
    """Parts that go in as well where `--part` names them."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Parts that stay in a shipped model, by its name, and are not copied."""
    summary: str = "Put all parts into one folder."

    settings: ClassVar[tuple[str, ...]] = ("defaults", "licence", "shared")

    def __post_init__(self) -> None:
        known = system_class(self.kind).takes(self.kind)
        for name in self.defaults:
            if name not in known:
                raise unknown("sampling setting", name, known)
        for part, owner in self.shared.items():
            if part not in self.parts:
                raise unknown("part to share", part, self.parts)
            if owner not in catalogue.shipped():
                raise unknown("shipped model", owner, catalogue.shipped())
        check(1, 0, cast("Settings", self.defaults))

    def done(self, context: Context) -> bool:
        """Whether the folder holds these very parts and says the same of them."""
        try:
            config, said = read_config(context.out), self._said(context)
            card = (context.out / "README.md").read_text(encoding="utf-8")
        except (PinxitError, OSError):
            return False
        return {name: config.get(name, {}) for name in said} == said and card == self._card(context)

    def run(self, context: Context) -> None:
        """Copies the parts, and opens what they make."""
        if context.world.leads:
            folders = {part: context.model(part) for part in self._parts(context)}
            with replace_folder(context.out) as partial:
                write_config(partial, {"kind": self.kind, "parts": list(folders), **self._said(context)})
                (partial / "README.md").write_text(self._card(context), encoding="utf-8")
                for part, folder in folders.items():
                    if part not in self.shared:
                        _copy_part(folder, partial / part)
                # Parts that do not belong together are refused here, and not by whoever opens the model.
                system_class(self.kind).from_checkpoint(partial, torch.device("cpu"))
        context.world.wait()

    def _parts(self, context: Context) -> tuple[str, ...]:
        return *self.parts, *(part for part in self.takes if part in context.parts)

    def _card(self, context: Context) -> str:
        return self.card or (
            f"# {self.name}\n\nA system of kind {self.kind} ({', '.join(self._parts(context))}), trained by pinxit "
            f"from scratch on `{context.source}`. Licence of the weights: {self.licence}.\n"
        )

    def _said(self, context: Context) -> dict[str, Any]:
        made_from = {part: context.fingerprint(part) for part in self._parts(context)}
        for part, owner in self.shared.items():
            if made_from[part] != fingerprint(catalogue.shipped()[owner] / part):
                raise PinxitError(f"The {part} is not that of {owner}: give --part {part}={owner}, or share nothing.")
        said = {"defaults": dict(self.defaults), "licence": self.licence, "made_from": made_from}
        return {**said, "shared": dict(self.shared)}


def _copy_part(source: Path, target: Path) -> None:
    target.mkdir()
    write_config(target, read_config(source))
    for file in sorted(source.glob("*.safetensors")):
        write_tensors(target, file.stem, read_tensors(source, file.stem), torch.float16)
    if (source / "tokenizer.json").exists():
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
