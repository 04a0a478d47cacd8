"""DALL·E 1: batches and single pictures, candidates and their seeds, given rows, settings, parts that do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.systems.tiny import make_codec, make_dalle1, make_drawer, make_tokenizer, save_dalle1
from torch import Tensor

import pinxit
from pinxit.cli.main import main
from pinxit.data.images import open_image
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.systems import token_drawing
from pinxit.systems.conditions import TextCondition
from pinxit.systems.picture import Picture, read_settings
from pinxit.systems.system import Settings
from pinxit.systems.token_drawing import TokenDrawer
from pinxit.systems.token_system import TokenSystem
from pinxit.text.tokenizer import Tokenizer
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

PROMPT = "a red star"


@pytest.fixture(scope="module")
def system() -> TokenSystem:
    return make_dalle1()


def pixels(pictures: Sequence[Picture]) -> list[bytes]:
    return [picture.image.tobytes() for picture in pictures]


def test_guidance_leads_away_from_the_negative(system: TokenSystem) -> None:
    free, away, same = (
        system.generate(PROMPT, 2, seed=0, guidance=3.0, negative=text) for text in (None, "blue", PROMPT)
    )
    assert pixels(free) != pixels(away)
    # What is led away from is also what is led to: nothing is left of the guidance.
    assert pixels(same) == pixels(system.generate(PROMPT, 2, seed=0, guidance=1.0))
    assert away[0].settings["negative"] == "blue"
    with pytest.raises(PinxitError, match="guidance=1 leads nowhere"):
        system.generate(PROMPT, 1, guidance=1.0, negative="blue")
    with pytest.raises(PinxitError, match=r"guidance=0\.5 leads nowhere"):
        system.generate(PROMPT, 1, guidance=0.5, negative="blue")
    with pytest.raises(PinxitError, match=r"does not take the setting 'steps'\. It takes: guidance, negative, "):
        system.generate(PROMPT, 1, steps=10)


@pytest.mark.parametrize("settings", [{}, {"guidance": 3.0, "top_p": 0.9}, {"temperature": 0.5, "top_k": 5}])
def test_a_picture_of_a_batch_equals_the_same_made_alone(
    system: TokenSystem, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = system.generate(PROMPT, 5, seed=3, **settings)  # type: ignore[arg-type]
    assert [picture.seed for picture in together] == [3, 4, 5, 6, 7]
    assert len(set(pixels(together))) == 5
    alone = [system.generate(PROMPT, 1, seed=seed, **settings)[0] for seed in range(3, 8)]  # type: ignore[arg-type]
    assert pixels(alone) == pixels(together)
    monkeypatch.setattr(token_drawing, "BATCH", 2)
    assert pixels(system.generate(PROMPT, 5, seed=3, **settings)) == pixels(together)  # type: ignore[arg-type]


def test_the_text_the_seed_and_every_setting_matter(system: TokenSystem) -> None:
    plain = pixels(system.generate(PROMPT, 3))
    assert pixels(system.generate(PROMPT, 3)) == plain
    assert pixels(system.generate("a blue moon", 3)) != plain
    assert pixels(system.generate(PROMPT, 3, seed=1))[:2] == plain[1:]
    for other in ({"guidance": 4.0}, {"temperature": 0.3}, {"top_k": 2}, {"top_p": 0.1}):
        assert pixels(system.generate(PROMPT, 3, **other)) != plain
    coldest = pixels(system.generate(PROMPT, 3, temperature=0))
    assert len(set(coldest)) == 1


def test_texts_are_read_cleaned_and_of_any_length(system: TokenSystem) -> None:
    assert pixels(system.generate("  A   Red&#32;star\n", 2)) == pixels(system.generate(PROMPT, 2))
    ids = system.condition(["", "red " * 200])
    assert ids.shape == (2, system.prior.config.condition_length)
    assert (ids[:1] == system.prior.no_condition(1)).all()
    assert len(system.generate("🍎" * 300, 1)) == 1


def test_guidance_of_one_is_no_guidance(system: TokenSystem) -> None:
    assert pixels(system.generate(PROMPT, 4, guidance=1)) == pixels(system.generate(PROMPT, 4))
    text = system.condition([PROMPT] * 4)
    both = torch.cat([text, system.prior.no_condition(4)])
    guided = sample(guide(system.prior.following(both), 1.0), uniforms(range(4), 16), Choice())
    assert (guided.view(4, 4, 4) == system.sample([PROMPT] * 4, range(4), system.resolve(4, 0, {}))).all()


def test_guidance_of_nought_ignores_the_text(system: TokenSystem) -> None:
    assert pixels(system.generate(PROMPT, 3, guidance=0)) == pixels(system.generate("a blue moon", 3, guidance=0))
    assert pixels(system.generate(PROMPT, 3, guidance=0)) == pixels(system.generate("", 3))


def test_several_prompts_are_drawn_at_once(system: TokenSystem) -> None:
    prompts, settings = ["a red star", "a blue moon", ""], system.resolve(1, 0, {})
    codes = system.sample(prompts, [7, 8, 9], settings)
    assert (codes.shape, codes.dtype) == ((3, 4, 4), torch.int64)
    for prompt, seed, one in zip(prompts, [7, 8, 9], system.decode(codes), strict=True):
        assert one.tobytes() == system.generate(prompt, 1, seed=seed)[0].image.tobytes()


def test_reranking_keeps_the_best_with_their_own_seeds(system: TokenSystem) -> None:
    assert system.clip is not None
    everything = system.generate(PROMPT, 9, seed=20)
    assert [picture.score for picture in everything] == [None] * 9
    scores = system.clip.score([picture.image for picture in everything], PROMPT).tolist()
    best = system.generate(PROMPT, 4, seed=20, rerank=9)
    order = sorted(range(9), key=lambda i: -scores[i])[:4]
    assert [picture.seed for picture in best] == [20 + i for i in order]
    assert [picture.score for picture in best] == pytest.approx([scores[i] for i in order], abs=1e-6)
    for picture in best:
        assert picture.image.tobytes() == everything[picture.seed - 20].image.tobytes()
        assert picture.image.tobytes() == system.generate(PROMPT, 1, seed=picture.seed)[0].image.tobytes()


def test_negative_scores_are_scores(system: TokenSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.clip is not None
    told = torch.tensor([-0.5, -0.1, 0.0, -0.3])
    monkeypatch.setattr(system.clip, "score", lambda images, text: told[: len(images)])  # noqa: ARG005
    best = system.generate(PROMPT, 4, rerank=4)
    assert [picture.seed for picture in best] == [2, 1, 3, 0]


def test_progress_counts_tokens_up_to_the_end(system: TokenSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_drawing, "BATCH", 2)
    seen: list[tuple[int, int]] = []
    system.generate(PROMPT, 2, rerank=5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5 * 16, 5 * 16)
    assert seen == sorted(seen)


@pytest.mark.parametrize("rows", range(5))
def test_complete_keeps_the_given_rows_and_draws_the_rest_as_always(system: TokenSystem, rows: int) -> None:
    scenes = Scenes(1, size=32)
    picture = scenes[0].image
    known = torch.arange(16) < 4 * rows
    conditions, given = system.condition([PROMPT] * 3), system.encode(picture).flatten(1)
    codes = system.drawer.draw(conditions, [0, 1, 2], system.resolve(1, 0, {}), given=given, known=known)
    made = system.complete(picture, PROMPT, 3, keep_rows=rows)
    assert pixels(made) == [image.tobytes() for image in system.decode(codes)]
    assert (codes[:, :rows] == system.encode(picture)[:, :rows]).all()
    assert len({tuple(row.flatten().tolist()) for row in codes}) == (3 if rows < 4 else 1)
    assert all(one.settings["keep_rows"] == rows for one in made)
    if rows == 0:
        assert pixels(made) == pixels(system.generate(PROMPT, 3))
    if rows == 2:
        assert pixels(system.complete(picture, PROMPT, 3)) == pixels(made)
    if rows == 4:
        assert made[0].image.tobytes() == system.reconstruct(picture)[0].tobytes()


def test_a_large_picture_is_painted_by_a_window_that_sees_half_of_the_one_before(
    system: TokenSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[list[int]], list[list[int]]]] = []
    draw = TokenDrawer._in_turn

    def remember(
        self: TokenDrawer, both: Tensor, uniform: Tensor, settings: Settings, ids: Tensor, known: Tensor, progress: Any
    ) -> Tensor:
        made = draw(self, both, uniform, settings, ids, known, progress)
        assert torch.equal(made[:, known], ids[:, known])
        seen.append((known.view(4, 4).long().tolist(), uniform[0].view(4, 4).tolist()))
        return made

    monkeypatch.setattr(TokenDrawer, "_in_turn", remember)
    made = system.generate(PROMPT, 2, size=(56, 48))
    assert [picture.image.size for picture in made] == [(56, 48)] * 2
    places = [(top, left) for top in (0, 2) for left in (0, 2, 3)]
    assert len(seen) == len(places)
    done, numbers = torch.zeros(6, 7), uniforms([0], 42).view(6, 7)
    for (top, left), (known, uniform) in zip(places, seen, strict=True):
        place = (slice(top, top + 4), slice(left, left + 4))
        assert known == done[place].tolist()
        assert uniform == numbers[place].tolist()
        done[place] = 1
    assert done.all()
    assert pixels(system.generate(PROMPT, 1, seed=1, size=(56, 48))) == pixels(made[1:])
    assert pixels(system.generate(PROMPT, 1, size=(32, 32))) == pixels(system.generate(PROMPT, 1))
    with pytest.raises(PinxitError, match="`size` goes with pictures that are drawn from a prompt alone"):
        system.complete(made[0].image, PROMPT, size=(64, 64))


@pytest.mark.parametrize("rows", [-1, 5])
def test_rows_that_are_not_there_cannot_be_kept(system: TokenSystem, rows: int) -> None:
    with pytest.raises(PinxitError, match=rf"{rows} rows cannot be kept: the picture has 4 rows of codes"):
        system.complete(Scenes(1, size=32)[0].image, PROMPT, keep_rows=rows)


def test_complete_reranks_too(system: TokenSystem) -> None:
    made = system.complete(Scenes(1, size=32)[0].image, PROMPT, 2, rerank=6, seed=4)
    scores = [picture.score or 0.0 for picture in made]
    assert scores == sorted(scores, reverse=True)
    assert {picture.seed for picture in made} < set(range(4, 10))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"steps": 5},
            "does not take the setting 'steps'. It takes: guidance, negative, temperature, top_k, top_p, rerank, size",
        ),
        ({"size": (64, 36)}, "size is 64x36; give at least 32x32, in steps of 8."),
        ({"size": (64, 24)}, "size is 64x24; give at least 32x32, in steps of 8."),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"rerank": 3}, "rerank is 3 for 4 pictures"),
        ({"n": 0}, "0 pictures cannot be made"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(system: TokenSystem, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(PinxitError, match=said.replace("(", r"\(").replace(")", r"\)")):
        system.generate(PROMPT, **arguments)  # type: ignore[arg-type]


def test_reranking_needs_a_clip() -> None:
    system = make_dalle1(with_clip=False)
    assert len(system.generate(PROMPT, 2)) == 2
    with pytest.raises(PinxitError, match=r"tiny has no CLIP, so it cannot rerank\. Leave --rerank out"):
        system.generate(PROMPT, 2, rerank=4)


def test_parts_that_were_not_trained_together_are_refused() -> None:
    tokenizer, codec = make_tokenizer(), make_codec()
    drawer = make_drawer(tokenizer, codec)
    condition = TextCondition(tokenizer, 16)
    with pytest.raises(PinxitError, match=r"paints \(4, 4\) of 64 codes, but the dvae has \(4, 4\) of 32"):
        TokenSystem("dalle1", make_codec(codes=32), drawer, condition)
    with pytest.raises(PinxitError, match=r"this maskgit has learnt order=raster, which is another's"):
        TokenSystem("maskgit", codec, drawer, condition)


def test_a_tokenizer_of_another_size_is_refused(system: TokenSystem, tmp_path: Path) -> None:
    folder = save_dalle1(system, tmp_path / "mine")
    other = Tokenizer.train(["a red star and a moon"] * 2, 700)
    (folder / "transformer" / "tokenizer.json").write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(PinxitError, match=r"The tokenizer has \d+ ids, the network knows \d+"):
        pinxit.load(folder, device="cpu")


def test_a_saved_system_draws_the_same(system: TokenSystem, tmp_path: Path) -> None:
    loaded = pinxit.load(save_dalle1(system, tmp_path / "mine"), device="cpu")
    assert isinstance(loaded, TokenSystem)
    assert loaded.name == "mine"
    assert loaded.defaults == {**system.defaults, "top_p": 0.9}
    made = loaded.generate(PROMPT, 2, seed=5, rerank=4, top_p=1.0)
    assert pixels(made) == pixels(system.generate(PROMPT, 2, seed=5, rerank=4))


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"topp": 0.9}, "There is no setting 'topp'. Did you mean 'top_p'?"),
        ([0.9], "they are no object"),
    ],
)
def test_defaults_that_make_no_sense_are_refused_when_loaded(
    system: TokenSystem, tmp_path: Path, defaults: object, said: str
) -> None:
    folder = save_dalle1(system, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "defaults": defaults}))
    with pytest.raises(PinxitError, match=rf"The defaults in .*config\.json cannot be used: {re.escape(said)}"):
        pinxit.load(folder, device="cpu")


def test_without_the_clip_folder_everything_else_works(system: TokenSystem, tmp_path: Path) -> None:
    loaded = pinxit.load(save_dalle1(make_dalle1(with_clip=False), tmp_path / "mine"), device="cpu")
    assert pixels(loaded.generate(PROMPT, 2, top_p=1.0)) == pixels(system.generate(PROMPT, 2))


def test_half_precision_weights_are_computed_with_in_float32(system: TokenSystem, tmp_path: Path) -> None:
    loaded = pinxit.load(save_dalle1(system, tmp_path / "half", torch.float16), device="cpu")
    assert isinstance(loaded, TokenSystem)
    assert loaded.clip is not None
    for network in (loaded.prior, loaded.codec.network, loaded.clip.clip):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in network.parameters())
    text, image = system.condition([PROMPT]), torch.zeros(1, 16, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.prior(text, image), system.prior(text, image), atol=0.02, rtol=0)


def test_a_picture_carries_what_it_takes_to_make_it_again(system: TokenSystem, tmp_path: Path) -> None:
    [picture] = system.generate(PROMPT, 1, seed=11, rerank=3, guidance=2.0, top_p=0.8)
    record = read_settings(picture.save(tmp_path / "one.png"))
    assert record["settings"] == {"guidance": 2.0, "temperature": 1.0, "top_p": 0.8, "rerank": 3}
    assert (record["prompt"], record["model"], record["size"]) == (PROMPT, "tiny", [32, 32])
    assert record["score"] == picture.score
    settings = {name: value for name, value in record["settings"].items() if name != "rerank"}
    [again] = system.generate(record["prompt"], 1, seed=record["seed"], **settings)
    assert again.image.tobytes() == picture.image.tobytes()


def test_what_the_commands_write_can_be_made_again_from_its_file(
    dalle1_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(dalle1_run)
    Scenes(1, size=32)[0].image.save("scene.png")
    common = ["-m", model, "-n", "2", "--rerank", "5", "--guidance", "2", "--seed", "30", "-o", "out"]
    for verb in (["generate", "a red circle"], ["complete", "scene.png", "a red circle", "--keep-rows", "3"]):
        done = CliRunner().invoke(main, [*verb, *common])
        assert done.exit_code == 0, done.output
    system = pinxit.load(model, "cpu")
    written = sorted(path for path in Path("out").iterdir() if "grid" not in path.name)
    assert len(written) == 4
    for path in written:
        record = read_settings(path)
        assert record["model"] == "dalle1"
        assert record["score"] is not None
        settings = {name: value for name, value in record["settings"].items() if name != "rerank"}
        if source := settings.pop("source", None):
            [again] = system.complete(open_image(Path(source)), record["prompt"], 1, seed=record["seed"], **settings)
        else:
            [again] = system.generate(record["prompt"], 1, seed=record["seed"], **settings)
        with Image.open(path) as picture:
            assert picture.tobytes() == again.image.tobytes()
    assert sum("keep_rows" in read_settings(path)["settings"] for path in written) == 2


def test_in_bfloat16_most_codes_are_the_same() -> None:
    plain, quick = make_dalle1(), make_dalle1()
    quick.quicken(bf16=True)
    codes, rounded = (one.sample([PROMPT] * 8, range(8), one.resolve(8, 0, {})) for one in (plain, quick))
    assert 0.5 < (codes == rounded).float().mean() < 1
