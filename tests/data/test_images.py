from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pinxit.data.images import BadImage, ImageLimits, fit, format_of, grid, open_image, to_pil, to_tensor
from pinxit.errors import PinxitError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves(width: int = 8, height: int = 4) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def refused(source: Any, **options: Any) -> BadImage:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImage) as caught:
            open_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_every_allowed_format_opens_as_rgb(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(two_halves(64, 32), kind, **options)
    image = open_image(data)
    assert (image.mode, image.size, format_of(data)) == ("RGB", (64, 32), kind)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(two_halves(64, 32))).mean() < 3


def test_a_path_a_str_bytes_and_a_stream_are_the_same(tmp_path: Path) -> None:
    data = encoded(two_halves())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    pictures = [open_image(source) for source in (path, str(path), data, io.BytesIO(data))]
    assert all(picture.tobytes() == two_halves().tobytes() for picture in pictures)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(np.arange(6 * 3, dtype=np.uint8).reshape(2, 3, 3))
    # Orientation says what was done to the upright picture; the table holds its undoing.
    undone = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undone[orientation]) if orientation > 1 else upright
    assert open_image(encoded(stored, exif=exif)).tobytes() == upright.tobytes()


def test_broken_exif_costs_neither_the_picture_nor_a_warning() -> None:
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data).size == (64, 64)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P bytes", "P index", "RGB key", "L key"])
def test_transparency_lies_on_the_background(mode: str, background: tuple[int, int, int]) -> None:
    options: dict[str, Any] = {}
    if mode == "RGBA":
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    elif mode == "LA":
        image = Image.new("LA", (4, 4), (0, 0))
    elif mode.startswith("P"):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([9, 9, 9, 7, 7, 7])
        options["transparency"] = b"\xff\0" if mode == "P bytes" else 1
    elif mode == "RGB key":
        image, options["transparency"] = Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)
    else:
        image, options["transparency"] = Image.new("L", (4, 4), 5), 5
    opened = open_image(encoded(image, **options), background=background)
    assert opened.getcolors() == [(16, background)]


def test_half_transparency_is_mixed() -> None:
    opened = open_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert opened.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str, mode: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    assert [open_image(encoded(image, kind)).getpixel((x, 0)) for x in range(4)] == [
        (0, 0, 0),
        (1, 1, 1),
        (128, 128, 128),
        (255, 255, 255),
    ]


def test_a_transparent_16_bit_grey_lies_on_the_background() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    rows = b"\0" + struct.pack(">HH", 1000, 65535)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", 1000)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    opened = open_image(data, background=RED)
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_16_bit_colour_opens() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 65535, 0, 32896))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert open_image(data).getpixel((0, 0)) == (255, 0, 128)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (4, 4), 200), "PNG"),
        (Image.new("1", (4, 4), 1), "PNG"),
        (Image.new("P", (4, 4)), "PNG"),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"),
        (Image.new("YCbCr", (16, 16)), "TIFF"),
    ],
    ids=["grey", "one bit", "palette", "CMYK JPEG", "CMYK TIFF", "YCbCr TIFF"],
)
def test_other_colour_modes_open_as_rgb(image: Image.Image, kind: str) -> None:
    opened = open_image(encoded(image, kind))
    assert opened.mode == "RGB"
    if image.mode == "CMYK":
        red, green, blue = opened.getpixel((8, 8))  # type: ignore[misc]
        assert red > 200
        assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, _, blue = open_image(data).getpixel((8, 8))  # type: ignore[misc]
    assert red > 240
    assert blue < 20


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = encoded(noise(), kind)
    fault = refused(data[: int(len(data) * share)])
    assert fault.reason in ("truncated", "corrupt")
    if kind in ("PNG", "JPEG", "WEBP", "BMP"):
        assert fault.reason == "truncated"
        assert "cut short" in str(fault)


