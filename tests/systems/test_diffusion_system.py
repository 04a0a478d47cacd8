from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tests.systems.tiny import make_clip, make_tokenizer
from torch import Tensor

import pinxit
from pinxit.checkpoints.files import save_checkpoint, to_config, write_config
from pinxit.diffusion.guidance import uphill
from pinxit.diffusion.process import Process, ProcessConfig, spread
from pinxit.diffusion.schedules import DiscreteConfig, FlowConfig
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig
from pinxit.models.noised_classifier import NoisedClassifier, NoisedClassifierConfig
from pinxit.models.text_encoder import TextEncoderConfig
from pinxit.models.unet import Guide, UNetConfig
from pinxit.objectives.noised_classification import NoisedClassification
from pinxit.systems.cascade import Cascade
from pinxit.systems.conditions import LabelCondition, TextCondition
from pinxit.systems.diffusion_system import DiffusionSystem
from pinxit.systems.gradients import ClassifierJudge, CLIPJudge
from pinxit.systems.noise_drawing import SAMPLERS, Drawing, NoiseDrawer
from pinxit.systems.picture import Picture
from pinxit.text.tokenizer import Tokenizer

UNET = UNetConfig(size=16, channels=32, multipliers=(1, 2), blocks=1, attention=(), patch=2)
TOKENIZER = make_tokenizer()
TEXT = TextEncoderConfig(TOKENIZER.vocab_size, length=8, width=32, depth=1, heads=1)
CPU = torch.device("cpu")
COSINE = ProcessConfig(DiscreteConfig("cosine"), target="x0")


def make_drawer(config: DenoiserConfig, seed: int = 0) -> NoiseDrawer:
    torch.manual_seed(seed)
    network = Denoiser(config)
    for parameter in network.parameters():  # paths begin at zero: what is asked must matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    return NoiseDrawer.ready(network, CPU)


def make_glide(*, known: bool = False, upsampler: bool = False, clip: bool = False) -> DiffusionSystem:
    base = make_drawer(DenoiserConfig(UNET, COSINE, text=TEXT, known=known))
    larger = DenoiserConfig(replace(UNET, size=32), COSINE, text=TEXT, low=16, low_noise=0.5)
    return DiffusionSystem(
        "glide",
        Cascade(base, *([make_drawer(larger, 1)] if upsampler else [])),
        TextCondition(TOKENIZER, TEXT.length),
        make_clip(TOKENIZER) if clip else None,
    )


def pixels(pictures: list[Picture]) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(picture.image).astype(np.int64)) for picture in pictures]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_same_alone_and_among_others(sampler: str) -> None:
    system = make_glide(upsampler=True)
    made = pixels(system.generate("a red star", 3, seed=5, steps=4, sampler=sampler, guidance=2.0))
    alone = pixels(system.generate("a red star", 1, seed=6, steps=4, sampler=sampler, guidance=2.0))
    assert made[0].shape == (32, 32, 3)
    assert (made[1] - alone[0]).abs().max() <= 1, "batches of another size round otherwise"
    assert all((a - b).abs().max() > 10 for a, b in pairwise(made))


def test_the_prompt_guidance_and_what_it_leads_away_from_matter() -> None:
    system = make_glide()

    def draw(prompt: str = "a red star", **settings: object) -> Tensor:
        return pixels(system.generate(prompt, 1, seed=1, steps=4, **settings))[0]  # type: ignore[arg-type]

    plain = draw()
    different = [
        draw("a blue moon"),
        draw(guidance=4.0),
        draw(guidance=4.0, negative="a blue moon"),
        draw(guidance=4.0, interval=(0.5, 1.0)),
        draw(guidance=40.0),
        draw(guidance=40.0, threshold=0.5),
    ]
    assert len({picture.numpy().tobytes() for picture in (plain, *different)}) == 7
    assert torch.equal(plain, draw(guidance=4.0, interval=(1e6, 1e7))), "guidance is never on"
    with pytest.raises(PinxitError, match=r"guidance=1 leads nowhere\. Raise guidance above 1"):
        draw(negative="a blue moon")
    with pytest.raises(PinxitError, match="guidance=1 is none"):
        draw(interval=(0.5, 1.0))
    with pytest.raises(PinxitError, match="There is no sampler 'dppm'"):
        draw(sampler="dppm")
    with pytest.raises(PinxitError, match="this model has 1000 levels of noise; allowed is 1 to 1000"):
        system.generate("a red star", 1, steps=2000)


