"""Kernels as offline.py compiles them: sizes of models, dtypes, and one case."""

from collections import namedtuple

import torch

DTYPES = {"*fp16": torch.float16, "*bf16": torch.bfloat16, "*fp32": torch.float32}

# A kernel as it is launched. types: of all arguments except strides. constants and warps of a
# program, or functions that compute them for an architecture.
Case = namedtuple("Case", "kernel configuration dtype types constants warps fusion core")

# hidden, inner, rows of q and of qkv, vocabulary
MODELS = {
    "1B": (2048, 8192, 2048, 3072, 128_256),
    "8B": (4096, 14336, 4096, 6144, 128_256),
    "demo": (256, 768, 256, 512, 4096),
    "demo draft": (128, 288, 128, 256, 4096),
}


def ones(sizes):
    """The sizes that are 1: a launch compiles them in."""
    return {name: value for name, value in sizes.items() if value == 1}
