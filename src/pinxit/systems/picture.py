"""A picture that knows how it was made, and the PNG text that carries it."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from pinxit.atomic import write_atomically
from pinxit.errors import PinxitError

LAYOUT = 1
"""Version of the JSON under the PNG key `pinxit`; it grows when a field changes its meaning."""

LARGEST_FILE = 1 << 28
"""Bytes beyond which `read_settings` does not look into a file."""

A1111_NAMES = {
    "steps": "Steps",
    "sampler": "Sampler",
    "guidance": "CFG scale",
    "temperature": "Temperature",
    "top_k": "Top k",
    "top_p": "Top p",
    "rerank": "Best of",
}
"""Our settings -> the names that AUTOMATIC1111's `parameters` line and its readers use, where they have one."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture and what it takes to make it again.

    `settings` holds the sampling settings in force, defaults included, as JSON can keep them. `score` is the
    reranker's, higher is better; None where nothing judged the picture.
    """

    image: Image.Image
    prompt: str
    seed: int
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None

    def record(self) -> dict[str, Any]:
        """What the PNG key `pinxit` holds: layout, prompt, seed, model, settings, score, size [width, height]."""
        return {
            "layout": LAYOUT,
            "prompt": self.prompt,
            "seed": self.seed,
            "model": self.model,
            "settings": dict(self.settings),
            "score": self.score,
            "size": list(self.image.size),
        }

    def parameters(self) -> str:
        """The same as AUTOMATIC1111's web UI writes it: the prompt, then a line of `Name: value` pairs."""
        pairs: dict[str, Any] = {
            A1111_NAMES[name]: self.settings[name] for name in A1111_NAMES if name in self.settings
        }
        pairs |= {"Seed": self.seed, "Size": "{}x{}".format(*self.image.size), "Model": self.model}
        line = ", ".join(f"{name}: {_quote(value)}" for name, value in pairs.items() if value is not None)
        negative = self.settings.get("negative")
        return "\n".join([self.prompt, *([f"Negative prompt: {negative}"] if negative else []), line])

    def png(self) -> bytes:
        """The picture as PNG, its text with it."""
        text = PngImagePlugin.PngInfo()
        # PNG text ends at a NUL, and a lone surrogate is no Unicode; the JSON below escapes both and loses nothing.
        parameters = self.parameters().replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
        text.add_text("parameters", parameters)
        text.add_text("pinxit", json.dumps(self.record(), ensure_ascii=True))
        stream = io.BytesIO()
        self.image.save(stream, format="PNG", pnginfo=text)
        return stream.getvalue()

    def save(self, path: str | Path) -> Path:
        """Writes the PNG whole or not at all, making folders on the way; returns where it is."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise PinxitError(
                f"Pictures are written as PNG, which keeps prompt and settings; {path.name!r} ends otherwise. "
                f"Give a name such as {path.stem}.png."
            )
        write_atomically(path, self.png())
        return path

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        return self.png()


def read_settings(path: str | Path) -> dict[str, Any]:
    """The record that `Picture.save` left in a PNG, without decoding its pixels.

    The file may come from anywhere: its size, its compressed text and its JSON are bounded. Raises PinxitError where it
    is no PNG or carries no record.
    """
    path = Path(path)
    if not path.is_file():
        raise PinxitError(f"There is no picture {str(path)!r}.")
    if path.stat().st_size > LARGEST_FILE:
        raise PinxitError(f"{path.name!r} is larger than {LARGEST_FILE >> 20} MB; pictures with settings are smaller.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the pixels stay packed
            with Image.open(path, formats=["PNG"]) as image:
                text = image.info.get("pinxit")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise PinxitError(f"{path.name!r} cannot be read as a PNG picture: {fault}.") from None
    if not isinstance(text, str):
        raise PinxitError(f"{path.name!r} carries no settings: no model made it, or another program saved it.")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not {"layout", "prompt", "seed", "model"} <= record.keys():
        raise PinxitError(f"{path.name!r} carries settings that cannot be read.")
    return record


def _quote(value: Any) -> str:
    """A value as AUTOMATIC1111 quotes it, so that its readers can split the line at commas and colons."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text