SEES = replace(UNET, attention=(8,), tokens=32, groups=16)
SHOWN = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
IDS = torch.arange(16).view(2, 8)
VECTORS = torch.linspace(-1, 1, 2 * 5 * 12).sin().view(2, 5, 12)
QUICK: dict[str, tuple[DenoiserConfig, Conditioning]] = {
    "classes": (DenoiserConfig(UNET, COSINE, classes=3), Conditioning(labels=torch.arange(2))),
    "text": (
        DenoiserConfig(replace(SEES, looks="cross", positions=True), COSINE, text=TEXT),
        Conditioning(ids=IDS),
    ),
    "a part": (
        DenoiserConfig(SEES, COSINE, text=TEXT, known=True),
        Conditioning(ids=IDS, known=SHOWN, mask=torch.eye(16).expand(2, 1, 16, 16)),
    ),
    "a small picture": (
        DenoiserConfig(replace(UNET, size=32), COSINE, low=16, low_noise=0.5),
        Conditioning(low=SHOWN, low_level=torch.zeros(2)),
    ),
    "an embedding and a text read by CLIP": (
        DenoiserConfig(SEES, COSINE, embedding=8, reads=12),
        Conditioning(
            embedding=VECTORS[:, 0, :8],
            read=VECTORS,
            read_mask=torch.ones(2, 5, dtype=torch.bool),
            read_embedding=VECTORS[:, 1, :8],
        ),
    ),
}


@pytest.mark.parametrize("told", QUICK)
def test_weights_in_bfloat16_draw_as_autocast_does_and_can_go_back(told: str) -> None:
    config, asked = QUICK[told]
    drawer = make_drawer(config)

    def draw() -> Tensor:
        return drawer.draw(asked, (0, 1), Drawing("ddim", 4))

    exact = draw()
    drawer.bf16 = True  # over weights in float32
    rounded = (draw() - exact).norm()
    drawer.quicken(bf16=True)
    assert 0 < (draw() - exact).norm() < 1.5 * rounded
    drawer.quicken()
    assert torch.equal(draw(), exact)


def test_clip_chooses() -> None:
    system = make_glide(clip=True)
    made = system.generate("a red star", 2, rerank=5, steps=2)
    scores = [picture.score or 0.0 for picture in made]
    assert scores == sorted(scores, reverse=True)
    assert len({picture.seed for picture in made} & set(range(5))) == 2
    with pytest.raises(PinxitError, match="has no CLIP, so it cannot rerank"):
        make_glide().generate("a red star", 2, rerank=5)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("upsampler", [False, True])
