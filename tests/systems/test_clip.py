from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import pinxit
from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.data.pairs import BadSample, Captions, Sample, open_pairs
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, SIZES
from pinxit.systems.clip import CLIPSystem, Index, load_clip
from pinxit.text.tokenizer import Tokenizer

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
PICTURES = [Image.new("RGB", (48, 40), colour) for colour in COLOURS.values()]


class Swatches:
    """A source of plain pictures, one of which cannot be read."""

    name = "swatches"
    fingerprint = "f"

    def __len__(self) -> int:
        return len(PICTURES) + 1

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise BadSample("broken", "truncated", "'broken' is cut short.")
        colour = index - (index > 1)
        return Sample(list(COLOURS)[colour], PICTURES[colour], self.captions_at(index), {})

    def captions_at(self, index: int) -> Captions:
        return {"short": (f"picture {index}",)}

    def meta_at(self, index: int) -> dict[str, object]:  # noqa: ARG002
        return {}


@pytest.fixture(scope="module")
def system() -> CLIPSystem:
    return make()


def make(seed: int = 0) -> CLIPSystem:
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train([f"a photo of a {colour} star" for colour in COLOURS for _ in range(2)], 600)
    return CLIPSystem(CLIP(SIZES["tiny-32"].with_vocabulary(tokenizer.vocab_size)), tokenizer)


def save(system: CLIPSystem, folder: Path) -> Path:
    config = {"kind": "clip", "config": to_config(system.clip.config)}
    save_checkpoint(folder, config, {"clip": system.clip}, tokenizer=system.tokenizer.to_json())
    return folder


def test_embeddings_are_unit_rows_and_one_thing_gives_one_row(system: CLIPSystem) -> None:
    images, texts = system.encode_image(PICTURES), system.encode_text(["a red star", "a blue star"])
    assert images.shape == (4, 32)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(6))
    torch.testing.assert_close(system.encode_image(PICTURES[2]), images[2:3])
    torch.testing.assert_close(system.encode_text("a blue star"), texts[1:])
    assert system.encode_text([]).shape == (0, 32)


def test_more_pictures_than_a_batch_are_the_same_pictures(system: CLIPSystem) -> None:
    rows = system.encode_image(PICTURES * 20)
    torch.testing.assert_close(rows, system.encode_image(PICTURES).repeat(20, 1))


def test_text_is_read_without_case_entities_or_white_space_and_any_length_goes(system: CLIPSystem) -> None:
    torch.testing.assert_close(system.encode_text(" A &amp; RED\n star "), system.encode_text("a & red star"))
    assert system.encode_text("red " * 500).shape == (1, 32)
    assert system.encode_text("").isfinite().all()


def test_transparent_pictures_lie_on_white(system: CLIPSystem) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    torch.testing.assert_close(system.encode_image(clear), system.encode_image(PICTURES[3]))


def test_scores_are_cosines_of_one_text_or_of_each_its_own(system: CLIPSystem) -> None:
    images, texts = system.encode_image(PICTURES[:2]), system.encode_text(["red", "blue"])
    torch.testing.assert_close(system.score(PICTURES[:2], ["red", "blue"]), (images * texts).sum(1))
    torch.testing.assert_close(system.score(PICTURES[:2], "red"), images @ texts[0])
    with pytest.raises(PinxitError, match="3 texts do not fit 2 pictures"):
        system.score(PICTURES[:2], ["red", "blue", "green"])


def test_labels_get_the_probabilities_of_the_softmax(system: CLIPSystem) -> None:
    told = system.classify(PICTURES, ["red", "blue"], "a {} star")
    texts = system.encode_text(["a red star", "a blue star"])
    expected = (system.encode_image(PICTURES) @ texts.T / 0.07).softmax(dim=1)
    torch.testing.assert_close(torch.tensor([list(row.values()) for row in told]), expected)
    assert [list(row) for row in told] == [["red", "blue"]] * 4


def test_labels_and_templates_that_say_nothing_are_refused(system: CLIPSystem) -> None:
    with pytest.raises(PinxitError, match="at least one label, and each once; given: red, red"):
        system.classify(PICTURES, ["red", "red"])
    with pytest.raises(PinxitError, match="given: none"):
        system.classify(PICTURES, [])
    with pytest.raises(PinxitError, match=r"'a photo' has no \{\}"):
        system.classify(PICTURES, ["red"], "a photo")


