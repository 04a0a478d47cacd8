"""`pinxit reconstruct` and `pinxit encode`: files, likenesses, resuming, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tests.systems.tiny import make_clip, make_codec, make_dalle1, make_tokenizer, save_codec, save_dalle1

import pinxit
from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.cli.main import main
from pinxit.data.images import fit, open_image, to_tensor
from pinxit.data.scenes import Scenes
from pinxit.jobs.encode import Encoded
from pinxit.nn.similarity import psnr
from pinxit.systems.picture import read_settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codec(make_codec(), tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of captioned pictures in several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (width, height) in enumerate([(48, 48), (64, 40), (40, 64), (33, 32)] * 3):
        scene = Scenes(12, size=64)[i]
        fit(scene.image, (width, height)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(scene.captions["short"][0])
    return folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_each_picture_gets_a_line_and_all_a_comparison(model: Path, pictures: Path) -> None:
    sources = [pictures / "00.png", pictures / "01.png"]
    done = run("reconstruct", *sources, "-m", model)
    assert done.exit_code == 0, done.output
    *lines, comparison = done.stdout.splitlines()
    codec = make_codec()
    for line, source, name in zip(lines, sources, ("0001-00", "0002-01"), strict=True):
        found = re.fullmatch(rf"{source} +([\d.]+) dB  (outputs/{name}-reconstruction\.png)", line)
        assert found is not None, line
        expected = codec.reconstruct(open_image(source))[0]
        with Image.open(found[2]) as written:
            assert written.tobytes() == expected.tobytes()
        likeness = psnr(to_tensor(fit(open_image(source), 32))[None], to_tensor(expected)[None]).item()
        assert float(found[1]) == pytest.approx(likeness, abs=0.01)
        record = read_settings(found[2])
        assert (record["model"], record["settings"]["source"]) == ("mine", source.name)
        assert record["settings"]["psnr"] == pytest.approx(likeness, abs=0.01)
    assert comparison == "outputs/0003-reconstructions-grid.png"
    with Image.open(comparison) as sheet:
        assert sheet.size == (32 + 2 + 32, 32 + 2 + 32)
        assert sheet.crop((0, 0, 32, 32)).tobytes() == fit(open_image(sources[0]), 32).tobytes()
        assert sheet.crop((34, 34, 66, 66)).tobytes() == codec.reconstruct(open_image(sources[1]))[0].tobytes()


def test_a_file_name_asks_for_the_comparison_alone(model: Path, pictures: Path) -> None:
    sources = sorted(pictures.glob("*.png"))[:11]
    done = run("reconstruct", *sources, "-m", model, "-o", "deep/all.png")
    assert done.exit_code == 0, done.output
    assert [str(path) for path in Path().rglob("*") if path.is_file()] == ["deep/all.png"]
    with Image.open("deep/all.png") as sheet:
        assert sheet.size == (8 * 34 - 2, 4 * 34 - 2)  # eight and eight below, then three and three
        assert sheet.crop((68, 68, 100, 100)).tobytes() == fit(open_image(sources[10]), 32).tobytes()
        assert sheet.crop((102, 102, 134, 134)).getcolors() == [(32 * 32, (255, 255, 255))]
    assert read_settings("deep/all.png")["settings"]["source"] == [source.name for source in sources]


def test_a_whole_system_reconstructs_with_its_codec(pictures: Path, tmp_path: Path) -> None:
    whole = save_dalle1(make_dalle1(), tmp_path / "whole")
    done = run("reconstruct", pictures / "00.png", "-m", whole, "-o", "one.png")
    assert done.exit_code == 0, done.output
    expected = make_codec().reconstruct(open_image(pictures / "00.png"))[0]
    with Image.open("one.png") as sheet:
        assert sheet.crop((0, 34, 32, 66)).tobytes() == expected.tobytes()


def save_clip(folder: Path) -> Path:
    clip = make_clip(make_tokenizer())
    config = {"kind": "clip", "config": to_config(clip.clip.config)}
    save_checkpoint(folder, config, {"clip": clip.clip}, tokenizer=clip.tokenizer.to_json())
    return folder


def test_reconstruct_tells_faults_in_one_line_and_writes_nothing(model: Path, pictures: Path, tmp_path: Path) -> None:
    done = run("reconstruct", pictures / "00.png", pictures / "absent.png", "-m", model)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"pinxit: Picture '.*absent\.png' cannot be read: No such file or directory\.\n", done.stderr)
    done = run("reconstruct", pictures / "00.png", "-m", save_clip(tmp_path / "clip"))
    assert done.stderr.startswith(
        "pinxit: clip (kind clip) cannot reconstruct. Systems that can: dalle1, dalle2, dvae, "
    )
    assert run("reconstruct", "-m", model).exit_code == 2
    assert run("reconstruct", pictures / "00.png", "-m", model, "-o", "a.jpg").exit_code == 2
    assert not list(Path().iterdir())


def test_codes_are_kept_once(model: Path, pictures: Path) -> None:
    done = run("encode", pictures, "--with", model, "--out", "codes")
    assert done.exit_code == 0, done.output
    assert done.stdout == "12 pictures as 4x4 of 64 codes: codes\n"
    kept, codec = Encoded.load(Path("codes")), make_codec()
    for i in range(12):
        assert (torch.from_numpy(kept[i].codes) == codec.encode(open_image(pictures / f"{i:02d}.png")).flatten()).all()
    before = {path: path.stat().st_mtime_ns for path in Path("codes").glob("part-*/*")}
    again = run("encode", pictures, "--with", model, "--out", "codes")
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    assert {path: path.stat().st_mtime_ns for path in Path("codes").glob("part-*/*")} == before


def test_drawn_sources_are_encoded_in_the_codecs_size(model: Path) -> None:
    assert run("encode", "scenes:6", "--with", model, "--out", "codes").exit_code == 0
    expected = make_codec().encode(Scenes(6, size=32)[4].image).flatten()
    assert (torch.from_numpy(Encoded.load(Path("codes"))[4].codes) == expected).all()


def test_skipped_pictures_are_told(model: Path, pictures: Path) -> None:
    for name in ("00", "01"):
        for ending in ("png", "txt"):
            Path(f"{name}.{ending}").write_bytes((pictures / f"{name}.{ending}").read_bytes())
    Path("01.png").write_bytes(Path("01.png").read_bytes()[:99])
    done = run("encode", ".", "--with", model, "--out", "../codes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("1 pictures as 4x4")
    assert re.search(r"^skipped 1 of 2 \(\w+ 1\)$", done.stderr, re.MULTILINE)


def test_encode_tells_faults_in_one_line(model: Path, pictures: Path, tmp_path: Path) -> None:
    assert run("encode", pictures, "--with", model, "--out", "codes").exit_code == 0
    for source, codec in ((pictures, save_codec(make_codec(seed=7), tmp_path / "other")), ("scenes:12", model)):
        done = run("encode", source, "--with", codec, "--out", "codes")
        assert done.exit_code == 1
        assert done.stderr.startswith("pinxit: codes holds codes of other pictures or of another codec.")
        assert done.stderr.count("\n") == 1
    other = save_dalle1(make_dalle1(), tmp_path / "whole") / "transformer"
    done = run("encode", pictures, "--with", other, "--out", "new")
    assert done.stderr == (
        "pinxit: transformer is of kind token_transformer and has no codec in it. Give a model that has one.\n"
    )
    assert not Path("new").exists()


def test_embeddings_are_kept_as_codes_are(pictures: Path, tmp_path: Path) -> None:
    done = run("encode", pictures, "--with", save_clip(tmp_path / "clip"), "--out", "kept")
    assert (done.exit_code, done.stdout) == (0, "12 pictures as 32 numbers: kept\n")
    kept, clip = Encoded.load(Path("kept")), pinxit.load(tmp_path / "clip", "cpu")
    for i in range(12):
        expected = clip.encode_image(open_image(pictures / f"{i:02d}.png"))[0]
        torch.testing.assert_close(torch.from_numpy(kept[i].codes), expected, atol=1e-3, rtol=0)
