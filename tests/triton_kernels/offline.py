"""Compile every kernel of triton_kernels/ for real GPUs, with no GPU at hand.

Run as a script, in a process without TRITON_INTERPRET; prints one JSON object per cubin.
"""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sbrt.triton_kernels import norm

ARCHITECTURES = (80, 90, 100)
POINTERS = ("*fp16", "*bf16", "*fp32")


def norm_cases():
    for pointer in POINTERS:
        for has_residual in (False, True):
            signature = {
                "X": pointer,
                "x_stride": "i64",
                "W": pointer,
                "R": pointer,
                "r_stride": "i64",
                "Out": pointer,
                "out_stride": "i64",
                "columns": "i32",
                "eps": "fp32",
                "HAS_RESIDUAL": "constexpr",
                "BLOCK": "constexpr",
            }
            yield norm._rms_norm_kernel, signature, {"HAS_RESIDUAL": has_residual, "BLOCK": 2048}


CASES = (norm_cases,)


def compiled(kernel, signature, constants, architecture):
    source = ASTSource(kernel, signature, constexprs=constants)
    binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    return {
        "kernel": kernel.__name__,
        "dtype": signature["X"],
        "architecture": architecture,
        "cubin_bytes": len(binary.asm["cubin"]),
        "shared_bytes": binary.metadata.shared,
    }


def main():
    for cases in CASES:
        for case in cases():
            for architecture in ARCHITECTURES:
                print(json.dumps(compiled(*case, architecture)), flush=True)


if __name__ == "__main__":
    main()
