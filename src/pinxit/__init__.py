"""pinxit: pictures from text, by the systems that the DALL·E papers opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pinxit.errors import PinxitError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pinxit.systems.picture import Picture
    from pinxit.systems.system import System

__all__ = ["Picture", "PinxitError", "__version__", "load"]
__version__ = "0.1.0"


def load(
    name: str | Path, device: str | torch.device | None = None, *, bf16: bool = False, compile: bool = False
) -> System:
    """Opens a model: a shipped name, a checkpoint folder, or `hf:owner/name`; on the GPU where there is one.

    Faster for many pictures: `bf16` multiplies in bfloat16, `compile` through networks made by `torch.compile`.
    """
    from pinxit.systems import system  # torch comes in here, not when pinxit is imported

    return system.load(name, device, bf16=bf16, compile=compile)


def __getattr__(name: str) -> Any:
    if name == "Picture":
        from pinxit.systems.picture import Picture

        return Picture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
