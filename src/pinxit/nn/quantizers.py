"""From features to discrete codes and back, and how well a codebook is used."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def gumbel_softmax(logits: Tensor, temperature: float, *, dim: int = 1) -> Tensor:
    """A relaxed one-hot sample of the categorical `logits` (Jang et al. 2016, equation 2), in float32.

    The noise comes from torch's global generator. As `temperature` falls to 0 the sample becomes one-hot.
    """
    logits = logits.float().movedim(dim, -1)  # sums over neighbours in memory are several times as fast
    noise = torch.rand_like(logits).log_().neg_().log_()  # minus Gumbel; torch's exponentials are slow on a CPU
    return F.softmax((logits - noise) / temperature, dim=-1).movedim(-1, dim)


def uniform_divergence(logits: Tensor, *, dim: int = 1) -> Tensor:
    """KL(softmax(logits) || uniform) in nats, reduced over `dim` only.

    Zero where every code is equally likely, log k where one code is certain.
    """
    log_q = F.log_softmax(logits.float().movedim(dim, -1), dim=-1)
    return (log_q.exp() * log_q).sum(-1) + math.log(logits.shape[dim])


def usage(counts: Tensor) -> tuple[float, float]:
    """How a codebook is used, from how often each of its k codes occurred: the share that occurred at all, and the
    perplexity over k. The perplexity, exp(entropy), is the number of codes that used alike would give that entropy.
    """
    p = counts.double() / counts.sum()
    entropy = -(p * p.clamp_min(1e-12).log()).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item() / len(counts)


class DirectCodes(nn.Module):
    """Logits straight from the features, and a free vector for every code: the dVAE as published."""

    def __init__(self, features: int, codes: int, vector: int) -> None:
        super().__init__()
        self.to_logits = nn.Conv2d(features, codes, 1)
        self.vectors = nn.Conv2d(codes, vector, 1)

    def logits(self, features: Tensor) -> Tensor:
        """b c h w -> b k h w."""
        out: Tensor = self.to_logits(features)
        return out

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the codes, b k h w -> b d h w."""
        out: Tensor = self.vectors(weights)
        return out

    def look_up(self, ids: Tensor) -> Tensor:
        """b h w -> b d h w: `mix` of one-hot weights, without making them."""
        assert self.vectors.bias is not None
        return (F.embedding(ids, self.vectors.weight[:, :, 0, 0].t()) + self.vectors.bias).permute(0, 3, 1, 2)


class CosineCodes(nn.Module):
    """Codes as directions in a space of few dimensions: logits are scaled cosines (Yu et al. 2021, section 3.2).

    Codes that are many and free tend to be left unused when training is short. These few-dimensional ones can be placed
    by k-means before they are relied upon: `continuous` lets the decoder learn from the directions themselves while
    `follow` moves the codebook onto them.
    """

    def __init__(self, features: int, codes: int, dimensions: int, scale: float = 40.0) -> None:
        super().__init__()
        self.to_direction = nn.Conv2d(features, dimensions, 1)
        self.codebook_embedding = nn.Parameter(F.normalize(torch.randn(codes, dimensions), dim=1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.register_buffer("seen", torch.ones(codes))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.seen: Tensor
        self.updates: Tensor

    @property
    def codebook(self) -> Tensor:
        """Unit rows, k d."""
        return F.normalize(self.codebook_embedding, dim=1)

    def continuous(self, features: Tensor) -> Tensor:
        """b c h w -> unit directions b d h w, in float32."""
        return F.normalize(self.to_direction(features).float(), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """b c h w -> b k h w, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            cosines = self.continuous(features.float()).permute(0, 2, 3, 1) @ self.codebook.t()
            return (cosines * self.log_scale.exp()).permute(0, 3, 1, 2)

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the codes, b k h w -> b d h w."""
        return (weights.permute(0, 2, 3, 1) @ self.codebook).permute(0, 3, 1, 2)

    def look_up(self, ids: Tensor) -> Tensor:
        """b h w -> b d h w."""
        return self.codebook[ids].permute(0, 3, 1, 2)

    @torch.no_grad()
    def follow(self, directions: Tensor, rate: float = 0.1, memory: float = 0.98, dead: float = 0.02) -> None:
        """A step of spherical k-means towards `directions` (b d h w), the same on all processes.

        Codes seen less often than `dead` of an even share restart at directions that are badly served.
        """
        z = _gather(directions.detach().float().permute(0, 2, 3, 1).reshape(-1, directions.shape[1]))
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 cannot tell neighbouring codes apart
            cosines, ids = (z @ self.codebook.t()).max(1)
        counts = torch.bincount(ids, minlength=len(self.seen)).float()
        sums = torch.zeros_like(self.codebook_embedding).index_add_(0, ids, z)
        means = sums / counts.clamp_min(1)[:, None]
        moved = F.normalize(torch.lerp(self.codebook, means, rate), dim=1)
        self.codebook_embedding.copy_(torch.where(counts[:, None] > 0, moved, self.codebook))

        share = len(z) / len(self.seen)
        self.seen.lerp_(counts, 1 - memory)
        unused = (self.seen < dead * share).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(int(self.updates))
        worst = cosines.argsort()[: max(len(unused), len(z) // 8)]
        chosen = worst[torch.randperm(len(worst), generator=generator).to(worst.device)][: len(unused)]
        self.codebook_embedding[unused[: len(chosen)]] = z[chosen]
        self.seen[unused[: len(chosen)]] = share
        self.updates += 1


def _gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
