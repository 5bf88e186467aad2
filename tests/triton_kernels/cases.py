"""The dtypes, the sizes of models, and the type Case, for the cases that offline.py compiles."""

from collections import namedtuple

import torch

from sbrt.triton_kernels.product_plan import Heads

DTYPES = {"*fp16": torch.float16, "*bf16": torch.bfloat16, "*fp32": torch.float32}

# A kernel with everything that a launch gives to the compiler. types: types of the arguments,
# without strides. constants, warps, registers: the values, or functions that return the values for
# an architecture. fusion: True if the compiler may fuse products and sums. core: True if the
# default tests compile the case. registers: limit of registers per thread, or None.
FIELDS = "kernel configuration dtype types constants warps fusion core registers"
Case = namedtuple("Case", FIELDS, defaults=[None])

# name: (hidden, inner, rows of q, rows of qkv, vocabulary)
MODELS = {
    "1B": (2048, 8192, 2048, 3072, 128_256),
    "8B": (4096, 14336, 4096, 6144, 128_256),
    "demo": (256, 768, 256, 512, 4096),
    "demo draft": (128, 288, 128, 256, 4096),
}
# Gemma 3 of 1B, 4B and 27B parameters, with the same sizes.
GEMMAS = {
    "gemma 1B": (1152, 6912, 1024, 1536, 262_144),
    "gemma 4B": (2560, 10240, 2048, 4096, 262_208),
    "gemma 27B": (5376, 21504, 4096, 8192, 262_208),
}


def ones(sizes):
    """Return those of the sizes that are 1, because a launch compiles the value 1 into the
    kernel."""
    return {name: value for name, value in sizes.items() if value == 1}


def heads_of(hidden, q, qkv):
    """Return the heads of a model of MODELS. Small models have narrow heads."""
    head_dim = 128 if hidden == 4096 else 64 if hidden > 128 else 32
    return Heads(q // head_dim, (qkv - q) // 2 // head_dim, head_dim)


def head_types(dtype):
    """Return the types of the additional arguments of a product with heads."""
    return {"Angles": "*fp32", "Table": "*i32", "K": dtype, "V": dtype}
