"""From features to discrete codes and back, and how well a codebook is used."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.nn.processes import add_up, gather, processes, take_over


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


COMPARED = 2**25
"""Distances that are held at once."""


class Codebook(nn.Module):
    """k vectors, of which every feature takes the nearest (van den Oord et al. 2017, equations 1 and 2).

    With `cosine`, features and vectors are told apart by their directions alone (Yu et al. 2021, section 3.2).
    """

    def __init__(self, codes: int, dimensions: int, *, cosine: bool = False) -> None:
        super().__init__()
        self.cosine = cosine
        first = F.normalize(torch.randn(codes, dimensions), dim=1)
        self.embedding = nn.Parameter(first if cosine else first / codes)

    @property
    def vectors(self) -> Tensor:
        """k d; unit rows where only directions count."""
        return F.normalize(self.embedding, dim=1) if self.cosine else self.embedding

    def prepare(self, features: Tensor) -> Tensor:
        """b d h w -> the same in float32, as the vectors are: of unit length where only directions count."""
        return F.normalize(features.float(), dim=1) if self.cosine else features.float()

    def nearest(self, features: Tensor) -> Tensor:
        """b d h w -> ids, int64 b h w."""
        return self.nearest_to(self.prepare(features).movedim(1, -1).flatten(0, 2))[1].view(
            features.shape[0], *features.shape[2:]
        )

    @torch.no_grad()
    def nearest_to(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared rows m d -> squared distances to the nearest vectors and their ids, m each, in blocks."""
        with torch.autocast(rows.device.type, enabled=False):  # bfloat16 cannot tell neighbouring codes apart
            vectors = self.vectors
            lengths = vectors.square().sum(1)
            found = [
                torch.addmm(lengths, block, vectors.t(), alpha=-2).min(1)
                for block in torch.split(rows, max(1, COMPARED // len(vectors)))
            ]
            distances = torch.cat([block.values for block in found]) + rows.square().sum(1)
            return distances, torch.cat([block.indices for block in found])

    def look_up(self, ids: Tensor) -> Tensor:
        """b h w -> b d h w."""
        return self.vectors[ids].permute(0, 3, 1, 2)


class CosineCodes(nn.Module):
    """Codes as directions in a space of few dimensions: logits are scaled cosines (Yu et al. 2021, section 3.2).

    Codes that are many and free tend to be left unused when training is short. These few-dimensional ones can be placed
    by k-means (`Following`) before they are relied upon, while the decoder learns from the directions themselves.
    """

    def __init__(self, features: int, codes: int, dimensions: int, scale: float = 40.0) -> None:
        super().__init__()
        self.to_direction = nn.Conv2d(features, dimensions, 1)
        self.codebook = Codebook(codes, dimensions, cosine=True)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def continuous(self, features: Tensor) -> Tensor:
        """b c h w -> unit directions b d h w, in float32."""
        return self.codebook.prepare(self.to_direction(features))

    def logits(self, features: Tensor) -> Tensor:
        """b c h w -> b k h w, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            cosines = self.continuous(features.float()).permute(0, 2, 3, 1) @ self.codebook.vectors.t()
            return (cosines * self.log_scale.exp()).permute(0, 3, 1, 2)

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the codes, b k h w -> b d h w."""
        return (weights.permute(0, 2, 3, 1) @ self.codebook.vectors).permute(0, 3, 1, 2)

    def look_up(self, ids: Tensor) -> Tensor:
        """b h w -> b d h w."""
        return self.codebook.look_up(ids)


class Following(nn.Module):
    """Moves a codebook onto the features it is asked for: k-means that forgets, the same on all processes.

    A code's vector is the mean of what it served, with weights that fall by `decay` a step (van den Oord et al. 2017,
    appendix A.1). The first step places all codes by k-means over what it is given. Codes that serve less than `dead`
    of an even share restart at features that are badly served.
    """

    def __init__(self, codes: int, dimensions: int, *, decay: float, dead: float) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dimensions))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.counts: Tensor
        self.sums: Tensor
        self.updates: Tensor

    @torch.no_grad()
    def update(self, codebook: Codebook, features: Tensor, *, move: bool = True) -> None:
        """A step towards `features`, b d h w. Without `move` codes are placed and restarted, but not moved."""
        rows = codebook.prepare(features.detach()).movedim(1, -1).flatten(0, 2)  # m d, of this process
        generator = torch.Generator().manual_seed(int(self.updates))
        first = self.updates == 0
        if first:
            place(codebook, gather(rows), generator)
        distances, counts, sums = served(codebook, rows)
        add_up(counts)
        add_up(sums)
        self.counts.lerp_(counts, 1.0 if first else 1 - self.decay)
        self.sums.lerp_(sums, 1.0 if first else 1 - self.decay)
        if move:
            set_to_means(codebook, self.counts, self.sums)

        total = len(rows) * processes()
        share = total / len(self.counts)
        unused = (self.counts < self.dead * share).nonzero()[:, 0]
        candidates = max(len(unused), total // 8)
        worst = distances.argsort(descending=True)[:candidates]
        worst_rows, far = gather(rows[worst]), gather(distances[worst])
        worst_rows = worst_rows[far.argsort(descending=True)[:candidates]]
        chosen = worst_rows[torch.randperm(len(worst_rows), generator=generator).to(rows.device)][: len(unused)]
        restarted = unused[: len(chosen)]
        codebook.embedding[restarted] = chosen
        self.counts[restarted] = share
        self.sums[restarted] = chosen * share
        self.updates += 1
        take_over(codebook.embedding)  # sums on GPUs differ in their last bits


@torch.no_grad()
def place(codebook: Codebook, rows: Tensor, generator: torch.Generator, rounds: int = 10) -> None:
    """k-means over prepared rows, m d, from some of them. A code that serves none restarts at the worst served row."""
    k = len(codebook.embedding)
    chosen = torch.randperm(len(rows), generator=generator)[:k] if len(rows) >= k else torch.arange(k) % len(rows)
    codebook.embedding.copy_(rows[chosen.to(rows.device)])
    for _ in range(rounds):
        distances, counts, sums = served(codebook, rows)
        set_to_means(codebook, counts, sums)
        empty = (counts == 0).nonzero()[:, 0][: len(rows)]
        codebook.embedding[empty] = rows[distances.argsort(descending=True)[: len(empty)]]


def served(codebook: Codebook, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's squared distance to its code, m; each code's number of rows, k, and their sum, k d."""
    distances, ids = codebook.nearest_to(rows)
    counts = torch.bincount(ids, minlength=len(codebook.embedding)).float()
    return distances, counts, torch.zeros_like(codebook.embedding).index_add_(0, ids, rows)


def set_to_means(codebook: Codebook, counts: Tensor, sums: Tensor) -> None:
    """Every vector to the mean of what it served; those that served nothing stay."""
    means = sums / counts.clamp_min(1e-12)[:, None]
    if codebook.cosine:
        means = F.normalize(means, dim=1)
    codebook.embedding.copy_(torch.where(counts[:, None] > 1e-6, means, codebook.embedding))
