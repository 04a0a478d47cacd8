"""A generator against a critic: the hinge loss, with R1 and mismatched texts.

Lim and Ye 2017 (hinge); Mescheder et al. 2018 (R1); Karras et al. 2020 (R1 now and then); Reed et al. 2016 (real
pictures that are asked for something else count as made).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.objectives.augmentation import augmented
from pinxit.objectives.objective import Batch, Numbers, Objective


@dataclass(frozen=True)
class GANObjectiveConfig:
    """What keeps the two in balance."""

    r1: float = 0.3
    """gamma of R1: half of it times the squared gradient of the critic's logits at real pictures. It grows with their
    size."""
    r1_every: int = 16
    """Steps between two such penalties, which count as much more."""
    augment: bool = True
    """Show the critic pictures that are moved and partly hidden, so that it does not learn a few thousand by heart."""

    def __post_init__(self) -> None:
        if self.r1 < 0 or self.r1_every < 1:
            raise PinxitError(f"r1={self.r1} every {self.r1_every} steps: give at least 0, every 1 or more.")


class Generator(Protocol):
    """What `models.gan.Generator` is: what is asked becomes words, and noise and these a picture."""

    @property
    def words(self) -> Callable[[Tensor | None], Tensor | None]: ...

    def draw(self, noise: Tensor, words: Tensor | None) -> Tensor: ...


class Critic(Protocol):
    """What `models.gan.Critic` is: a network that sees pictures once, and judges them for any words."""

    def see(self, pixels: Tensor) -> Tensor: ...

    def judge(self, features: Tensor, words: Tensor | None) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class AdversarialGeneration(Objective):
    """Two turns a step: the critic's, then the generator's.

    How what is asked is read is learnt in the critic's turn, which tells matching pictures from others, and the
    generator draws after that: by its own turn alone it would learn to read only late.
    """

    turns = ("critic", "generator")

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        latent: int,
        asked: str | None,
        config: GANObjectiveConfig,
        paint: Callable[[], Image.Image | None] | None = None,
    ) -> None:
        """`generator` draws from noise b `latent`; `asked` is what the batch calls what it is asked for."""
        super().__init__()
        self.generator, self.critic = generator, critic
        self.latent, self.asked, self.config, self.paint = latent, asked, config, paint

    def networks(self) -> Mapping[str, nn.Module]:
        """The generator. The critic has done its work when training ends."""
        return {"generator": cast("nn.Module", self.generator)}

    def parameters_of(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Each its own, and the critic's how texts or classes are read."""
        for name, value in self.named_parameters():
            if name.startswith(("critic.", "generator.words.")) == (turn == "critic"):
                yield name, value

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
        """`batch["pixels"]` b 3 h w in [-1, 1]."""
        pixels = batch["pixels"]
        asked = batch[self.asked] if self.asked else None
        noise = torch.randn(len(pixels), self.latent, device=pixels.device)
        if turn == "critic":
            words = self.generator.words(asked)
            with torch.no_grad():
                made = self.generator.draw(noise, words)
            return self._judge(pixels, made.to(pixels.dtype), asked, words, step)
        for value in self.critic.parameters():  # this turn moves the generator alone
            value.requires_grad_(False)
        with torch.no_grad():
            words = self.generator.words(asked)
        made = self.generator.draw(noise, words).to(pixels.dtype)
        loss = -self.critic.judge(self._seen(made), words).float().mean()
        for value in self.critic.parameters():
            value.requires_grad_(True)
        return loss, {}

    def _judge(
        self, pixels: Tensor, made: Tensor, asked: Tensor | None, words: Tensor | None, step: int
    ) -> tuple[Tensor, Numbers]:
        """Real pictures above 1; made ones, and those asked for something else, below -1."""
        critic = self.critic
        seen = self._seen(pixels)
        real, fake = critic.judge(seen, words).float(), critic.judge(self._seen(made), words).float()
        wrong = F.relu(1 + fake).mean()
        numbers: dict[str, Tensor | float] = {"real": real.detach().mean(), "made": fake.detach().mean()}
        if asked is not None:
            assert words is not None
            differs = (asked != asked.roll(1, 0)).view(len(asked), -1).any(1)
            other = critic.judge(seen, words.roll(1, 0)).float()
            mismatched = (F.relu(1 + other) * differs).sum() / differs.sum().clamp_min(1)
            wrong = torch.where(differs.any(), (wrong + mismatched) / 2, wrong)
            numbers["mismatched"] = (other.detach() * differs).sum() / differs.sum().clamp_min(1)
        loss = F.relu(1 - real).mean() + wrong
        if self.config.r1 and self.training and step % self.config.r1_every == 0:
            penalty = self._r1(pixels, words)
            numbers["r1"] = penalty.detach()
            loss = loss + self.config.r1_every * self.config.r1 / 2 * penalty
        return loss, numbers

    def _seen(self, pixels: Tensor) -> Tensor:
        """Features b d of pictures, real and made ones changed alike."""
        return self.critic.see(augmented(pixels) if self.config.augment else pixels)

    def _r1(self, pixels: Tensor, words: Tensor | None) -> Tensor:
        """The mean squared gradient, in float32."""
        with torch.autocast(pixels.device.type, enabled=False):
            leaf = pixels.detach().requires_grad_()
            logits = self.critic.judge(self._seen(leaf), None if words is None else words.float())
            (gradient,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()

    def validate(self, batch: Batch, step: int) -> Numbers:
        """What the critic says of pictures that it has not seen, and of made ones."""
        return self.loss(batch, "critic", step)[1]

    def preview(self) -> Image.Image | None:
        """Pictures of fixed prompts and noise."""
        return self.paint() if self.paint else None
