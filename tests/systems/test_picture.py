"""Pictures carry how they were made, through PNG and back, whatever the prompt holds."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pinxit import PinxitError
from pinxit.systems.picture import Picture, read_settings

PROMPTS = [
    "a red apple",
    "ein grüner Baum, 日本語, 🍎🧑‍🍳",
    'she said "hi": a, b, c',
    "two\nlines\r\nand a tab\t",
    "nul\0inside",
    "lone surrogate \ud83c",
    "\x1b[31mred",
    "",
    "Steps: 1, Seed: 2",
]


def picture(prompt: str = "a red apple") -> Picture:
    chosen = {"guidance": 3.0, "top_k": 64, "size": [4, 6]}
    return Picture(Image.new("RGB", (4, 6), (9, 8, 7)), prompt, 7, "dalle1-emoji", chosen, 0.25)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_settings_come_back_as_they_were(tmp_path: Path, prompt: str) -> None:
    made = picture(prompt)
    path = made.save(tmp_path / "new" / "apple.png")
    assert read_settings(path) == {
        "layout": 1,
        "prompt": prompt,
        "seed": 7,
        "model": "dalle1-emoji",
        "settings": {"guidance": 3.0, "top_k": 64, "size": [4, 6]},
        "score": 0.25,
        "size": [4, 6],
    }
    assert [file.name for file in path.parent.iterdir()] == ["apple.png"]
    with Image.open(path) as image:
        assert image.tobytes() == made.image.tobytes()
        assert "\0" not in image.info["parameters"]


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_any_prompt_survives(prompt: str) -> None:
    with Image.open(io.BytesIO(picture(prompt).png())) as image:
        assert json.loads(image.info["pinxit"])["prompt"] == prompt


def test_two_megabytes_of_prompt_survive(tmp_path: Path) -> None:
    prompt = "🍎 " * (1 << 19)
    assert read_settings(picture(prompt).save(tmp_path / "long.png"))["prompt"] == prompt


def test_parameters_read_as_the_web_ui_writes_them() -> None:
    lines = picture("a red apple").parameters().split("\n")
    assert lines == ["a red apple", "CFG scale: 3.0, Top k: 64, Seed: 7, Size: 4x6, Model: dalle1-emoji"]


def test_parameters_quote_what_would_split_the_line() -> None:
    made = Picture(Image.new("RGB", (1, 1)), "x", 0, "hf:a/b, c", {"negative": "dull"})
    assert made.parameters().split("\n") == ["x", "Negative prompt: dull", 'Seed: 0, Size: 1x1, Model: "hf:a/b, c"']


def test_notebooks_show_it() -> None:
    assert picture()._repr_png_().startswith(b"\x89PNG")


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"written as PNG.*apple\.png"):
        picture().save(tmp_path / "apple.jpg")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture().save(tmp_path / "apple.png")
    before = path.read_bytes()

    def full(_: Picture) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Picture, "png", full)
    with pytest.raises(OSError, match="No space"):
        picture("other").save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, size: tuple[int, int] = (1, 1)) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )


def packed(text: bytes) -> bytes:
    return chunk(b"zTXt", b"pinxit\0\0" + zlib.compress(text, 9))


RECORD = json.dumps({"layout": 1, "prompt": "p", "seed": 1, "model": "m"}).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cannot be read as a PNG"),
        (b"GIF89a", "cannot be read as a PNG"),
        (png_with(), "carries no settings"),
        (png_with(packed(b"[" * 100_000)), "cannot be read"),
        (png_with(packed(b"{}")), "cannot be read"),
        (png_with(packed(b"[1]")), "cannot be read"),
        (png_with(packed(b"no json")), "cannot be read"),
        (png_with(packed(b" " * (80 << 20) + RECORD)), "cannot be read|carries no"),
        (png_with(*[packed(b" " * (1 << 20))] * 80), "cannot be read|carries no"),
        (png_with(chunk(b"tEXt", b"pinxit\0" + RECORD))[:50], "cannot be read|carries no"),
        (png_with(size=(60_000, 60_000)), "cannot be read|carries no"),
    ],
    ids=["empty", "gif", "bare", "deep", "fields", "list", "words", "bomb", "bombs", "cut", "huge"],
)
def test_hostile_files_get_one_clear_line(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(PinxitError, match=text) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_large_pictures_are_read_without_their_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_with(chunk(b"tEXt", b"pinxit\0" + RECORD), size=(12_000, 12_000)))
    assert read_settings(path)["prompt"] == "p"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"no picture .*none\.png"):
        read_settings(tmp_path / "none.png")


def test_pillow_still_bounds_packed_text() -> None:
    """`read_settings` leans on these limits of Pillow's."""
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 1 << 20
    assert PngImagePlugin.MAX_TEXT_MEMORY <= 1 << 26
