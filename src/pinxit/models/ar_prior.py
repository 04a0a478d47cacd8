"""unCLIP's autoregressive prior: from a text to the CLIP embedding of a picture of it, number by number.

Ramesh et al. 2022, section 2.2: embeddings by their principal components, those that vary most first, each number in
buckets; before them the text, how near the picture is to be to it, and its embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig


@dataclass(frozen=True)
class ARPriorConfig:
    """The shape of the transformer and its codes, and of the CLIP whose embeddings it tells."""

    embedding: int
    """d of the CLIP's embeddings."""
    length: int
    """l, positions of its texts."""
    vocabulary: int
    """Ids of its texts."""
    dimensions: int
    """k, principal components that are told; the others are left at their mean."""
    buckets: int
    """Codes of each."""
    width: int
    depth: int
    heads: int
    dots: int = 64
    """Codes of how near a picture is to its text."""

    def __post_init__(self) -> None:
        if not 1 <= self.dimensions <= self.embedding:
            raise PinxitError(
                f"dimensions={self.dimensions} of embeddings of {self.embedding} numbers: give 1 to as many."
            )

    @property
    def image_vocabulary(self) -> int:
        """Codes, by the name that they have in other networks over codes."""
        return self.buckets

    @property
    def transformer(self) -> TokenTransformerConfig:
        """Over the text, the nearness and the text's embedding, and then the codes."""
        return TokenTransformerConfig(
            condition_vocabulary=self.vocabulary + self.dots,
            condition_length=self.length + 2,
            image_vocabulary=self.buckets,
            grid=(self.dimensions, 1),
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            predicts_condition=False,
            condition_vector=self.embedding,
            positions="each",
        )


class ARPrior(nn.Module):
    """A token transformer over the codes of embeddings, with what turns one into the other."""

    mean: Tensor
    basis: Tensor
    edges: Tensor
    centres: Tensor
    dot_edges: Tensor

    def __init__(self, config: ARPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = TokenTransformer(config.transformer)
        d, k, codes = config.embedding, config.dimensions, config.buckets
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("basis", torch.eye(d))  # a component a row, all of them, those that vary most first
        self.register_buffer("edges", torch.zeros(k, codes - 1))
        self.register_buffer("centres", torch.zeros(k, codes))
        self.register_buffer("dot_edges", torch.zeros(config.dots - 1))

    @torch.no_grad()
    def fit(self, embeddings: Tensor, dots: Tensor) -> None:
        """Takes components and buckets from embeddings n d of pictures, and from how near they are to their texts, n.

        Each bucket holds as many of them as any other.
        """
        rows = embeddings.double()
        self.mean.copy_(rows.mean(0))
        away = rows - rows.mean(0)
        _, vectors = torch.linalg.eigh(away.t() @ away)
        self.basis.copy_(vectors.t().flip(0))
        codes = self.config.buckets
        values = (away.float() @ self.basis[: self.config.dimensions].t()).t().contiguous()  # k n
        shares = torch.arange(1, codes, dtype=torch.float64) / codes
        ordered = values.sort(1).values
        self.edges.copy_(ordered[:, (shares * len(rows)).long().clamp_max(len(rows) - 1)])
        own = torch.searchsorted(self.edges, values, right=True)
        sums = torch.zeros(len(values), codes).scatter_add_(1, own, values)
        counts = torch.zeros(len(values), codes).scatter_add_(1, own, torch.ones_like(values))
        between = (F.pad(self.edges, (1, 0)) + F.pad(self.edges, (0, 1))) / 2
        self.centres.copy_(torch.where(counts > 0, sums / counts.clamp_min(1), between))
        at = (torch.arange(1, self.config.dots) / self.config.dots * len(dots)).long()
        self.dot_edges.copy_(dots.float().sort().values[at])

    def encode(self, embeddings: Tensor) -> Tensor:
        """Rows b d -> codes int64 b k."""
        with torch.autocast(embeddings.device.type, enabled=False):
            values = (embeddings.float() - self.mean) @ self.basis[: self.config.dimensions].t()
        return torch.searchsorted(self.edges, values.t().contiguous(), right=True).t()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes b k -> unit rows b d."""
        values = self.centres.gather(1, codes.t()).t()
        return F.normalize(values @ self.basis[: self.config.dimensions] + self.mean, dim=1)

    def truncated(self, embeddings: Tensor, dimensions: int) -> Tensor:
        """Unit rows b d of which only some components are kept, those that vary most (figure 7)."""
        kept = self.basis[:dimensions]
        return F.normalize((embeddings - self.mean) @ kept.t() @ kept + self.mean, dim=1)

    def nearness(self, dots: Tensor) -> Tensor:
        """Dot products of pictures with their texts, b -> codes int64 b, the nearest last."""
        return torch.searchsorted(self.dot_edges, dots.float().contiguous(), right=True)

    def condition(self, ids: Tensor, nearness: Tensor, texts: Tensor) -> Tensor:
        """Framed ids b l, codes of nearness b and embeddings of texts b d -> what the transformer is given."""
        codes = self.config.vocabulary + nearness[:, None]
        return torch.cat([ids.float(), codes.float(), texts], 1)

    def forward(self, condition: Tensor, codes: Tensor) -> tuple[Tensor | None, Tensor]:
        """What `condition` gives, and codes b k -> None, and logits b k buckets."""
        told: tuple[Tensor | None, Tensor] = self.transformer(condition, codes)
        return told


SIZES = {
    # Table 3 of the paper, over its CLIP ViT-H/16; of 1B parameters.
    "paper": ARPriorConfig(
        embedding=1_024,
        length=256,
        vocabulary=49_408,
        dimensions=319,
        buckets=1_024,
        width=1_664,
        depth=24,
        heads=26,
    ),
}
