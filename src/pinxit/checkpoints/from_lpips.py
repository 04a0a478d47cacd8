"""The weights of LPIPS over VGG16 as ours, from the package lpips or out of a VQGAN that was trained with it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIX = "loss.perceptual_loss."
"""Of LPIPS in a checkpoint of taming-transformers."""

CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Where they stand in the sequence of VGG16, by group; each is followed by a ReLU."""


def lpips_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its own weights out of a checkpoint; empty where there are none."""
    inside = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    held = inside or dict(state)
    return held if {"net.slice5.28.weight", "lin4.model.1.weight"} <= held.keys() else {}


def lpips(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `models.perceptual.LPIPS`."""
    ours: dict[str, Tensor] = {}
    for group, places in enumerate(CONVOLUTIONS):
        for index, place in enumerate(places):
            for kind in ("weight", "bias"):
                theirs = f"net.slice{group + 1}.{place}.{kind}"
                ours[f"groups.{group}.{2 * index + bool(group)}.{kind}"] = state[theirs]
        ours[f"weights.{group}"] = state[f"lin{group}.model.1.weight"].flatten()
    return ours
