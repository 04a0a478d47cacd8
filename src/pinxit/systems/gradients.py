"""What gradient guidance climbs: networks that have learnt to judge noisy pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pinxit.checkpoints.catalogue import part
from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.diffusion.levels import Level
from pinxit.diffusion.process import Process, ProcessConfig
from pinxit.errors import PinxitError
from pinxit.models.denoiser import DenoiserConfig
from pinxit.models.noised_classifier import NoisedClassifier, NoisedClassifierConfig
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.conditions import Condition, LabelCondition, read_word_condition
from pinxit.systems.noise_drawing import Score

CLASSIFIER, CLIP = "noised_classifier", "noised_clip"
"""The folders of such networks in a system."""


class Judge(Protocol):
    """Prompts -> for the pictures from one place to another, how well noisy ones fit theirs."""

    def __call__(self, prompts: Sequence[str]) -> Callable[[int, int], Score]: ...


class ClassifierJudge:
    """The log probability of the class (Dhariwal and Nichol 2021, section 4). No class in particular fits all."""

    def __init__(self, network: NoisedClassifier, condition: LabelCondition, device: torch.device) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.process = Process(network.config.process)
        self.condition = condition
        self.device = device

    def __call__(self, prompts: Sequence[str]) -> Callable[[int, int], Score]:
        """Names of classes."""
        labels = self.condition(prompts)[:, 0].to(self.device)

        def of(start: int, end: int) -> Score:
            own = labels[start:end]
            some = own < len(self.condition.labels)

            def score(x: Tensor, level: Level) -> Tensor:
                alpha, sigma = (x.new_tensor(value) for value in (level.alpha, level.sigma))
                seen = self.process.scaled(x, alpha, sigma)
                logits = self.network(seen, x.new_full((len(x),), level.time)).float()
                fits: Tensor = logits.log_softmax(1).gather(1, (own * some)[:, None])[:, 0] * some
                return fits

            return score

        return of


class CLIPJudge:
    """The scaled likeness to the text (Nichol et al. 2021, section 2.4)."""

    def __init__(self, clip: CLIPSystem) -> None:
        if not clip.clip.config.vision.levels:
            raise PinxitError(
                f"This {CLIP} has learnt from clean pictures alone, so its gradient leads nowhere. Train one by the "
                "recipe noised-clip."
            )
        self.clip = clip

    def __call__(self, prompts: Sequence[str]) -> Callable[[int, int], Score]:
        """Texts."""
        texts = self.clip.encode_text(list(prompts)).to(self.clip.device)
        network = self.clip.clip

        def of(start: int, end: int) -> Score:
            def score(x: Tensor, level: Level) -> Tensor:
                rows = network.encode_image(x, x.new_full((len(x),), level.time))
                fits: Tensor = network.logit_scale.exp() * (rows * texts[start:end]).sum(1)
                return fits

            return score

        return of


def read_classes(folder: Path) -> Condition | None:
    """Those of the classifier in a system's folder; None where there is none."""
    classifier = part(folder, CLASSIFIER)
    if not classifier.exists():
        return None
    config = from_config(NoisedClassifierConfig, read_config(classifier).get("config", {}))
    return read_word_condition(classifier, None, config.classes)


def read_judge(folder: Path, base: DenoiserConfig, condition: Condition, device: torch.device) -> Judge | None:
    """The one in a system's folder, for the pictures of its base; None where there is none."""
    classifier, clip = part(folder, CLASSIFIER), part(folder, CLIP)
    if classifier.exists():
        config = from_config(NoisedClassifierConfig, read_config(classifier).get("config", {}))
        _check_alike(classifier, config.unet.size, config.process, base)
        if not isinstance(condition, LabelCondition) or config.classes != len(condition.labels):
            raise PinxitError(f"{classifier} knows {config.classes} classes; the base has other ones.")
        for own, other in zip(read_config(classifier).get("labels") or (), condition.labels, strict=False):
            if own != other:
                raise PinxitError(
                    f"{classifier} knows the class {own!r} where the base has {other!r}. Train both with the same "
                    "data.label, of the same pictures."
                )
        network = NoisedClassifier(config)
        load_network(classifier, CLASSIFIER, network)
        return ClassifierJudge(network, condition, device)
    if clip.exists():
        judge, said = CLIPSystem.from_checkpoint(clip, device), read_config(clip).get("process")
        _check_alike(clip, judge.clip.config.vision.size, said and from_config(ProcessConfig, said), base)
        return CLIPJudge(judge)
    return None


def _check_alike(folder: Path, size: int, process: ProcessConfig | None, base: DenoiserConfig) -> None:
    if process is None or process.schedule != base.process.schedule:
        wanted = base.process.schedule
        raise PinxitError(f"The noise that {folder} has learnt is not that of the base. Train it by that: {wanted}.")
    if size != base.unet.size:
        raise PinxitError(
            f"{folder} judges pictures of {size} pixels a side, and the base draws {base.unet.size}. Train it for "
            "those."
        )
