"""The one door for untrusted pictures, and the owner of the pixel range.

Everything outside this file sees either a PIL picture in mode RGB or a float tensor `3 h w` in [-1, 1].
"""

from __future__ import annotations

import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from torch import Tensor

from pinxit.errors import PinxitError

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

RESAMPLE = Image.Resampling.BICUBIC
"""How a picture is brought to another size, in training as in use: antialiased by `Image.resize`."""

# The readers are built directly and not through Image.open, which tries every plugin it knows and warns on its own.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_ORIENTATION_TAG = 0x0112
# EXIF orientation (2..8) -> what turns the stored picture upright. EXIF 2.32, section 4.6.4.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warnings_lock = threading.Lock()


class BadImage(PinxitError):  # noqa: N818
    """A picture that was refused.

    `reason` is one of: missing, empty, bytes, format, pixels, truncated, corrupt, mode.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost before it is decoded."""

    bytes: int = 64 * 2**20
    pixels: int = 64_000_000
    formats: frozenset[str] = frozenset(_READERS)


LIMITS = ImageLimits()


def open_image(
    source: str | Path | bytes | BinaryIO, *, background: Colour = WHITE, limits: ImageLimits = LIMITS
) -> Image.Image:
    """Read a picture that nobody vouches for.

    Format, bytes and pixels are judged from the header, before decoding. The result is upright (EXIF), its transparency
    lies on `background`, and an animation gives its first frame. 16-bit grey is scaled to 8 bits.

    Returns a PIL picture in mode RGB. Raises `BadImage`.
    """
    name, data = _read(source, limits.bytes)
    kind = format_of(data)
    if kind is None or kind not in limits.formats:
        allowed = ", ".join(sorted(limits.formats))
        raise BadImage("format", f"{name} is not a picture in an allowed format ({allowed}){_guess(data, kind)}.")
    try:
        with _quiet():  # Pillow warns about sizes and broken metadata; both are judged here
            image: Image.Image = _READERS[kind](io.BytesIO(data))
    except Image.DecompressionBombError:
        raise BadImage("pixels", f"{name} unpacks to more than the {limits.pixels} pixels allowed.") from None
    except Exception as fault:  # a decoder over hostile bytes raises anything
        raise _broken(name, kind, data, fault) from None
    width, height = image.size
    if width * height > limits.pixels:
        raise BadImage("pixels", f"{name} has {width}x{height} pixels; at most {limits.pixels} are allowed.")
    try:
        if kind in ("TIFF", "GIF"):  # these read further metadata while decoding
            with _quiet():
                image.load()
        else:
            image.load()
        turn = _UPRIGHT.get(_orientation(image))
        flat = _to_rgb(image, background, name)
    except BadImage:
        raise
    except Exception as fault:
        raise _broken(name, kind, data, fault) from None
    return flat if turn is None else flat.transpose(turn)


def _read(source: str | Path | bytes | BinaryIO, limit: int) -> tuple[str, bytes]:
    """The name for messages and the whole content, at most `limit` bytes."""
    if isinstance(source, bytes):
        name, data = "The picture", source
    elif isinstance(source, (str, Path)):
        name, path = f"Picture {str(source)!r}", Path(source)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("missing", f"{name} is not a file.")
            if status.st_size > limit:
                raise BadImage("bytes", f"{name} has {status.st_size} bytes; at most {limit} are allowed.")
            data = path.read_bytes()
        except (OSError, ValueError) as fault:
            why = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
            raise BadImage("missing", f"{name} cannot be read: {why}.") from None
    else:
        name, data = f"Picture {getattr(source, 'name', 'stream')!r}", source.read(limit + 1)
    if len(data) > limit:
        raise BadImage("bytes", f"{name} has more than the {limit} bytes allowed.")
    if not data:
        raise BadImage("empty", f"{name} is empty.")
    return name, data


def format_of(data: bytes) -> str | None:
    """The format by its signature, such as "PNG"; None where it is none of ours. A file's name says nothing."""
    head = data[:12]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM":
        return "BMP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return None


def _guess(data: bytes, kind: str | None) -> str:
    if kind is not None:
        return f": it is {kind}"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return ": it is a web page"
    if start.startswith((b"<svg", b"<?xml")):
        return ": it is SVG or XML"
    return ""


def _broken(name: str, kind: str, data: bytes, fault: Exception) -> BadImage:
    cut = "truncated" in str(fault).lower() or isinstance(fault, EOFError)
    if kind == "WEBP" and len(data) >= 8:
        cut = cut or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if cut:
        return BadImage("truncated", f"{name} is cut short: its {kind} data ends too early.")
    what = " ".join(str(fault).split()) or type(fault).__name__
    return BadImage("corrupt", f"{name} is a broken {kind}: {what[:120]}.")


def _orientation(image: Image.Image) -> int:
    try:
        with _quiet():
            value = image.getexif().get(_ORIENTATION_TAG, 1)
        return int(value)
    except Exception:  # broken metadata is no reason to lose the picture
        return 1


def _to_rgb(image: Image.Image, background: Colour, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _from_16_bit(image, background)
    if image.mode in ("I", "F"):
        raise BadImage("mode", f"{name} has 32-bit grey values without a known range; save it with 8 or 16 bits.")
    try:
        return opaque(image, background)
    except ValueError:
        raise BadImage("mode", f"{name} has the colour mode {image.mode}, which has no way to RGB.") from None


def _from_16_bit(image: Image.Image, background: Colour) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = background
    return Image.fromarray(pixels)


@contextmanager
def _quiet() -> Iterator[None]:
    # catch_warnings swaps a process-wide list, so threads take turns; nothing slow runs inside.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opaque(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """A PIL picture of any 8-bit mode in mode RGB, its transparency laid on `background`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def fit(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Scale so that the picture covers `size` (one side, or width and height), antialiased, and crop the centre."""
    target = (size, size) if isinstance(size, int) else size
    if image.size == target:
        return image
    return ImageOps.fit(image, target, method=RESAMPLE)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture -> float32 `3 h w` in [-1, 1]."""
    bytes_ = torch.from_numpy(np.array(image))  # h w 3
    return bytes_.permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1.0)


def to_pil(pixels: Tensor) -> Image.Image:
    """`3 h w` in [-1, 1] (clamped, rounded) -> an RGB picture. The exact inverse of `to_tensor`."""
    bytes_ = pixels.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def grid(images: Sequence[Image.Image], columns: int, pad: int = 2) -> Image.Image:
    """Pictures laid out row by row on white, `pad` pixels apart; every cell has the size of the largest picture."""
    if not images:
        raise PinxitError("A grid needs at least one picture.")
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    sheet = Image.new("RGB", (columns * (width + pad) - pad, rows * (height + pad) - pad), WHITE)
    for i, image in enumerate(images):
        sheet.paste(image, ((i % columns) * (width + pad), (i // columns) * (height + pad)))
    return sheet
