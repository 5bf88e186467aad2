"""`python -m bench.kernels --device cuda`: single kernels against their roofs (gpu_kernels.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import gpu_kernels

BY_DEVICE = {"cuda": gpu_kernels.main}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the bench of the device that they name."""
    return BY_DEVICE["cuda"](argv)


if __name__ == "__main__":
    sys.exit(main())
