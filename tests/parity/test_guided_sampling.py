"""Whole sampling as guided-diffusion and GLIDE do it, from the same noise, beside what `pinxit convert` makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from tests.parity.guided import LENGTH, Theirs
from tests.parity.test_unet import SMALL
from torch import Tensor

import pinxit
from pinxit.checkpoints.conversion import convert
from pinxit.errors import PinxitError
from pinxit.models.noised_classifier import SIZES, NoisedClassifier
from pinxit.systems.cascade import enlarging
from pinxit.systems.diffusion_system import DiffusionSystem
from pinxit.systems.noise_drawing import Drawing, noise_of
from pinxit.text.tokenizer import ForeignTokenizer

SEEDS = [3, 4]
CPU = torch.device("cpu")
GLIDE = {**SMALL, "image_size": 32, "text_ctx": LENGTH, "xf_heads": 4, "noise_schedule": "cosine"}

Told = Callable[[Tensor, Tensor], Tensor]
"""x and its times -> noise, and the share of the variance."""


def alphas(kind: str) -> np.ndarray:
    """alpha bar of a thousand steps (Ho et al. 2020; Nichol and Dhariwal 2021, equation 17)."""
    if kind == "linear":
        return np.cumprod(1 - np.linspace(1e-4, 0.02, 1_000))
    places = np.arange(1_001) / 1_000
    kept: np.ndarray = np.cos((places + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - kept[1:] / kept[:-1], 0.999))


def steps(kind: str, times: list[int]) -> Iterator[tuple[int, float, float, float]]:
    """Of a process respaced to some times, from the last one: time, alpha bar, that before it, and beta."""
    kept = alphas(kind)[times]
    before = np.append(1.0, kept[:-1])
    yield from reversed(list(zip(times, kept, before, 1 - kept / before, strict=True)))


def clean(x: Tensor, noise: Tensor, kept: float) -> Tensor:
    x0: Tensor = (x - (1 - kept) ** 0.5 * noise) / kept**0.5
    return x0.clamp(-1, 1)


def ancestral(told: Told, kind: str, times: list[int], score: Told | None = None) -> Tensor:
    """p_sample (Nichol and Dhariwal 2021, equations 11 and 15), with condition_mean where there is a classifier
    (Dhariwal and Nichol 2021, algorithm 1).

    In the last step theirs is led by a variance that no noise has; ours is not led there, nor is this.
    """
    draw = noise_of(SEEDS, 0, CPU)
    x = draw(torch.empty(2, 3, 32, 32))
    shortest = None
    for time, kept, before, beta in steps(kind, times):
        noise, share = told(x, torch.full((2,), time)).split(3, 1)  # type: ignore[no-untyped-call]
        x0 = clean(x, noise, kept)
        mean = beta * before**0.5 / (1 - kept) * x0 + (1 - before) * (1 - beta) ** 0.5 / (1 - kept) * x
        shortest = beta * (1 - before) / (1 - kept) if before < 1 else shortest
        assert shortest
        log_variance = (share + 1) / 2 * np.log(beta) + (1 - share) / 2 * np.log(shortest)
        if score and before < 1:
            mean = mean + log_variance.exp() * score(x, torch.full((2,), time))
        x = mean + (0.5 * log_variance).exp() * draw(x) if before < 1 else mean
    return x.clamp(-1, 1)


def implicit(told: Told, kind: str, times: list[int], x: Tensor, score: Told | None = None) -> Tensor:
    """ddim_sample, with condition_score where there is a classifier (Dhariwal and Nichol 2021, algorithm 2)."""
    for time, kept, before, _ in steps(kind, times):
        at = torch.full((2,), time)
        x0 = clean(x, told(x, at)[:, :3], kept)
        noise = (x - kept**0.5 * x0) / (1 - kept) ** 0.5
        if score:
            noise = noise - (1 - kept) ** 0.5 * score(x, at)
            x0 = (x - (1 - kept) ** 0.5 * noise) / kept**0.5
        x = before**0.5 * x0 + (1 - before) ** 0.5 * noise
    return x.clamp(-1, 1)


def calmed(theirs: Theirs, share: float) -> Theirs:
    """Weights at random tell wild noise, and sampling makes 1e-3 of the last digits: tell less of it."""
    theirs.state |= {name: share * value for name, value in theirs.state.items() if name.startswith("out.2.")}
    return theirs


def spaced(count: int) -> list[int]:
    return [round(i * 999 / (count - 1)) for i in range(count)]


def save(theirs: Theirs, file: Path) -> None:
    torch.save(theirs.state, file)
    file.with_suffix(".yaml").write_text(yaml.safe_dump(theirs.flags))


def save_tokenizer(folder: Path) -> ForeignTokenizer:
    """GPT-2's layout with few merges: the bytes, what they merge to, the end."""
    words = ["Ġa", "re", "red", "st", "ar", "star", "Ġstar"]
    merges = ["Ġ a", "r e", "re d", "s t", "a r", "st ar", "Ġ star"]
    bytes_ = sorted({*map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])})
    alphabet = [*bytes_, *(chr(0x100 + i) for i in range(256 - len(bytes_)))]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *words, "<|endoftext|>"])}
    (folder / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return ForeignTokenizer.over_bytes(folder / "encoder.json", folder / "vocab.bpe")


@torch.no_grad()
def test_glide_and_its_upsampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = save_tokenizer(tmp_path)
    texts = tokenizer.vocab_size
    monkeypatch.setattr("tests.parity.guided.TEXTS", texts)
    base, larger = Theirs(GLIDE), Theirs({**GLIDE, "large_size": 64, "small_size": 32, "noise_schedule": "linear"})
    prompt = tokenizer.encode_ids("A red star")
    assert [len(tokenizer.encode_ids(text)) for text in ("A red star", "")] == [4, 0]
    ids = torch.tensor([prompt + [0] * (LENGTH - len(prompt)), [0] * LENGTH]).repeat_interleave(2, 0)
    mask = torch.arange(LENGTH) < torch.tensor([[len(prompt)], [len(prompt)], [0], [0]])

    def guided(x: Tensor, times: Tensor) -> Tensor:
        noise, share = base(x.repeat(2, 1, 1, 1), times.repeat(2), ids=ids, mask=mask).split(3, 1)  # type: ignore[no-untyped-call]
        wanted, away = noise.chunk(2)
        return torch.cat([away + 3.0 * (wanted - away), share[:2]], 1)

    x = torch.zeros(2, 3, 64, 64)
    base(x[..., :32, :32], torch.zeros(2), ids=ids[:2], mask=mask[:2])
    larger(x, torch.zeros(2), ids=ids[:2], mask=mask[:2], beside=(x,))
    base, larger = calmed(base, 0.3), calmed(larger, 0.1)
    drawn = ancestral(guided, "cosine", spaced(12))
    # Their notebook rounds to 256 brightnesses here, by which a picture would differ alone and among others.
    beside = F.interpolate(drawn, (64, 64), mode="bilinear")
    fast = [0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399]
    fast += [400, 500, 599, 600, 799, 800, 997]
    start = 0.997 * noise_of(SEEDS, 1, CPU)(torch.empty(2, 3, 64, 64))
    expected = implicit(
        lambda x, times: larger(x, times, ids=ids[:2], mask=mask[:2], beside=(beside,)), "linear", sorted(fast), start
    )

    save(base, tmp_path / "base.pt")
    save(larger, tmp_path / "upsample.pt")
    assert convert(str(tmp_path), tmp_path / "ours").kind == "glide"
    system = pinxit.load(tmp_path / "ours", "cpu")
    assert isinstance(system, DiffusionSystem)
    (upsampler,) = system.cascade.larger
    assert system.defaults["guidance"] == 3.0
    asked, away = (system._asked([text] * n) for text, n in (("A red star", 2), ("", 1)))
    ours = system.cascade.base.draw(asked, SEEDS, Drawing("ddpm", 12, guidance=3.0), away=away)
    torch.testing.assert_close(ours, drawn, atol=1e-4, rtol=0)
    larger_ours = upsampler.draw(enlarging(upsampler, asked, drawn, SEEDS, 2), SEEDS, upsampler.enlarging, stream=1)
    torch.testing.assert_close(larger_ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "scale", "knows"), [("ddim", 20.0, True), ("ddpm", 200.0, True), ("ddim", 20.0, False)]
)
def test_adm_led_by_its_classifier(sampler: str, scale: float, knows: bool, tmp_path: Path) -> None:
    """Of a base that knows the classes, and of one that draws whatever it likes."""
    base, judge = Theirs({**SMALL, "image_size": 32, "class_cond": knows}), Theirs({**SMALL, "image_size": 32})
    labels = torch.tensor([1, 4])
    known = labels if knows else None
    with torch.no_grad():
        base(torch.zeros(2, 3, 32, 32), torch.zeros(2), labels=known)
    base = calmed(base, 0.5)

    def score(x: Tensor, times: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            chosen = judge.classify(leaf, times, 5).log_softmax(1)[range(2), labels].sum()
            return scale * torch.autograd.grad(chosen, leaf)[0]

    start = noise_of(SEEDS, 0, CPU)(torch.empty(2, 3, 32, 32))
    with torch.no_grad():

        def drawn(score: Told | None) -> Tensor:
            def told(x: Tensor, times: Tensor) -> Tensor:
                return base(x, times, labels=known)

            if sampler == "ddpm":
                return ancestral(told, "linear", spaced(10), score)
            return implicit(told, "linear", spaced(10), start, score)

        expected, plain = drawn(score), drawn(None)
    save(base, tmp_path / "model.pt")
    renamed = {
        "classifier_width": 32,
        "classifier_depth": 1,
        "classifier_attention_resolutions": "16,8",
        "num_heads": 2,
        "num_head_channels": -1,
        "channel_mult": "1,2,2",
        "image_size": 32,
    }
    judge.flags = renamed
    save(judge, tmp_path / "classifier.pt")
    assert convert(str(tmp_path), tmp_path / "ours").kind == "adm"
    system = pinxit.load(tmp_path / "ours", "cpu")
    assert isinstance(system, DiffusionSystem)
    assert system.judge
    assert system.defaults["gradient_guidance"] == (0.0 if knows else 10.0)
    asked = system._asked(["1", "4"])
    how = Drawing(sampler, 10, gradient=scale)
    ours = system.cascade.base.draw(asked, SEEDS, how, score=system.judge(["1", "4"]))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert (expected - plain).abs().max() > 0.01, "the classifier leads somewhere"


@torch.no_grad()
def test_adm_enlarges_as_its_script_does(tmp_path: Path) -> None:
    base, larger = Theirs({**SMALL, "image_size": 32}), Theirs({**SMALL, "large_size": 64, "small_size": 32})
    base(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    larger(torch.zeros(1, 3, 64, 64), torch.zeros(1), beside=(torch.zeros(1, 3, 64, 64),))
    save(base, tmp_path / "base.pt")
    save(larger, tmp_path / "upsampler.pt")
    convert(str(tmp_path), tmp_path / "ours")
    system = pinxit.load(tmp_path / "ours", "cpu")
    assert isinstance(system, DiffusionSystem)
    assert system.cascade.larger[0].enlarging == Drawing("ddpm", 250, temperature=1.0)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    judge = Theirs({**SMALL, "image_size": 32})
    with torch.no_grad():
        judge.classify(torch.zeros(1, 3, 32, 32), torch.zeros(1), 5)
    save(judge, tmp_path / "classifier.pt")
    flags = {"num_heads": 2, "num_head_channels": -1, "channel_mult": "1,2,2", "image_size": 32}
    flags |= {"classifier_width": 32, "classifier_depth": 1, "classifier_attention_resolutions": "16,8"}
    (tmp_path / "classifier.yaml").write_text(yaml.safe_dump(flags))
    with pytest.raises(PinxitError, match=r"noised_classifier alone draw nothing\. Give a folder that holds the base"):
        convert(str(tmp_path / "classifier.pt"), tmp_path / "ours")
    base, mask = Theirs(GLIDE), torch.ones(1, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        base(torch.zeros(1, 3, 32, 32), torch.zeros(1), ids=torch.zeros(1, LENGTH, dtype=torch.int64), mask=mask)
    save(base, tmp_path / "base.pt")
    with pytest.raises(PinxitError, match=r"read by encoder\.json and vocab\.bpe, which are not in"):
        convert(str(tmp_path / "base.pt"), tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("adm-64", 65_438_568), ("adm-128", 42_568_040), ("adm-256", 54_096_360), ("adm-512", 54_448_360)],
)
def test_published_classifiers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = NoisedClassifier(SIZES[name])
    assert sum(value.numel() for value in network.parameters()) == parameters
