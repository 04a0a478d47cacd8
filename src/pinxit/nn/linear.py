"""`nn.Linear`, with float32 on a CPU handed to oneDNN."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

FEW_ROWS = 64
"""With fewer rows than this, laying the weight out for oneDNN takes longer than multiplying with it."""


def has_onednn() -> bool:
    """Whether this PyTorch brings oneDNN, on a processor where that is its fast way."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and platform.machine() in {"x86_64", "AMD64"} and hasattr(torch._C._nn, "mkldnn_linear")


ONEDNN = has_onednn()


class Linear(nn.Linear):
    """`nn.Linear` whose float32 products, forward and backward, oneDNN computes on a CPU.

    PyTorch gives them to MKL, which takes twice as long on AMD's processors; on Intel's the two are alike. Other
    precisions, autocast among them, go the usual way, which is oneDNN's where it pays.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`... d -> ... m`."""
        x = input
        if (
            not ONEDNN
            or x.dtype != torch.float32
            or x.device.type != "cpu"
            or x.numel() < FEW_ROWS * self.in_features
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()  # which breaks off at what oneDNN lays out
        ):
            return super().forward(x)
        y: Tensor = torch._C._nn.mkldnn_linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return y
