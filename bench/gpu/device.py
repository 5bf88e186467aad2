"""Checks that torch can use a CUDA device. Every bench on a device begins with this check."""

from __future__ import annotations

from sbrt.errors import EngineError


def expect_cuda() -> None:
    """Raise EngineError if there is no CUDA device that torch can use."""
    try:
        import torch
    except ImportError:
        raise EngineError("GPU: expected torch with CUDA, found no torch") from None
    if not torch.cuda.is_available():
        raise EngineError(
            "GPU: expected a CUDA device that torch can use, found none "
            f"(torch {torch.__version__})"
        )
