"""Computing in bfloat16."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch

__all__ = ["autocast"]

# What a processor of this architecture has where it computes in bfloat16.
NATIVE = {"x86_64": ("avx512_bf16", "amx_bf16")}


def autocast(device: torch.device, *, bfloat16: bool) -> torch.autocast:
    """Return the context in which a model computes in bfloat16, or as it is.

    Warns, once, where the processor has no instructions for it: there float32 is faster.
    """
    if bfloat16 and device.type == "cpu":
        _warn_where_slow()
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


@cache
def _warn_where_slow() -> None:
    # Older versions of PyTorch do not tell; of other architectures nothing is claimed.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = NATIVE.get(str(known.get("architecture")))
    if native and not any(known.get(name) for name in native):
        warnings.warn(
            f"bfloat16: {known.get('cpu_name', 'this processor')} has no instructions for it, "
            "which makes it slower than float32",
            stacklevel=3,
        )
