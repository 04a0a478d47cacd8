from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pinxit.data.sample import BadSample, Pairs
from pinxit.data.tables import open_coco, open_table
from pinxit.errors import PinxitError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i, name in enumerate(("a.png", "b.png", "c, d.png")):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "images" / name)
    return tmp_path


def reason(pairs: Pairs, position: int) -> str:
    with pytest.raises(BadSample) as caught:
        pairs[position]
    return caught.value.reason


def shown(pairs: Pairs) -> list[tuple[str, Any, dict[str, tuple[str, ...]]]]:
    samples = [pairs[i] for i in range(len(pairs))]
    return [(s.key, s.image.getpixel((0, 0))[0], dict(s.captions)) for s in samples]  # type: ignore[index]


EXPECTED = [
    ("images/a", 0, {"short": ("one, two",)}),
    ("images/b", 1, {"short": ('a "quoted" – word',)}),
    ("images/c, d", 2, {"short": ("three",)}),
]


def test_csv(folder: Path) -> None:
    (folder / "t.csv").write_text(
        'file_name,caption,licence\nimages/a.png,"one, two",CC0\n'
        'images/b.png,"a ""quoted"" – word",x\n"images/c, d.png",three,y\n',
        encoding="utf-8-sig",
    )
    pairs = open_table(folder / "t.csv")
    assert shown(pairs) == EXPECTED
    assert pairs[0].meta == {"licence": "CC0"}
    assert pairs.captions_at(2) == {"short": ("three",)}


def test_tsv(folder: Path) -> None:
    (folder / "t.tsv").write_text(
        'Image_Path\tTEXT\nimages/a.png\tone, two\nimages/b.png\t"a ""quoted"" – word"\nimages/c, d.png\tthree\n'
    )
    assert shown(open_table(folder / "t.tsv")) == EXPECTED


def test_jsonl_takes_text_as_short_and_other_kinds_as_they_are(folder: Path) -> None:
    rows = [
        {"file_name": "images/a.png", "text": "one", "long": "one at length", "alt": None},
        {"file_name": "images/b.png", "captions": ["x", "y"], "n": 3},
    ]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    pairs = open_table(folder / "t.jsonl")
    assert shown(pairs) == [
        ("images/a", 0, {"short": ("one",), "long": ("one at length",)}),
        ("images/b", 1, {"short": ("x", "y")}),
    ]
    assert pairs[1].meta == {"n": 3}


def test_rows_of_one_picture_are_one_sample(folder: Path) -> None:
    (folder / "t.csv").write_text("image,caption\nimages/a.png,one\nimages/b.png,other\nimages/a.png,two\n")
    assert shown(open_table(folder / "t.csv")) == [
        ("images/a", 0, {"short": ("one", "two")}),
        ("images/b", 1, {"short": ("other",)}),
    ]


def test_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    table = pyarrow.table(
        {"path": ["images/a.png", None, "images/c, d.png"], "caption": ["one, two", "x", "three"], "width": [4, 4, 4]}
    )
    parquet.write_table(table, folder / "t.parquet")
    pairs = open_table(folder / "t.parquet")
    assert len(pairs) == 3
    assert [pairs[i].key for i in (0, 1)] == ["images/a", "images/c, d"]
    assert pairs[0].meta == {"width": 4}
    assert reason(pairs, 2) == "no-picture"
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(PinxitError, match="cannot be read as Parquet"):
        open_table(folder / "bad.parquet")
    parquet.write_table(
        pyarrow.table({"image": [{"bytes": b"x", "path": "a"}], "caption": ["x"]}), folder / "e.parquet"
    )
    with pytest.raises(PinxitError, match="holds pictures; save them as files"):
        open_table(folder / "e.parquet")


