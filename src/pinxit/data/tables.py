"""Tables of pictures and captions: CSV, TSV, JSON lines, Parquet, and COCO's captions JSON."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pinxit.data.folders import bytes_inside, keys_of, picture_inside
from pinxit.data.images import LIMITS, WHITE, Colour, ImageLimits
from pinxit.data.sample import KINDS, BadSample, Captions, Sample, captions_from_record
from pinxit.errors import PinxitError

# In order of precedence; case does not matter.
IMAGE_COLUMNS = ("file_name", "filename", "image_path", "filepath", "file", "path", "image", "img")
CAPTION_COLUMNS = ("caption", "text", "captions", "prompt", "description", "title", *KINDS)

Row = Mapping[str, Any] | BadSample
"""A row by column, or why it could not be read."""


class Table:
    """The rows of a table, in order, as `Pairs`; rows that name the same picture are one sample with several captions.

    Picture paths are relative to `root`, and one that leads out of it is refused.
    """

    def __init__(
        self,
        table: Path,
        rows: Iterator[Row],
        *,
        root: Path,
        background: Colour = WHITE,
        limits: ImageLimits = LIMITS,
        captioned: bool = True,
    ) -> None:
        self.captioned = captioned
        self.name = str(table)
        self.root = root
        self.background = background
        self.limits = limits
        with table.open("rb") as file:
            self.fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._faults: list[BadSample] = []
        for row in rows:
            self._add(row)
        self._names = list(self._records)
        self._keys = keys_of(self._names)

    def __len__(self) -> int:
        return len(self._records) + len(self._faults)

    def __getitem__(self, position: int) -> Sample:
        key, captions, meta = self._described(position)
        image = picture_inside(self.root, self._names[position], key, self.background, self.limits)
        return Sample(key, image, captions, meta)

    def picture_bytes(self, position: int) -> bytes:
        """The picture as it is stored."""
        key = self._described(position)[0]
        return bytes_inside(self.root, self._names[position], key, self.limits.bytes)

    def captions_at(self, position: int) -> Captions:
        """The captions without the cost of the picture."""
        return self._described(position)[1]

    def meta_at(self, position: int) -> dict[str, Any]:
        """The other columns, without the cost of the picture."""
        return self._described(position)[2]

    def _described(self, position: int) -> tuple[str, Captions, dict[str, Any]]:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        if position >= len(self._names):
            fault = self._faults[position - len(self._names)]
            raise BadSample(fault.key, fault.reason, str(fault))  # one that is kept would keep every traceback
        key, records = self._keys[position], self._records[self._names[position]]
        return key, *captions_from_record(key, _merged(records), captioned=self.captioned)

    def _add(self, row: Row) -> None:
        if isinstance(row, BadSample):
            self._faults.append(row)
            return
        image, caption = _column(row, IMAGE_COLUMNS), _column(row, CAPTION_COLUMNS)
        if len(self) == 0 and (image is None or (caption is None and self.captioned)):
            what, allowed = ("image", IMAGE_COLUMNS) if image is None else ("caption", CAPTION_COLUMNS)
            given = ", ".join(str(column) for column in row)
            raise PinxitError(f"{self.name} has no {what} column: it has {given}; allowed are {', '.join(allowed)}.")
        where = f"row {len(self) + 1}"
        name = None if image is None else row[image]
        if isinstance(name, Mapping) and "bytes" in name:
            raise PinxitError(
                f"Column {image!r} of {self.name} holds pictures; save them as files and give their paths."
            )
        if not isinstance(name, str) or not name:
            self._faults.append(BadSample(where, "no-picture", f"A row of {self.name} names no picture."))
            return
        if caption is None and self.captioned:
            self._faults.append(BadSample(where, "no-caption", f"The row of {self.name} for {name!r} has no caption."))
            return
        record = {str(column): value for column, value in row.items() if column not in (image, caption)}
        if caption is not None:
            kept = caption if caption.lower() in ("captions", *KINDS) else "caption"
            record[kept] = row[caption]
        self._records.setdefault(name, []).append(record)


def _column(row: Mapping[str, Any], allowed: tuple[str, ...]) -> str | None:
    columns = {str(column).lower(): column for column in row}
    return next((columns[name] for name in allowed if name in columns), None)


def _merged(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One record with the captions of all; the rest is that of the first."""
    if len(records) == 1:
        return records[0]
    merged = dict(records[0])
    for name in ("caption", "captions", "text", "keywords", *KINDS):
        values = [record[name] for record in records if record.get(name) is not None]
        if values and all(isinstance(value, (str, list)) for value in values):
            merged[name] = [text for value in values for text in ([value] if isinstance(value, str) else value)]
    return merged


def open_table(path: Path, *, background: Colour = WHITE, captioned: bool = True) -> Table:
    """A `.csv`, `.tsv`, `.jsonl` or `.parquet` file with an image path column and a caption column."""
    rows = READERS[path.suffix.lower()](path)
    return Table(path, rows, root=path.parent, background=background, captioned=captioned)


def open_coco(path: Path, images: Path, *, background: Colour = WHITE) -> Table:
    """COCO's captions JSON with the folder that holds its pictures; each sample has all captions of its picture."""
    if not images.is_dir():
        raise PinxitError(f"The picture folder {images} of {path} does not exist.")
    return Table(path, _coco_rows(path), root=images, background=background)


def _csv_rows(path: Path, dialect: str = "excel") -> Iterator[Row]:
    # Undecodable bytes come through as lone surrogates, so that one bad row costs one row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, dialect=dialect, restkey="", restval=None)
        try:
            for row in reader:
                key = f"line {reader.line_num}"
                if "" in row or None in row.values():
                    yield BadSample(key, "bad-row", f"{path}, {key}: the number of fields is not that of the header.")
                elif not all(_is_utf8(value) for value in row.values()):
                    yield BadSample(key, "not-utf8", f"{path}, {key}: not UTF-8 text.")
                else:
                    yield row
        except csv.Error as fault:
            raise PinxitError(f"{path} cannot be read as {path.suffix[1:].upper()}: {fault}.") from None


def _tsv_rows(path: Path) -> Iterator[Row]:
    return _csv_rows(path, dialect="excel-tab")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            key = f"line {number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield BadSample(key, "not-utf8", f"{path}, {key}: not UTF-8 text.")
                continue
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else BadSample(key, "bad-row", f"{path}, {key}: not a JSON object.")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise PinxitError("Parquet tables need pyarrow: `pip install pinxit[parquet]`.") from None
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (ArrowException, OSError) as fault:
        raise PinxitError(f"{path} cannot be read as Parquet: {fault}.") from None


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}


def _coco_rows(path: Path) -> Iterator[Row]:
    try:
        content = json.loads(path.read_bytes())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[Any, list[Any]] = {number: [] for number in names}
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise PinxitError(
            f"{path} is no COCO captions file: it needs `images` with `id` and `file_name`, and `annotations` with "
            "`image_id` and `caption`."
        ) from None
    for number, texts in captions.items():
        if number in names:
            yield {"file_name": names[number], "captions": texts, "id": number}
        else:
            yield BadSample(
                f"image {number}", "no-picture", f"{path} has captions for image {number}, but no such image."
            )
