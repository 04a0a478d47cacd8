"""What is measured of which model: fidelity, recall, following by candidates, and the seeds that make it repeatable."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from tests.systems.test_diffusion_system import COSINE, UNET, make_drawer, make_glide
from tests.systems.tiny import make_clip, make_codec, make_dalle1, make_tokenizer

from pinxit.data.images import fit, to_tensor
from pinxit.data.sample import BadSample, Captions, Sample
from pinxit.data.scene_world import Ask
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.evaluation import best_of as module
from pinxit.evaluation.best_of import best_of, doublings
from pinxit.evaluation.features import load_eye
from pinxit.evaluation.fidelity import fidelity
from pinxit.evaluation.following import follows
from pinxit.evaluation.report import Report, evaluate
from pinxit.evaluation.retrieval import retrieval
from pinxit.models.denoiser import DenoiserConfig
from pinxit.nn.similarity import psnr
from pinxit.progress import Progress
from pinxit.systems.cascade import Cascade
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.codec import Codec
from pinxit.systems.conditions import NoCondition
from pinxit.systems.diffusion_system import DiffusionSystem
from pinxit.systems.token_system import TokenSystem


@pytest.fixture(scope="module")
def system() -> TokenSystem:
    return make_dalle1()


def scenes(n: int, size: int = 32) -> list[Sample]:
    drawn = Scenes(n, size=size, split="held-in")
    return [drawn[i] for i in range(n)]


# Codecs.


def test_fidelity_is_the_mean_over_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, pictures = make_codec(), [sample.image for sample in scenes(9)]
    eye = load_eye()
    whole, reconstructions = fidelity(codec, pictures, eye)
    monkeypatch.setattr(Codec, "batch", 4)
    parts, again = fidelity(codec, pictures, eye)
    assert (parts.psnr, parts.ssim, parts.perceptual) == pytest.approx((whole.psnr, whole.ssim, whole.perceptual))
    assert parts.feature_distance == pytest.approx(whole.feature_distance)
    assert 0 < whole.perceptual < 4
    assert whole.feature_distance > 0
    assert [a.tobytes() for a in reconstructions] == [b.tobytes() for b in again]
    alone = [
        psnr(to_tensor(picture)[None], to_tensor(codec.reconstruct(picture)[0])[None]).item() for picture in pictures
    ]
    assert whole.psnr == pytest.approx(np.mean(alone), abs=1e-4)
    ids = codec.encode(pictures).flatten()
    p = torch.bincount(ids) / len(ids)
    entropy = -sum(x * math.log(x) for x in p.tolist() if x > 0)
    assert whole.codes_used == len(set(ids.tolist())) / 64
    assert whole.code_perplexity == pytest.approx(math.exp(entropy) / 64, rel=1e-4)


# CLIPs.


class Fixed(CLIPSystem):
    """Embeds pictures and texts as they were told to."""

    def __init__(self, cosines: Sequence[Sequence[float]]) -> None:
        self.cosines = torch.tensor(cosines)

    def encode_image(self, images: object, *, unit: bool = True) -> torch.Tensor:  # noqa: ARG002
        return self.cosines

    def encode_text(self, texts: object, *, unit: bool = True) -> torch.Tensor:  # noqa: ARG002
        assert isinstance(texts, list)
        return torch.eye(len(texts))


PICTURE = Image.new("RGB", (8, 8))


def test_recall_counts_who_is_ahead_of_the_right_answer() -> None:
    n = 7
    cosines = torch.zeros(n, n)
    for i in range(n):  # i texts are ahead of picture i's own
        cosines[i, :i] = 0.9
        cosines[i, i] = 0.5
    told = retrieval(Fixed(cosines.tolist()), [PICTURE] * n, [f"text {i}" for i in range(n)])
    assert told.text_of_image == pytest.approx({1: 1 / 7, 5: 5 / 7})
    assert told.image_of_text == pytest.approx({1: 1 / 7, 5: 5 / 7})
    assert (told.pictures, told.texts) == (7, 7)


def test_pictures_that_share_a_caption_are_all_right() -> None:
    cosines = [[0.9, 0.1], [0.2, 0.1], [0.1, 0.8]]  # the second picture is far from its caption, the first near
    told = retrieval(Fixed(cosines), [PICTURE] * 3, ["a", "a", "b"])
    assert told.image_of_text[1] == 1.0
    assert told.text_of_image[1] == 1.0
    assert told.texts == 2


def test_ties_are_no_recall() -> None:
    told = retrieval(Fixed([[0.5] * 6] * 6), [PICTURE] * 6, list("abcdef"))
    assert told.text_of_image == {1: 0.0, 5: 0.0}


# Following.


def test_doublings_end_with_all_candidates() -> None:
    assert [doublings(n) for n in (1, 2, 3, 16, 20)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8, 16], [1, 2, 4, 8, 16, 20]]


def test_the_best_of_k_is_what_generate_keeps_of_k(system: TokenSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge here is whether a picture is brighter on its left, as about half of random pictures are."""
    monkeypatch.setattr(module, "follows", lambda image, ask: _Verdict(_left(image)))  # noqa: ARG005
    monkeypatch.setattr(module, "AT_ONCE", 12)
    samples = scenes(7)
    prompts = [(sample.captions["short"][0], Ask.from_json(sample.meta["ask"])) for sample in samples]
    pictures = [sample.image for sample in samples]
    settings = system.resolve(1, 9, {"rerank": 5, "top_p": 0.9})
    told = best_of(system, prompts, pictures, pictures, seed=9, settings=settings)
    assert list(told.curve) == [1, 2, 4, 5]
    for k in (2, 4, 5):
        kept = [
            system.generate(prompt, 1, seed=9 + 1024 * j, rerank=k, top_p=0.9)[0]
            for j, (prompt, _) in enumerate(prompts)
        ]
        assert [drawn.best(k) for drawn in told.prompts] == [_left(picture.image) for picture in kept]
        assert sum(told.curve[k].right.values()) == sum(_left(picture.image) for picture in kept)
    first = [system.generate(prompt, 1, seed=9 + 1024 * j, top_p=0.9)[0] for j, (prompt, _) in enumerate(prompts)]
    assert [drawn.right[0] for drawn in told.prompts] == [_left(picture.image) for picture in first]
    assert 0 < sum(sum(drawn.right) for drawn in told.prompts) < 35
    assert sum(told.any_of.right.values()) == sum(any(drawn.right) for drawn in told.prompts)


