"""Every source of pictures with captions, by the text that a person types."""

from __future__ import annotations

from pinxit.data.sample import BadSample, Captions, Pairs, Sample

__all__ = ["BadSample", "Captions", "Pairs", "Sample"]