def test_parquet_without_pyarrow_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(PinxitError, match=r"pip install pinxit\[parquet\]"):
        open_table(folder / "t.parquet")


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "images/../../secret.png", "link.png", "..\\secret.png"]
)
def test_paths_that_climb_out_are_refused(folder: Path, name: str) -> None:
    inner = folder / "images"
    Image.new("RGB", (4, 4)).save(folder / "secret.png")
    (inner / "link.png").symlink_to(folder / "secret.png")
    (inner / "t.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}) + '\n{"file_name":"a.png","text":"y"}')
    pairs = open_table(inner / "t.jsonl")
    assert reason(pairs, 0) == "unsafe-path"
    assert pairs[1].key == "a"


def test_bad_rows_are_counted_and_cost_nothing_else(folder: Path) -> None:
    (folder / "t.csv").write_bytes(
        b"file,caption\nimages/a.png,fine\nimages/b.png\nimages/b.png,x,y\nimages/b.png,\xff\n,z\n"
        b"images/b.png, \nimages/no.png,x\n"
    )
    pairs = open_table(folder / "t.csv")
    assert pairs[0].key == "images/a"
    assert [reason(pairs, i) for i in range(1, 7)] == [
        "no-caption",
        "missing",
        "bad-row",
        "bad-row",
        "not-utf8",
        "no-picture",
    ]


def test_a_bad_row_can_be_asked_for_again_and_again(folder: Path) -> None:
    (folder / "t.csv").write_text("file,caption\nimages/a.png,fine\n,z\n")
    pairs = open_table(folder / "t.csv")
    caught = []
    for _ in range(3):
        with pytest.raises(BadSample) as raised:
            pairs[1]
        caught.append(raised.value)
    assert len({id(fault) for fault in caught}) == 3
    assert len({len(traceback.extract_tb(fault.__traceback__)) for fault in caught}) == 1


def test_bad_lines_of_jsonl(folder: Path) -> None:
    (folder / "t.jsonl").write_bytes(
        b'{"file_name": "images/a.png", "text": "x"}\n{\n[]\n"\xff"\n{"text": "x"}\n{"file": "y"}'
    )
    pairs = open_table(folder / "t.jsonl")
    assert [reason(pairs, i) for i in range(1, 6)] == ["bad-row", "bad-row", "not-utf8", "no-picture", "no-caption"]


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ("url,caption", "has no image column: it has url, caption; allowed are file_name"),
        ("file_name,label", "has no caption column: it has file_name, label; allowed are caption"),
    ],
)
def test_missing_columns_are_named(folder: Path, head: str, text: str) -> None:
    (folder / "t.csv").write_text(f"{head}\nx,y\n")
    with pytest.raises(PinxitError, match=text):
        open_table(folder / "t.csv")


def test_a_csv_field_without_end_is_one_clear_error(folder: Path) -> None:
    (folder / "t.csv").write_text('file_name,caption\na.png,"' + "x" * 200_000)
    with pytest.raises(PinxitError, match="cannot be read as CSV"):
        open_table(folder / "t.csv")


def coco(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    images = [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "coco.json"


def test_coco(folder: Path) -> None:
    notes = [{"image_id": 8, "caption": "b one"}, {"image_id": 7, "caption": "a"}, {"image_id": 8, "caption": "b two "}]
    pairs = open_coco(coco(folder, notes), folder / "images")
    assert shown(pairs) == [("a", 0, {"short": ("a",)}), ("b", 1, {"short": ("b one", "b two")})]
    assert pairs[1].meta == {"id": 8}


def test_coco_with_holes(folder: Path) -> None:
    pairs = open_coco(
        coco(folder, [{"image_id": 7, "caption": "a"}, {"image_id": 99, "caption": "x"}]), folder / "images"
    )
    assert pairs[0].key == "a"
    assert [reason(pairs, i) for i in (1, 2)] == ["no-caption", "no-picture"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": [{}]}', '{"images": [], "annotations": [3]}', "[" * 100_000]
)
def test_what_is_no_coco_file_is_named(folder: Path, content: str) -> None:
    (folder / "x.json").write_text(content)
    with pytest.raises(PinxitError, match="is no COCO captions file"):
        open_coco(folder / "x.json", folder / "images")


def test_coco_without_its_pictures(folder: Path) -> None:
    with pytest.raises(PinxitError, match="does not exist"):
        open_coco(coco(folder, []), folder / "nowhere")