class _Verdict:
    def __init__(self, correct: bool) -> None:
        self.correct = correct


def _left(image: Image.Image) -> bool:
    pixels = np.asarray(image, dtype=float)
    return bool(pixels[:, :16].mean() > pixels[:, 16:].mean())


def test_categories_are_counted_apart_and_weighed_alike(system: TokenSystem) -> None:
    samples = scenes(30, size=64)
    prompts = [(sample.captions["short"][0], Ask.from_json(sample.meta["ask"])) for sample in samples]
    real = [sample.image for sample in samples]
    wrong = [real[(i + 1) % 30] if i % 2 else real[i] for i in range(30)]
    told = best_of(system, prompts, real, wrong, seed=0, settings=system.resolve(1, 0, {}))
    assert told.real.overall == 1.0
    assert told.reconstructed is not None
    for category, judged in told.reconstructed.judged.items():
        own = [i for i in range(30) if prompts[i][1].category == category]
        assert judged == len(own)
        assert told.reconstructed.right[category] == sum(follows(wrong[i], prompts[i][1]).correct for i in own)
    shares = [told.reconstructed.share(category) for category in told.reconstructed.judged]
    assert told.reconstructed.overall == pytest.approx(np.mean(shares))
    assert list(told.curve) == [1]
    assert "any of" not in told.table()
    assert told.prompts[0].scores == (None,)


# The report.


