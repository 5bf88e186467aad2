"""Programmatic dependent launch: a kernel's programs start while the previous kernel still runs.

A kernel that is launched early does three things first. It allows the next kernel to start. It
prefetches its first weights into L2. It waits until the previous kernel has ended and its results
can be read. Until then it reads nothing but weights, which no kernel writes. Every early kernel
waits for the kernel before it. So after this wait, all earlier kernels have ended.

A kernel that is launched as usual starts after the previous kernel has ended, even if the previous
kernel allowed an early start. Devices before sm_90 and the interpreter have no early launches;
there `programmatic_launch` changes nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .plan import architecture_of
from .words import interpreting

LINE = tl.constexpr(128)  # bytes of a cache line in L2


@triton.jit
def start_next():
    """Allows the next kernel to start now, if it is launched early."""
    gdc_launch_dependents()


@triton.jit
def prefetch(p_weight):
    """Prefetches the cache line of every address into L2. All addresses must be inside the
    weights."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [p_weight.to(tl.int64, bitcast=True)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def wait_for_previous():
    """Returns when the previous kernel has ended. Only then may this kernel read its results, or
    write memory that the previous kernel reads."""
    gdc_wait()


def is_early(asked: bool, device: torch.device) -> bool:
    """Return True if an early launch is wanted and `device` supports it."""
    return asked and not interpreting() and architecture_of(device) >= 90