def test_an_edit_keeps_what_the_mask_leaves(known: bool, upsampler: bool) -> None:
    system = make_glide(known=known, upsampler=upsampler)
    side = system.size
    picture, mask = Image.new("RGB", (side, side), (200, 30, 40)), Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, side // 2 - 1, side - 1), 255)
    settings = {"upsample_steps": 3} if upsampler else {}
    one, two = pixels(system.edit(picture, mask, "a blue moon", 2, steps=10, **settings))  # type: ignore[arg-type]
    assert (one[:, side // 2 :] == torch.tensor([200, 30, 40])).all()
    assert (one[:, : side // 2] != two[:, : side // 2]).any()
    with pytest.raises(PinxitError, match="The mask is black all over"):
        system.edit(picture, Image.new("L", (side, side), 0), "a blue moon")
    if upsampler:
        with pytest.raises(PinxitError, match="size is 32; give width and height"):
            system.edit(picture, mask, "a blue moon", size=32)  # type: ignore[arg-type]


def test_an_edit_walks_as_it_says() -> None:
    picture, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
    repaints, shown = make_glide(), make_glide(known=True)
    assert repaints.edit(picture, mask, "a blue moon", 1, steps=3)[0].settings["sampler"] == "ddpm"
    with pytest.raises(PinxitError, match=r"sampler=heun: this model paints parts by RePaint, which walks by ddpm"):
        repaints.edit(picture, mask, "a blue moon", 1, steps=3, sampler="heun")
    assert shown.edit(picture, mask, "a blue moon", 1, steps=3, sampler="heun")[0].settings["sampler"] == "heun"
    process = ProcessConfig(DiscreteConfig("cosine"), learned_variance=True)
    network = Varies(DenoiserConfig(UNET, process, classes=2))
    part = Conditioning(torch.tensor([2]), known=torch.zeros(1, 3, 16, 16), mask=torch.zeros(1, 1, 16, 16))
    small, large = (network.draw(share, part) for share in (-1.0, 1.0))
    assert (small - large).abs().mean() > 0.01, "the variance that it tells"


class Varies(Denoiser):
    """Tells of no noise, and a share of the variance."""

    share = 0.0

    def drawing(self, x: Tensor, times: Tensor, guide: Guide) -> Tensor:  # noqa: ARG002
        return torch.cat([torch.zeros_like(x), torch.full_like(x, self.share)], 1)

    def draw(self, share: float, asked: Conditioning) -> Tensor:
        self.share = share
        return NoiseDrawer.ready(self, CPU).draw(asked, [0], Drawing("ddpm", 5))


def test_what_is_known_reaches_a_network_that_has_learnt_it() -> None:
    drawer = make_drawer(DenoiserConfig(UNET, COSINE, known=True))
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :8] = 0
    how = Drawing("ddim", 4)
    red, blue = (
        drawer.draw(Conditioning(known=torch.full((1, 3, 16, 16), value), mask=mask), [0], how) for value in (-0.8, 0.8)
    )
    assert (red[..., :8] - blue[..., :8]).abs().max() > 0.01
    assert (red[..., 8:] + 0.8).abs().max() < 1e-5


def test_the_gradient_of_a_classifier_leads_to_its_class() -> None:
    labels = LabelCondition(("dark", "bright"))
    torch.manual_seed(3)
    classifier = NoisedClassifier(NoisedClassifierConfig(UNET, COSINE, classes=2))
    objective = NoisedClassification(classifier, COSINE)
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    for step in range(30):
        classes = torch.randint(2, (16,))
        flat = (classes - 0.5).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        loss, numbers = objective.loss({"pixels": flat, "labels": classes}, "main", step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert numbers["accuracy"] > 0.7, "but for those that are all noise"
    uneven = {"pixels": flat[:4], "labels": torch.tensor([1, 0, 1, 1])}
    assert float(objective.validate(uneven, 0)["accuracy_of_a_guess"]) == 0.75
    nothing = Denoiser(DenoiserConfig(UNET, ProcessConfig(DiscreteConfig("cosine")), classes=2))  # tells of no noise
    base = NoiseDrawer.ready(nothing, CPU)
    system = DiffusionSystem("adm", Cascade(base), labels, judge=ClassifierJudge(classifier, labels, CPU))

    def brightness(prompt: str, scale: float) -> float:
        settings = system.resolve(1, 0, {"sampler": "ddim", "steps": 20, "gradient_guidance": scale})
        return float(np.mean([np.asarray(one) for one in system.paint([prompt] * 8, range(8), settings)]))

    dark, bright = (brightness(name, 5.0) - brightness(name, 0.0) for name in ("dark", "bright"))
    assert dark < -3
    assert bright > 3
    assert brightness("", 5.0) == brightness("", 0.0), "no class in particular"


def test_numbers_of_steps() -> None:
    drawer = make_drawer(DenoiserConfig(UNET, COSINE))
    assert [len(drawer.levels(steps)) - 1 for steps in (5, "fast27")] == [5, 27]
    with pytest.raises(PinxitError, match="There is no steps 'quick'"):
        drawer.levels("quick")
    flow = make_drawer(DenoiserConfig(UNET, ProcessConfig(FlowConfig(), target="flow")))
    with pytest.raises(PinxitError, match="steps=fast27 is for levels of noise that are counted"):
        flow.levels("fast27")
    assert flow.draw(Conditioning(), [0], Drawing("euler", 3)).shape == (1, 3, 16, 16)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    enlarges = make_drawer(DenoiserConfig(UNET, COSINE, low=8))
    draws = make_drawer(DenoiserConfig(UNET, COSINE))
    with pytest.raises(PinxitError, match="enlarges pictures of 8 pixels: it draws none"):
        Cascade(enlarges)
    with pytest.raises(PinxitError, match="enlarges pictures of 8 pixels cannot follow what draws 16"):
        Cascade(draws, enlarges)
    local = make_drawer(DenoiserConfig(replace(UNET, attention=(), middle=False), COSINE, low=4))
    assert Cascade(draws, local).size == 64, "what learns from parts may enlarge pictures of any size"
    config = DenoiserConfig(UNET, COSINE, classes=3)
    write_config(tmp_path, {"kind": "adm", "parts": ["base"]})
    said = {"kind": "denoiser", "config": to_config(config)}
    save_checkpoint(tmp_path / "base", said, {"denoiser": Denoiser(config)})
    assert pinxit.load(tmp_path, "cpu").generate("2", 1, steps=2)[0].prompt == "2", "classes without names are numbers"
    save_checkpoint(tmp_path / "base", {**said, "labels": ["cat", "dog"]}, {"denoiser": Denoiser(config)})
    with pytest.raises(PinxitError, match="names 2 classes; its network knows 3"):
        pinxit.load(tmp_path, "cpu")


def test_what_enlarges_reads_texts_as_the_base_does(tmp_path: Path) -> None:
    other = Tokenizer.train(["a yellow sun over a green hill"] * 9, TEXT.vocabulary)
    assert other.vocab_size <= TEXT.vocabulary
    write_config(tmp_path, {"kind": "glide", "parts": ["base", "upsampler"]})
    larger = replace(UNET, size=32)

    def save(name: str, config: DenoiserConfig, tokenizer: Tokenizer) -> None:
        assert config.text
        known = replace(config, text=replace(config.text, vocabulary=tokenizer.vocab_size))
        said = {"kind": "denoiser", "config": to_config(known)}
        save_checkpoint(tmp_path / name, said, {"denoiser": Denoiser(known)}, tokenizer=tokenizer.to_json())

    save("base", DenoiserConfig(UNET, COSINE, text=TEXT), TOKENIZER)
    save("upsampler", DenoiserConfig(larger, COSINE, text=TEXT, low=16), TOKENIZER)
    assert pinxit.load(tmp_path, "cpu").generate("a red star", 1, steps=2)[0].image.size == (32, 32)
    save("upsampler", DenoiserConfig(larger, COSINE, text=TEXT, low=16), other)
    with pytest.raises(PinxitError, match=r"upsampler knows other texts or classes than the base"):
        pinxit.load(tmp_path, "cpu")


def test_a_classifier_has_to_know_the_classes_of_the_base(tmp_path: Path) -> None:
    write_config(tmp_path, {"kind": "adm", "parts": ["base", "noised_classifier"]})
    config = DenoiserConfig(UNET, COSINE, classes=2)
    said = {"kind": "denoiser", "config": to_config(config), "labels": ["cat", "dog"]}
    save_checkpoint(tmp_path / "base", said, {"denoiser": Denoiser(config)})
    judges = NoisedClassifierConfig(UNET, COSINE, classes=2)
    known = {"kind": "noised_classifier", "config": to_config(judges)}
    networks = {"noised_classifier": NoisedClassifier(judges)}
    save_checkpoint(tmp_path / "noised_classifier", {**known, "labels": ["cat", "dog"]}, networks)
    assert "gradient_guidance" in pinxit.load(tmp_path, "cpu").defaults
    save_checkpoint(tmp_path / "noised_classifier", {**known, "labels": ["cat", "fish"]}, networks)
    with pytest.raises(PinxitError, match=r"knows the class 'fish' where the base has 'dog'"):
        pinxit.load(tmp_path, "cpu")
    larger = replace(judges, unet=replace(UNET, size=32))
    save_checkpoint(
        tmp_path / "noised_classifier",
        {**known, "config": to_config(larger), "labels": ["cat", "dog"]},
        {"noised_classifier": NoisedClassifier(larger)},
    )
    with pytest.raises(PinxitError, match=r"judges pictures of 32 pixels a side, and the base draws 16\. Train it for"):
        pinxit.load(tmp_path, "cpu")


class Known(Denoiser):
    """Tells what is to be expected of pixels that are normal, of deviation 0.5, each by itself."""

    def drawing(self, x: Tensor, times: Tensor, guide: Guide) -> Tensor:  # noqa: ARG002
        alpha, sigma = (spread(value, x) for value in Process(COSINE).schedule.at(times))
        return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x


def test_noise_that_makes_a_picture_is_found_again() -> None:
    drawer = NoiseDrawer.ready(Known(DenoiserConfig(UNET, COSINE, classes=3)), CPU)
    asked, how = Conditioning(labels=torch.tensor([0, 2])), Drawing("ddim", 50)
    pictures = 0.3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    noise = drawer.invert(asked, pictures, 50)
    assert noise.std().item() == pytest.approx(0.6, abs=0.1)
    again = drawer.draw(asked, [7, 8], how, start_from=noise)
    torch.testing.assert_close(again, pictures, atol=0.01, rtol=0)
    assert (drawer.draw(asked, [7, 8], how) - pictures).abs().mean() > 0.1
    varied = [drawer.draw(asked, [seed] * 2, how._replace(eta=1.0), start_from=noise) for seed in (7, 8)]
    assert (varied[0] - varied[1]).abs().mean() > 0.1


def test_a_clip_leads_each_picture_to_its_own_text() -> None:
    torch.manual_seed(0)
    clip = make_clip(TOKENIZER, levels=100)
    score = CLIPJudge(clip)(["a red star", "a blue moon"])(0, 2)
    level = Process(COSINE).schedule.levels(100)[50]
    lead = uphill(score, 1.0)
    assert lead is not None
    side = clip.clip.config.vision.size
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        texts = clip.encode_text(["a red star", "a blue moon"])
        rows = clip.clip.encode_image(x, torch.full((2,), level.time))
        torch.testing.assert_close(score(x, level), clip.clip.logit_scale.exp() * (rows * texts).sum(1))
        step = 1e-2 * torch.nn.functional.normalize(lead(x, level).flatten(1)).view_as(x)
        assert (score(x + step, level) > score(x, level)).all()
        assert (score(x - step, level) < score(x, level)).all()


def test_repaint_goes_over_each_tenth_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = make_drawer(DenoiserConfig(UNET, COSINE))
    walked: list[float] = []
    forward = drawer._forward

    def counted(x: Tensor, times: Tensor, guide: Guide) -> Tensor:
        walked.append(float(times[0]))
        return forward(x, times, guide)

    monkeypatch.setattr(drawer, "_forward", counted)
    mask = torch.eye(16)[None, None]
    drawer.draw(Conditioning(known=torch.zeros(1, 3, 16, 16), mask=mask), [0], Drawing("ddpm", 20))
    times = [level.time for level in drawer.levels(20)[:-1]]
    assert walked == [time for start in range(0, 20, 2) for _ in range(5) for time in times[start : start + 2]]


def test_what_has_learnt_from_whole_pictures_sees_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinxit.systems.noise_drawing.TILE", 16)
    monkeypatch.setattr("pinxit.systems.tiles.TILE", 16)
    monkeypatch.setattr("pinxit.systems.tiles.OVERLAP", 8)
    plain = replace(UNET, size=32, middle=False)
    for unet, whole in ((plain, False), (replace(plain, positions=True), True)):
        drawer = make_drawer(DenoiserConfig(unet, COSINE, low=16))
        sides: set[int] = set()
        forward = drawer._forward

        def seen(x: Tensor, times: Tensor, guide: Guide, forward: Any = forward, sides: set[int] = sides) -> Tensor:
            sides.add(x.shape[-1])
            told: Tensor = forward(x, times, guide)
            return told

        monkeypatch.setattr(drawer, "_forward", seen)
        drawer.draw(Conditioning(low=torch.zeros(1, 3, 16, 16)), [0], Drawing("ddim", 2))
        assert (sides == {32}) == whole