def test_each_kind_of_model_gets_what_fits_it(system: TokenSystem) -> None:
    source = Scenes(20, size=32, split="held-in")
    codec = evaluate(make_codec(), source, source="s")
    assert codec.codec is not None
    assert (codec.clip, codec.following) == (None, None)
    clip = evaluate(make_clip(make_tokenizer()), source, source="s")
    assert clip.clip is not None
    assert (clip.codec, clip.following) == (None, None)
    whole = evaluate(system, source, source="s", n=6, settings={"rerank": 2})
    assert whole.codec is not None
    assert whole.clip is not None
    assert whole.following is not None
    assert whole.pictures == sum(whole.following.real.judged.values()) == 6
    for report in (codec, clip, whole):
        assert json.loads(json.dumps(report.to_json()))["pictures"] == report.pictures
        assert report.table().startswith(f"{report.model} on {report.pictures} pictures of s")
    clipless = evaluate(make_dalle1(with_clip=False), source, source="s", n=4)
    assert clipless.clip is None
    assert clipless.following is not None
    wordless = make_dalle1()
    wordless.condition = NoCondition(16)
    assert evaluate(wordless, source, source="s", n=4).following is None


def test_the_asks_are_those_of_the_pictures_wherever_they_are_spread(system: TokenSystem) -> None:
    source = Scenes(40, size=64, split="held-out")
    told = evaluate(system, source, source="s", n=10).following
    assert told is not None
    assert [drawn.prompt for drawn in told.prompts] == [source.captions_at(4 * i)["short"][0] for i in range(10)]
    assert "single_object" not in told.real.judged


class Plain:
    """Pictures that say no ask; those in `bad` cannot be read."""

    name = "plain"
    fingerprint = "f"

    def __init__(self, n: int, bad: Sequence[int] = ()) -> None:
        self.scenes, self.bad = Scenes(n, size=48), bad

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample(str(index), "truncated", f"{index} is cut short.")
        return Sample(str(index), self.scenes[index].image, self.captions_at(index), {})

    def captions_at(self, index: int) -> Captions:
        return {"alt": (f"picture {index}",)}

    def meta_at(self, index: int) -> dict[str, object]:  # noqa: ARG002
        return {}


def test_without_asks_nothing_is_followed_and_bad_samples_are_counted(system: TokenSystem) -> None:
    told = evaluate(system, Plain(10, bad=[4]), source="s")
    assert told.following is None
    assert told.pictures == 9
    assert told.to_json()["skipped"] == {"truncated": 1}
    assert "skipped: truncated 1" in told.table()
    assert told.clip is not None
    assert told.clip.texts == 9
    pictures = [fit(Plain(10)[i].image, 32) for i in range(10) if i != 4]
    assert told.codec == fidelity(system.codec, pictures, load_eye())[0]
    with pytest.raises(PinxitError, match="plain has no usable sample"):
        evaluate(system, Plain(3, bad=range(3)), source="s")


def test_progress_runs_to_the_end_of_reading_and_drawing(system: TokenSystem) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def watch(what: str) -> Iterator[Progress]:
        yield lambda done, total: seen.setdefault(what, []).append((done, total))

    evaluate(system, Scenes(5, size=32), source="s", settings={"rerank": 3}, watch=watch)
    assert {what: steps[-1] for what, steps in seen.items()} == {"reading": (5, 5), "drawing": (15, 15)}
    assert all(steps == sorted(steps) for steps in seen.values())


def test_the_source_is_written_without_its_folders() -> None:
    report = Report(model="m", source="/home/ann/coco.json:/home/ann/images/", pictures=1, skipped={})
    assert report.to_json()["source"] == "coco.json:images"


def test_what_cannot_be_measured_says_so_before_reading() -> None:
    base = make_drawer(DenoiserConfig(UNET, COSINE))
    with pytest.raises(PinxitError, match="of kind ddpm, can be measured here"):
        evaluate(DiffusionSystem("ddpm", Cascade(base), NoCondition(0)), Scenes(4, size=16), source="scenes:4")
    glide = make_glide()
    with pytest.raises(PinxitError, match="Give scenes, which say what was asked"):
        evaluate(glide, Plain(4), source="pictures")