def test_a_saved_system_loads_and_answers_alike(system: CLIPSystem, tmp_path: Path) -> None:
    loaded = pinxit.load(save(system, tmp_path / "mine"), device="cpu")
    assert isinstance(loaded, CLIPSystem)
    assert loaded.name == "mine"
    assert loaded.fingerprint == system.fingerprint
    torch.testing.assert_close(loaded.encode_image(PICTURES), system.encode_image(PICTURES))
    torch.testing.assert_close(loaded.encode_text("a red star"), system.encode_text("a red star"))
    with pytest.raises(PinxitError, match=r"mine .* cannot generate"):
        loaded.generate("a red star")


def test_the_clip_of_a_larger_system_is_found_inside_it(system: CLIPSystem, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "whole", {"kind": "dalle1"}, {})
    with pytest.raises(PinxitError, match="whole is of kind dalle1 and has no CLIP in it"):
        load_clip(tmp_path / "whole", "cpu")
    save(system, tmp_path / "whole" / "clip")
    inner = load_clip(tmp_path / "whole", "cpu")
    assert (inner.name, inner.fingerprint) == ("whole", system.fingerprint)


def test_a_tokenizer_of_another_size_is_refused(system: CLIPSystem) -> None:
    with pytest.raises(PinxitError, match="but the text tower knows 2048"):
        CLIPSystem(CLIP(SIZES["tiny-32"]), system.tokenizer)


def test_a_picture_finds_itself_and_bad_samples_are_left_out(
    system: CLIPSystem, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    with caplog.at_level(logging.WARNING):
        index = system.build_index(Swatches(), progress=lambda done, total: seen.append((done, total)))
    assert "Left out 1 of 5 samples (truncated 1)" in caplog.text
    assert seen[-1] == (5, 5)
    assert index.keys == tuple(COLOURS)
    for colour, picture, position in zip(COLOURS, PICTURES, (0, 2, 3, 4), strict=True):
        match = index.search(system.encode_image(picture), k=2)[0]
        assert (match.key, match.position) == (colour, position)
        assert match.score == pytest.approx(1.0, abs=1e-5)
    matches = index.search(system.encode_text("a red star"), k=99)
    assert len(matches) == 4
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)


def test_an_index_is_kept_in_one_file(system: CLIPSystem, tmp_path: Path) -> None:
    index = system.build_index(Swatches(), source="swatches:4")
    index.save(tmp_path / "deep" / "index.safetensors")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["index.safetensors"]
    again = Index.load(tmp_path / "deep" / "index.safetensors")
    assert (again.keys, again.model, again.source, again.data) == (index.keys, system.fingerprint, "swatches:4", "f")
    query = system.encode_text("a red star")
    assert again.search(query) == index.search(query)


def test_files_that_are_no_index_get_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "index.safetensors"
    with pytest.raises(PinxitError, match="cannot be read as a search index"):
        Index.load(path)
    path.write_bytes(b"\x08")
    with pytest.raises(PinxitError, match="cannot be read as a search index"):
        Index.load(path)
    save_file({"rows": torch.zeros(2, 3)}, path)
    with pytest.raises(PinxitError, match="cannot be read as a search index"):
        Index.load(path)


def test_the_pictures_of_matches_come_from_the_same_source_only(system: CLIPSystem) -> None:
    pairs = open_pairs("scenes:6")
    index = system.build_index(pairs, source="scenes:6")
    match = index.search(system.encode_image(pairs[3].image), k=1)[0]
    assert index.pictures([match])[0].tobytes() == pairs[match.position].image.tobytes()
    moved = Index(index.keys, index.positions, index.rows, index.model, "scenes:7", index.data)
    with pytest.raises(PinxitError, match="'scenes:7' has changed since it was indexed"):
        moved.pictures([match])


def test_other_weights_have_another_fingerprint(system: CLIPSystem) -> None:
    assert make(seed=1).fingerprint != system.fingerprint
