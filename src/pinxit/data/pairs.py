"""Every source of pictures with captions, by the text that a person types."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pinxit.data.emoji import Emoji
from pinxit.data.folders import Folder
from pinxit.data.images import WHITE, Colour
from pinxit.data.sample import BadSample, Captions, Pairs, Sample
from pinxit.data.scenes import Scenes
from pinxit.data.shards import Shards
from pinxit.data.tables import READERS, open_coco, open_table
from pinxit.errors import PinxitError

__all__ = ["FORMS", "BadSample", "Captions", "Pairs", "Sample", "open_pairs", "shard_paths", "source_name"]

FORMS = """\
  FOLDER                     pictures with sidecars of the same stem: .txt, .caption, or .json with caption or captions
  FOLDER                     with metadata.jsonl (file_name, text)
  TABLE.csv .tsv .jsonl .parquet    with an image path column and a caption column
  COCO.json:IMAGES/          COCO captions and their pictures
  SHARD.tar, FOLDER of .tar, or NAME-{000..010}.tar    webdataset shards
  scenes:N, scenes:N:SPLIT   drawn scenes (SPLIT: train, held-in, held-out)
  emoji                      drawn from an installed colour font"""


MOST_DIGITS = 15
"""Of the number of scenes: more than anybody will look at, and far from what Python refuses to read."""

# `pipe:` is what webdataset hands to a shell.
_ELSEWHERE = re.compile(r"pipe:|[a-z][a-z0-9+.-]*://")


def open_pairs(src: str, *, size: int = 128, background: Colour = WHITE, captioned: bool = True) -> Pairs:
    """The pictures with captions that SRC names; `FORMS` lists what it can be.

    `size` (pixels a side) is for the sources that are drawn; the others give their pictures as they are. What is
    transparent is laid on `background`. Pictures without a caption are bad samples, unless they need not
    be `captioned`. Raises `PinxitError`, which lists the forms where SRC fits none.
    """
    if src == "emoji":
        return Emoji(size, background=background)
    if src.startswith("scenes:"):
        return _scenes(src, size)
    if not src or _ELSEWHERE.match(src):
        raise _no_source(src)
    shards = shard_paths(src)
    if shards is not None:
        return Shards(shards, name=src, background=background, captioned=captioned)
    table, colon, images = src.rpartition(".json:")
    if colon and Path(f"{table}.json").is_file():
        return _filled(open_coco(Path(f"{table}.json"), Path(images), background=background), src)
    path = Path(src)
    if path.is_dir():
        return _folder(path, background, captioned)
    if path.suffix.lower() in READERS and path.is_file():
        return _filled(open_table(path, background=background, captioned=captioned), src)
    raise _no_source(src)


def source_name(src: str) -> str:
    """SRC as files may tell it, paths by their last name alone: what is written travels, paths do not."""
    table, colon, images = src.rpartition(".json:")
    return f"{_last_name(table)}.json:{_last_name(images)}" if colon else _last_name(src)


def _last_name(path: str) -> str:
    name = Path(path).name
    return name if name not in ("", "..") else Path(path).resolve().name


def shard_paths(src: str) -> list[Path] | None:
    """The tar shards that SRC names, in order; None where it names something else."""
    if "{" in src and src.endswith(".tar"):
        paths = [Path(name) for name in _expand(src)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise PinxitError(
                f"{len(missing)} of the {len(paths)} shards of {src!r} do not exist, such as {missing[0]}."
            )
        return paths
    path = Path(src)
    if src.endswith(".tar") and path.is_file():
        return [path]
    if path.is_dir() and not _metadata(path):
        return sorted(path.glob("*.tar")) or None
    return None


def _expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `a-{x,y}.tar`, as the shell has it."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = []
    for i, part in enumerate(parts):
        run = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if i % 2 == 0:
            choices.append([part])
        elif run:
            first, last = int(run[1]), int(run[2])
            if not 0 <= last - first < 1_000_000:
                raise PinxitError(
                    f"The range {{{part}}} in {pattern!r} does not run upwards, or is over a million long."
                )
            choices.append([str(number).zfill(len(run[1])) for number in range(first, last + 1)])
        else:
            choices.append(part.split(","))
    return ["".join(choice) for choice in itertools.product(*choices)]


def _metadata(folder: Path) -> Path | None:
    found = (folder / f"metadata{suffix}" for suffix in (".jsonl", ".csv", ".parquet"))
    return next((path for path in found if path.is_file()), None)


def _folder(path: Path, background: Colour, captioned: bool) -> Pairs:
    if metadata := _metadata(path):
        return _filled(open_table(metadata, background=background, captioned=captioned), str(path))
    return _filled(Folder(path, background=background, captioned=captioned), str(path))


def _filled(pairs: Pairs, src: str) -> Pairs:
    if len(pairs) == 0:
        raise PinxitError(f"{src!r} holds no pictures. A source of pictures with captions is one of:\n{FORMS}")
    return pairs


def _scenes(src: str, size: int) -> Scenes:
    _, number, *rest = src.split(":")
    if len(number) > MOST_DIGITS:
        raise PinxitError(
            f"'scenes:{number[:8]}...' has a number of {len(number)} digits; give at most {MOST_DIGITS}, such as "
            "scenes:10000."
        )
    if not number.isdecimal() or int(number) < 1 or len(rest) > 1:
        raise PinxitError(
            f"{src!r} does not say how many scenes: write scenes:N or scenes:N:SPLIT, such as scenes:10000."
        )
    return Scenes(int(number), size=size, split=rest[0]) if rest else Scenes(int(number), size=size)


def _no_source(src: str) -> PinxitError:
    path = Path(src)
    if _ELSEWHERE.match(src):
        why = "is not on this machine; nothing is fetched or run"
    elif src.endswith(".json") and path.is_file():
        why = "is a COCO file without its picture folder"
    elif path.is_file():
        why = "is a file of another kind"
    else:
        why = "does not exist"
    return PinxitError(f"{src!r} {why}. A source of pictures with captions is one of:\n{FORMS}")
