"""In which precision the forward pass runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from pinxit.errors import PinxitError

Precision = Literal["auto", "bf16", "float32"]
"""bf16 is mixed: products in bfloat16, weights, sums and losses in float32. auto takes it where there is hardware."""


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context for the forward pass. It can be entered again and again."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise PinxitError("This GPU has no bfloat16: use --set training.precision=float32.")
    enabled = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by itself; a CPU that only emulates it would be slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
