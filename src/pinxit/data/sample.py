"""One picture with its captions, and what every source of them offers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from pinxit.errors import PinxitError
from pinxit.text.captions import choose, clean

Captions = Mapping[str, tuple[str, ...]]
"""Captions by kind: `alt` (as on the web), `short`, `long`; a kind that the sample lacks is absent."""

KINDS = ("alt", "short", "long")

MAX_TEXT_BYTES = 2**20
"""No sidecar is longer than this."""


class BadSample(PinxitError):  # noqa: N818
    """A sample that cannot be used. `key` names it, `reason` is a short word to count by, such as "no-caption"."""

    def __init__(self, key: str, reason: str, text: str) -> None:
        super().__init__(text)
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, str]]:
        return type(self), (self.key, self.reason, str(self))


@dataclass(frozen=True)
class Sample:
    """A picture (PIL, mode RGB), its captions, and whatever else the source knows about it."""

    key: str
    image: Image.Image
    captions: Captions
    meta: Mapping[str, Any]


class Pairs(Protocol):
    """Pictures with captions, by position.

    `fingerprint` changes when the content does. Unusable samples keep their position: asking for one raises
    `BadSample`, so that whoever iterates decides what a fault costs.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def captions_at(self, index: int) -> Captions:
        """The captions without the cost of the picture."""
        ...

    def meta_at(self, index: int) -> Mapping[str, Any]:
        """What else the source knows, without the cost of the picture."""
        ...


@runtime_checkable
class Stored(Protocol):
    """What a source offers besides, when its pictures are stored and not drawn."""

    def picture_bytes(self, index: int) -> bytes:
        """The picture as it is stored, without a look inside. Raises `BadSample` where it is out of reach."""
        ...


def draw_caption(key: str, captions: Captions, weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the captions of sample `key`, cleaned, its kind drawn by weight; without any of those kinds BadSample."""
    caption = choose(captions, weights, rng)
    if caption is None:
        asked = ", ".join(kind for kind, weight in weights.items() if weight > 0) or "no kind"
        fault = f"{key!r} has captions of kind {', '.join(captions)}; data.captions asks for {asked}."
        raise BadSample(key, "other-captions", fault)
    return clean(caption)


def read_captions(
    key: str, record: bytes | None, text: bytes | None, *, captioned: bool = True
) -> tuple[Captions, dict[str, Any]]:
    """Captions by kind and meta from the content of a `.json` and of a `.txt` or `.caption` sidecar, either or both."""
    fields: dict[str, Any] = {}
    if record is not None:
        try:
            fields = json.loads(record)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise BadSample(key, "bad-json", f"The JSON of {key!r} is not readable.") from None
        if not isinstance(fields, dict):
            raise BadSample(key, "bad-json", f"The JSON of {key!r} is not an object.")
    if text is not None:
        try:
            plain = text.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadSample(key, "not-utf8", f"The caption of {key!r} is not UTF-8 text.") from None
        fields = {**fields, "caption": [*_texts(key, fields.get("caption")), plain]}
    return captions_from_record(key, fields, captioned=captioned)


def captions_from_record(
    key: str, record: Mapping[str, Any], *, captioned: bool = True
) -> tuple[Captions, dict[str, Any]]:
    """Captions by kind, and the rest as meta, from a JSON sidecar or a table's row.

    `caption` and `captions` (a list, or a mapping from kind to text, where a kind that is unknown counts as short) are
    short, `text` is long, `keywords` joined are alt; `alt`, `short` and `long` speak for themselves. Raises `BadSample`
    where no caption is left and the sample has to be `captioned`.
    """
    found: dict[str, list[str]] = {kind: _texts(key, record.get(kind)) for kind in KINDS}
    several = record.get("captions")
    found["short"] += _texts(key, record.get("caption"))
    if isinstance(several, Mapping):
        for kind, texts in several.items():
            found[kind if kind in KINDS else "short"] += _texts(key, texts)
    else:
        found["short"] += _texts(key, several)
    found["long"] += _texts(key, record.get("text"))
    keywords = _texts(key, record.get("keywords"))
    if keywords:
        found["alt"].append(", ".join(keywords))
    captions = {kind: tuple(dict.fromkeys(texts)) for kind, texts in found.items() if texts}
    if captioned and not captions:
        raise BadSample(key, "no-caption", f"{key!r} has no caption, or only blank ones.")
    spoken = {*KINDS, "caption", "captions", "text", "keywords"}
    return captions, {name: value for name, value in record.items() if name not in spoken}


def _texts(key: str, value: Any) -> list[str]:
    """The non-blank texts in a str, a list of str or nothing."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise BadSample(key, "bad-caption", f"A caption of {key!r} is neither text nor a list of texts.")
    if any("\ud800" <= character <= "\udfff" for text in texts if not text.isascii() for character in text):
        raise BadSample(key, "not-utf8", f"A caption of {key!r} holds half a surrogate pair, which is no text.")
    return [text.strip() for text in texts if text.strip()]