def test_flipped_bytes_give_a_picture_or_one_clear_line() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = np.frombuffer(encoded(noise(16, 16), kind), dtype=np.uint8)
        for _ in range(60):
            hurt = data.copy()
            hurt[rng.integers(0, len(hurt), 3)] = rng.integers(0, 256, 3)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    assert open_image(hurt.tobytes()).mode == "RGB"
                except BadImage as fault:
                    assert "\n" not in str(fault)  # noqa: PT017


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (b"", "empty", "The picture is empty"),
        (b"<!DOCTYPE html><html></html>", "format", "it is a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format", "it is SVG or XML"),
        (b"8BPS\0\1" + bytes(20), "format", "allowed format (BMP, GIF, JPEG, PNG, TIFF, WEBP)"),
        (b"SIMPLE  =                    T" + bytes(50), "format", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "corrupt", "broken PNG"),
    ],
    ids=["empty", "html", "svg", "psd", "fits", "png of zeros"],
)
def test_what_is_no_picture_is_named(data: bytes, reason: str, text: str) -> None:
    fault = refused(data)
    assert fault.reason == reason
    assert text in str(fault)


def test_a_format_can_be_left_off_the_list() -> None:
    fault = refused(encoded(two_halves(), "GIF"), limits=ImageLimits(formats=frozenset({"PNG"})))
    assert (fault.reason, "allowed format (PNG): it is GIF" in str(fault)) == ("format", True)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize("side", [8001, 9900, 12_000, 60_000, 2**31 - 1])
def test_too_many_pixels_are_refused_from_the_header_without_a_warning(side: int) -> None:
    fault = refused(png_header(side, side))
    assert fault.reason == "pixels"
    assert f"{side}x{side} pixels; at most 64000000" in str(fault)


@pytest.mark.parametrize("side", [9900, 20_000])
def test_a_gif_whose_frame_outgrows_its_screen_is_refused(side: int) -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00;"
    assert refused(screen + frame).reason == "pixels"


def test_the_pixel_limit_itself_is_allowed() -> None:
    limits = ImageLimits(pixels=32)
    assert open_image(encoded(two_halves(8, 4)), limits=limits).size == (8, 4)
    assert refused(encoded(two_halves(9, 4)), limits=limits).reason == "pixels"


def test_too_many_bytes_are_refused_unread(tmp_path: Path) -> None:
    limits = ImageLimits(bytes=100)
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert refused(path, limits=limits).reason == "bytes"
    assert refused(bytes(101), limits=limits).reason == "bytes"
    assert refused(io.BytesIO(bytes(101)), limits=limits).reason == "bytes"


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "absent.png", tmp_path, tmp_path / "pipe", "a\0b.png"):
        fault = refused(source)
        assert fault.reason == "missing"
        assert str(source) in str(fault) or "null byte" in str(fault)


def test_32_bit_grey_has_no_known_range() -> None:
    assert refused(encoded(Image.new("F", (4, 4)), "TIFF")).reason == "mode"


def test_a_compressed_text_bomb_is_refused() -> None:
    bomb = b"a\0\0" + zlib.compress(bytes(80 * 2**20))
    data = encoded(two_halves())
    fault = refused(data[:33] + png_chunk(b"zTXt", bomb) * 2 + data[33:])
    assert fault.reason == "corrupt"


def test_the_tensor_and_the_picture_are_each_others_inverse() -> None:
    image = noise(32, 16)
    pixels = to_tensor(image)
    assert (pixels.shape, pixels.dtype) == ((3, 16, 32), torch.float32)
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)
    assert to_pil(pixels).tobytes() == image.tobytes()


def test_pixels_out_of_range_are_clamped() -> None:
    pixels = torch.tensor([-3.0, 0.0, 3.0]).reshape(3, 1, 1)
    assert to_pil(pixels).getpixel((0, 0)) == (0, 128, 255)


def test_fit_scales_the_shorter_side_and_crops_the_centre() -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (90, 0, 210, 100))
    assert fit(image, 50).getcolors() == [(2500, BLUE)]
    assert fit(image, (60, 20)).size == (60, 20)
    assert fit(image, (300, 100)) is image


def test_fit_is_antialiased() -> None:
    checks = Image.fromarray(np.tile(np.array([[0, 255], [255, 0]], np.uint8), (32, 32))).convert("RGB")
    assert np.abs(np.asarray(fit(checks, 16)).astype(float) - 127.5).max() < 3


def test_a_grid_keeps_the_order_and_the_gaps() -> None:
    sheet = grid([Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE, RED)], columns=2, pad=2)
    assert sheet.size == (10, 10)
    assert [sheet.getpixel(at) for at in ((0, 0), (6, 0), (0, 6), (6, 6), (5, 5))] == [
        RED,
        BLUE,
        RED,
        (255, 255, 255),
        (255, 255, 255),
    ]
    with pytest.raises(PinxitError, match="at least one picture"):
        grid([], columns=2)
