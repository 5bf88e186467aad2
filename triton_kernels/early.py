"""Programmatic dependent launch: a kernel's programs start while the kernel before it still runs.

A kernel that is launched so says at once that the next one may start. Then it asks L2 for the first
of its weights. Then it waits until the kernel before it has ended and its memory can be read. Until
then it touches nothing but weights, which no kernel writes. Since every such kernel waits, all
kernels before it have ended too.

A kernel that is launched as usual starts after the one before it, whatever that one says. Devices
before sm_90 and the interpreter have no such launches; there the flag changes nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .plan import architecture_of
from .words import interpreting

LINE = tl.constexpr(128)  # bytes of a line of L2


@triton.jit
def start_next():
    """Lets the next kernel start, if it was launched early."""
    gdc_launch_dependents()


@triton.jit
def prefetch(p_weight):
    """Asks L2 for the line of every address. Nothing is read, and no address may be outside."""
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
    """Returns when the kernel before this one has ended. Only then may its results be read, and
    what it reads be written."""
    gdc_wait()


def is_early(asked: bool, device: torch.device) -> bool:
    """True if an early launch is asked for and `device` supports it."""
    return asked and not interpreting() and architecture_of(device) >= 90
