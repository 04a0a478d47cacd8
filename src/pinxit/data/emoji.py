"""Emoji drawn from an installed colour font, named by Unicode.

Names and groups come from Unicode's `emoji-test.txt`, keywords from the CLDR annotations; Debian packages both beside
the font. Keys, families and the choice of skin tones are those of the emoji sets that pinxit trains on: KEY is
`CODEPOINTS_STYLE`, without U+FE0F.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont, features

from pinxit.data.images import RESAMPLE, WHITE, Colour
from pinxit.data.sample import Captions, Sample, captions_from_record
from pinxit.errors import PinxitError

INSTALL = "On Debian and Ubuntu: `apt-get install fonts-noto-color-emoji unicode-data unicode-cldr-core`."

# Pixel sizes at which colour fonts carry their bitmaps: Noto's first, then Apple's.
_STRIKES = (109, 160, 128, 136, 96, 64)
_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
)

_TONES = range(0x1F3FB, 0x1F400)
_TONES_KEPT = 2  # of the five tones a person comes in, else people would be 60 % of the set
_VARIATION, _JOINER = 0xFE0F, 0x200D
_GENDER_SIGNS = frozenset({0x2640, 0x2642})
_ARROWS = frozenset({0x27A1, 0x2B05})
_UNGENDERED = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1, 0x1F466: 0x1F9D2, 0x1F467: 0x1F9D2}  # man, woman, boy, girl


@dataclass(frozen=True)
class Named:
    """One emoji as Unicode names it."""

    emoji: str
    caption: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def codepoints(self) -> tuple[int, ...]:
        return tuple(ord(character) for character in self.emoji if ord(character) != _VARIATION)

    @property
    def tones(self) -> tuple[int, ...]:
        return tuple(point for point in self.codepoints if point in _TONES)

    @property
    def base(self) -> tuple[int, ...]:
        """The code points without skin tones."""
        return tuple(point for point in self.codepoints if point not in _TONES)

    @property
    def family(self) -> tuple[int, ...]:
        """What is left without tones, gender and direction: emoji of one family show nearly the same."""
        parts = _split(self.base, _JOINER)
        kept = parts[:1] + [part for part in parts[1:] if len(part) != 1 or part[0] not in _GENDER_SIGNS | _ARROWS]
        folded = [[_UNGENDERED.get(point, point) for point in part] for part in kept]
        return tuple(point for i, part in enumerate(folded) for point in ([_JOINER] if i else []) + part)


def _split(points: Iterable[int], separator: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for point in points:
        if point == separator:
            parts.append([])
        else:
            parts[-1].append(point)
    return parts


class EmojiFont:
    """A colour font with bitmaps. `style` and `phrase` say what its drawings are called in keys and captions."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or find_font()
        self.family = str(self._font.getname()[0] or self.path.stem)
        noto = self.family.startswith("Noto")
        self.style = "noto" if noto else re.sub(r"[^a-z0-9]+", "-", self.family.lower()).strip("-")
        self.phrase = "a Noto emoji of" if noto else f"an emoji in {self.family} of"
        self.license = "OFL-1.1" if noto else "unknown"

    def has(self, emoji: str) -> bool:
        """Whether the font draws this as one glyph; it has none, or several for a sequence that it does not know."""
        left, top, right, bottom = self._font.getbbox(emoji)
        return 0 < right - left < 1.5 * (bottom - top)

    def draw(self, emoji: str) -> Image.Image:
        """The drawing of an emoji that the font has: square, RGBA on nothing, at the font's own size."""
        left, top, right, bottom = self._font.getbbox(emoji)
        sheet = Image.new("RGBA", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(sheet).text((-left, -top), emoji, font=self._font, embedded_color=True)
        ink = sheet.getbbox() or (0, 0, 0, 0)
        # Noto's glyphs are wider than high with empty sides; the square takes the height unless there is more ink.
        side = max(sheet.height, ink[2] - ink[0])
        square = Image.new("RGBA", (side, side))
        square.paste(sheet, ((side - sheet.width) // 2, (side - sheet.height) // 2))
        return square

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont:
        if not features.check("raqm"):
            raise PinxitError("Pillow is built without raqm here, which joins emoji sequences. Install Pillow's wheel.")
        for strike in _STRIKES:
            try:
                return ImageFont.truetype(str(self.path), strike, layout_engine=ImageFont.Layout.RAQM)
            except OSError:
                continue
        raise PinxitError(f"{self.path} has no colour bitmaps that can be drawn. {INSTALL}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_font"}


def find_font() -> Path:
    """An installed colour emoji font, Noto's before others. Raises `PinxitError` that says what to install."""
    found = [*_from_fontconfig(), *_from_folders()]
    named = [path for path in found if "emoji" in path.name.lower() and "colrv1" not in path.name.lower()]
    if not named:
        raise PinxitError(f"No colour emoji font is installed. {INSTALL}")
    return min(named, key=lambda path: ("noto" not in path.name.lower(), str(path)))


def _from_fontconfig() -> list[Path]:
    try:
        listed = subprocess.run(
            ["fc-list", ":color=true", "file"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(line.strip().rstrip(":").strip()) for line in listed.stdout.splitlines() if line.strip()]


def _from_folders() -> Iterator[Path]:
    for folder in _FONT_FOLDERS:
        for suffix in ("ttf", "ttc"):
            yield from Path(folder).expanduser().rglob(f"*[Ee]moji*.{suffix}")


def unicode_folder() -> Path:
    """The folder `unicode` among the XDG data folders that holds `emoji/emoji-test.txt`."""
    for folder in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        if (Path(folder) / "unicode/emoji/emoji-test.txt").is_file():
            return Path(folder) / "unicode"
    raise PinxitError(f"Unicode's emoji-test.txt, which names the emoji, is not installed. {INSTALL}")


def named_emoji(folder: Path) -> list[Named]:
    """Every emoji that Unicode recommends, in its order, with CLDR's keywords where those are installed."""
    keywords = _keywords(folder)
    group = subgroup = ""
    named = []
    for line in (folder / "emoji/emoji-test.txt").read_text("utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").lower()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").replace("-", " ")
        found = re.match(r"([0-9A-F ]+); fully-qualified +# \S+ E[\d.]+ (.+)", line)
        if found:
            emoji = "".join(chr(int(point, 16)) for point in found[1].split())
            words = keywords.get(emoji.replace(chr(_VARIATION), ""), ())
            named.append(Named(emoji, found[2], words, group, subgroup))
    return named


def _keywords(folder: Path) -> dict[str, tuple[str, ...]]:
    words: dict[str, tuple[str, ...]] = {}
    for part in ("annotations", "annotationsDerived"):
        path = folder / f"cldr/common/{part}/en.xml"
        if not path.is_file():
            continue
        for entry in ElementTree.parse(path).iter("annotation"):
            if entry.get("type") is None and entry.text:
                words[entry.get("cp", "").replace(chr(_VARIATION), "")] = tuple(entry.text.split(" | "))
    return words


def choose_tones(named: Iterable[Named]) -> list[Named]:
    """Without the mixed tones of couples, and with two of each person's five tones, the same two every time."""
    toned: dict[tuple[int, ...], list[Named]] = {}
    kept = []
    for emoji in named:
        if not emoji.tones:
            kept.append(emoji)
        elif len(set(emoji.tones)) == 1:
            toned.setdefault(emoji.base, []).append(emoji)
    for variants in toned.values():
        kept += sorted(variants, key=lambda emoji: _hash(_hex(emoji.codepoints)))[:_TONES_KEPT]
    return kept


class Emoji:
    """The emoji of an installed font, in a fixed pseudo-random order, as `Pairs`.

    The picture is `size` pixels a side on `background`; `drawing` gives it on nothing.
    """

    name = "emoji"

    def __init__(self, size: int = 128, *, background: Colour = WHITE, font: EmojiFont | None = None) -> None:
        self.size = size
        self.background = background
        self.font = font or EmojiFont()
        drawn = [each for each in choose_tones(named_emoji(unicode_folder())) if self.font.has(each.emoji)]
        self._named = sorted(drawn, key=lambda each: _hash(_hex(each.codepoints)))
        content = "\n".join(f"{each.emoji}\t{each.caption}\t{', '.join(each.keywords)}" for each in self._named)
        with self.font.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.fingerprint = hashlib.sha256(f"{size} {background} {digest} {content}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._named)

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        captions, meta = captions_from_record(record["key"], record)
        canvas = Image.new("RGBA", (self.size, self.size), (*self.background, 255))
        canvas.alpha_composite(self.drawing(index))
        return Sample(record["key"], canvas.convert("RGB"), captions, meta)

    def captions_at(self, index: int) -> Captions:
        """The captions without drawing."""
        record = self.record(index)
        return captions_from_record(record["key"], record)[0]

    def meta_at(self, index: int) -> dict[str, Any]:
        """What Unicode says besides, without drawing."""
        record = self.record(index)
        return captions_from_record(record["key"], record)[1]

    def drawing(self, index: int) -> Image.Image:
        """The emoji at `size`, RGBA; the colour of fully transparent pixels is 0."""
        drawing = self.font.draw(self._named[index].emoji)
        if drawing.width != self.size:
            drawing = drawing.resize((self.size, self.size), RESAMPLE)
        return drawing

    def record(self, index: int) -> Mapping[str, Any]:
        """What is known about the emoji, as its JSON sidecar has it."""
        named = self._named[index]
        return {
            "key": f"{_hex(named.codepoints)}_{self.font.style}",
            "caption": named.caption,
            "text": f"{self.font.phrase} {named.caption}",
            "keywords": list(named.keywords),
            "style": self.font.style,
            "codepoints": _hex(named.codepoints),
            "base": _hex(named.base),
            "emoji": named.emoji,
            "group": named.group,
            "subgroup": named.subgroup,
            "license": self.font.license,
            "family": _hex(named.family),
        }


def _hex(points: Iterable[int]) -> str:
    return "-".join(f"{point:x}" for point in points)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
