"""Where a model's checkpoint is: shipped with the package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from pinxit.checkpoints.files import fingerprint, read_config, settled
from pinxit.errors import PinxitError, unknown

DEFAULT = "dalle1-emoji"
"""The shipped model that answers where none is named."""

SHIPPED = Path(__file__).parent.parent / "shipped"

HUB_FILES = ["*.json", "*.safetensors", "*.md"]
"""What is fetched from the hub: never pickles."""


@dataclass(frozen=True)
class Found:
    """A checkpoint folder, and the name under which the person knows it."""

    name: str
    folder: Path


def shipped() -> dict[str, Path]:
    """The models in the package: name -> folder."""
    return {config.parent.name: config.parent for config in sorted(SHIPPED.glob("*/config.json"))}


def find(name: str | Path) -> Found:
    """The folder of a model: a shipped name, a checkpoint or training folder, or `hf:owner/name[@revision]`.

    A shipped name wins over a folder that is called the same; write `./NAME` for that folder. Raises PinxitError, with
    the nearest name, where there is nothing.
    """
    text = str(name)
    if text.startswith("hf:"):
        folder = fetch(text, HUB_FILES)
        if not (folder / "config.json").is_file():
            raise PinxitError(
                f"{text.removeprefix('hf:')!r} on the hub is no pinxit checkpoint: it has no config.json. "
                "`pinxit convert` reads public weights of other layouts."
            )
        return Found(text, folder)
    if text in shipped():
        return Found(text, shipped()[text])
    folder = Path(name).expanduser()
    if not settled(folder).is_dir():
        raise PinxitError(f"{unknown('model', text, shipped())} A checkpoint folder or hf:owner/name works as well.")
    for candidate in (folder, folder / "model"):  # a training folder keeps its finished checkpoint in model/
        if (settled(candidate) / "config.json").is_file():
            return Found(folder.resolve().name, settled(candidate))
    inside = sorted({str(config.parent) for part in ("*", "*/model") for config in folder.glob(f"{part}/config.json")})
    hint = f" Checkpoints below it: {', '.join(inside)}." if inside else ""
    if (folder / "recipe.json").is_file() or any(folder.glob("*/recipe.json")):
        raise PinxitError(
            f"{text!r} is a training run that is not finished. The same `pinxit train` command goes on with it.{hint}"
        )
    raise PinxitError(f"{text!r} is no checkpoint: it holds neither config.json nor model/config.json.{hint}")


def part(folder: Path, name: str) -> Path:
    """The folder of a system's part, if there is one: its own, or that of the shipped model that it is shared with.

    Raises PinxitError where this package has no such model, or one of other weights.
    """
    config, shared = read_config(folder), _shared(folder)
    if name not in shared:
        return folder / name
    inside = next((own / name for owner, own in shipped().items() if owner == shared[name]), None)
    if inside is None or fingerprint(inside) != config.get("made_from", {}).get(name):
        raise PinxitError(
            f"{folder / 'config.json'} shares its {name} with {shared[name]!r}, which is none of the models of this "
            f"package ({', '.join(shipped())}), or has other weights here. Install the pinxit that it belongs to."
        )
    return inside


def parts(folder: Path) -> list[Path]:
    """The folders of all parts of a system, its own and those that it shares, by their names."""
    own = {config.parent.name for config in folder.glob("*/config.json")}
    return [part(folder, name) for name in sorted({*own, *_shared(folder)})]


def _shared(folder: Path) -> dict[str, Any]:
    """What config.json says of parts that lie in shipped models: their names, and those of the models."""
    shared = read_config(folder).get("shared")
    return shared if isinstance(shared, dict) else {}


def fetch(address: str, files: Sequence[str]) -> Path:
    """The folder with the files of `hf:owner/name[@revision]` whose names are like one of `files`."""
    repository, _, revision = address.removeprefix("hf:").partition("@")
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(files))
    except (hub_errors.HFValidationError, OSError) as fault:  # every other fault of the hub's is an OSError
        raise PinxitError(_explain(fault, repository, revision)) from None
    return Path(folder)


def _explain(fault: Exception, repository: str, revision: str) -> str:
    match fault:
        case hub_errors.HFValidationError():
            return f"{repository!r} is no address on the hub; write hf:owner/name or hf:owner/name@revision."
        case hub_errors.RevisionNotFoundError():
            return f"{repository!r} on the hub has no revision {revision!r}."
        case hub_errors.GatedRepoError():
            return f"{repository!r} is gated: ask for access on its page, then log in with `hf auth login`."
        case hub_errors.RepositoryNotFoundError():
            return f"The hub has no model {repository!r}, or it is private; then log in with `hf auth login`."
    return (
        f"{repository!r} is not on this machine and the hub cannot be reached ({type(fault).__name__}). "
        "Connect, or give a checkpoint folder."
    )
