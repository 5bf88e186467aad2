"""Attention of many rows of a prompt at once: flash attention over a ring that has not wrapped.

In such a ring the slot of a position is the first slot of the seat plus the position. So flash
attention reads K and V directly from the ring, and needs only its causal mask.

The number of rows and the range of keys are read from device memory. So one recording serves every
piece of a prompt, of any seat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ..config import BACKENDS
from ..errors import InvalidInputError
from ..model.config import ModelConfig
from ..triton_kernels.plan import architecture_of
from ..triton_kernels.state import MAX_ROWS, MAX_STEP_ROWS
from ..triton_kernels.words import ROW_SLOT, TABLE_N, TABLE_ROWS
from .ops import Run, add, copy, subtract

HALF = (torch.float16, torch.bfloat16)
OLDEST = 80  # sm_80: the first architecture that flash attention supports

# An attention function: (q [rows, heads, d], k and v [slots, kv_heads, d], lengths) -> [rows,
# heads, d].
Flash = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "Lengths"], torch.Tensor]


@dataclass(frozen=True)
class Lengths:
    """The numbers of rows and keys of a piece of a prompt, for flash attention.

    starts: int32 [4] on the device, read at every replay: 0, the number of rows in use, the slot of
    the first key, the slot after the last key. rows, keys: largest numbers of rows and keys, fixed
    in a recording.
    window: number of positions that a row attends to; None: all. scale: factor of the scores; None:
    1 / sqrt(head_dim).
    """

    starts: torch.Tensor
    rows: int
    keys: int
    window: int | None
    scale: float | None = None

    @property
    def of_rows(self) -> torch.Tensor:
        """Begin and end of the rows in use, int32 [2], a view of `starts`."""
        return self.starts[:2]

    @property
    def of_keys(self) -> torch.Tensor:
        """Begin and end of the slots of the keys, int32 [2], a view of `starts`."""
        return self.starts[2:]

    @property
    def before(self) -> int:
        """Number of earlier positions that a row attends to; -1: all."""
        return -1 if self.window is None else self.window - 1


def read_lengths(run: Run, table: torch.Tensor, lengths: Lengths) -> None:
    """Record ops that compute `lengths.starts` from a row table. The rows of the table must have
    successive positions."""
    first = TABLE_ROWS.value
    words = (TABLE_N.value, first, first + ROW_SLOT.value)
    used, position, slot = (table[at : at + 1] for at in words)  # the low 32 bits of `position`
    run(copy, used, out=lengths.starts[1:2])
    run(subtract, slot, position, out=lengths.starts[2:3])
    run(add, slot, used, out=lengths.starts[3:4])


def prefill_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    lengths: Lengths,
    flash: Flash,
    out: torch.Tensor,
) -> None:
    """Compute out[i] = softmax(scale q[i] k^T) v. Row i attends to the keys up to its own position,
    within its window.

    q, out [rows, heads, head_dim]; k, v [kv_heads, slots, head_dim], the storage of one layer. The
    results of rows that are not in use are undefined.
    """
    out.copy_(flash(q, k.transpose(0, 1), v.transpose(0, 1), lengths))


def flash_torch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Lengths
) -> torch.Tensor:
    """Run torch's flash attention through an internal function. The public functions align the
    causal mask to the wrong corner if there are fewer rows than keys."""
    found = torch.ops.aten._flash_attention_forward(
        *(q, k, v, lengths.of_rows, lengths.of_keys, lengths.rows, lengths.keys),
        *(0.0, True, False),  # no dropout; causal; no mask returned
        scale=lengths.scale,
        window_size_left=lengths.before,
        window_size_right=0,
    )
    return found[0]


def flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Lengths) -> torch.Tensor:
    """Run the flash attention of the package flash-attn."""
    attend: Any = import_module("flash_attn").flash_attn_varlen_func
    found: torch.Tensor = attend(
        *(q, k, v, lengths.of_rows, lengths.of_keys, lengths.rows, lengths.keys),
        causal=True,
        softmax_scale=lengths.scale,
        window_size=(lengths.before, 0),
    )
    return found


def flash_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Lengths
) -> torch.Tensor:
    """Compute the result of flash attention in plain torch. Rows that are not in use are copied
    from `q`."""
    _, rows, begin, end = lengths.starts.tolist()
    keys = end - begin
    group = q.shape[1] // k.shape[1]
    own = torch.arange(keys - rows, keys)[:, None]
    column = torch.arange(keys)[None, :]
    sees = (column <= own) & (column >= own - (lengths.window or keys) + 1)
    wide = [x[begin:end].float().transpose(0, 1).repeat_interleave(group, 0) for x in (k, v)]
    queries = q[:rows].float().transpose(0, 1)
    found = torch.nn.functional.scaled_dot_product_attention(
        queries, *wide, attn_mask=sees, scale=lengths.scale
    )  # fmt: skip
    out = q.clone()
    out[:rows] = found.transpose(0, 1).to(q.dtype)
    return out


def flash_for(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int
) -> Flash | None:
    """Return the attention function for prompt forwards. None means the attention kernel of rounds,
    with at most 64 rows at a time.

    backend: auto (torch's flash attention if possible, else None), torch, flash-attn, or triton
    (None). Raises InvalidInputError, one sentence, for a backend that is missing or cannot run
    here.
    """
    if backend not in BACKENDS:
        raise InvalidInputError(
            f"attention_backend: expected one of {', '.join(BACKENDS)}, got {backend}"
        )
    if backend == "triton":
        return None
    trouble = None
    if dtype not in HALF and device.type == "cuda":
        trouble = f"float16 or bfloat16, got {str(dtype).removeprefix('torch.')}"
    elif head_dim > 256 or head_dim % 8:
        trouble = f"a head_dim of 8, 16, ... 256, got {head_dim}"
    elif device.type == "cuda" and architecture_of(device) < OLDEST:
        trouble = f"a device of sm_{OLDEST} or later, got sm_{architecture_of(device)}"
    if backend == "flash-attn":
        expect_flash_attn()
    if trouble is None:
        if backend == "flash-attn":
            return flash_attn
        return flash_torch if device.type == "cuda" else flash_plain
    if backend == "auto":
        return None
    raise InvalidInputError(f"attention_backend {backend}: expected {trouble}")


def expect_flash_attn() -> None:
    """Raise InvalidInputError, one sentence, if the package is missing or does not load."""
    try:
        import_module("flash_attn").flash_attn_varlen_func  # noqa: B018
    except (ImportError, OSError, AttributeError) as error:
        why = "it is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        raise InvalidInputError(
            "attention_backend flash-attn: expected the package of that name (extra flash-attn), "
            f"{why}"
        ) from None


def prefill_sizes(flash: Flash | None, capacity: int) -> list[int]:
    """Return the numbers of rows for which prompt forwards are recorded.

    Without flash attention it is only 64. With flash attention 64 is doubled until it reaches the
    size of the ring or MAX_STEP_ROWS.
    """
    sizes = [MAX_ROWS]
    while flash and sizes[-1] < min(MAX_STEP_ROWS, capacity):
        sizes.append(2 * sizes[-1])
    return sizes


def scratch_bytes(config: ModelConfig, dtype: torch.dtype, rows: int) -> int:
    """Return the number of bytes that one call of flash attention allocates.

    The call allocates its result, one float32 per row and head, and some words. The allocator
    rounds each allocation up.
    """
    row = config.heads * (config.head_dim * dtype.itemsize + 4)
    return rows * row + 8 * 512


def reserved_bytes(config: ModelConfig, dtype: torch.dtype, rows: int, device: torch.device) -> int:
    """Return the number of bytes that torch's allocator reserves for `scratch_bytes`.

    On a device the allocator reserves segments of 20 MiB, or of multiples of 2 MiB. Captures, and
    the runs before the captures, have separate segments.
    """
    size = scratch_bytes(config, dtype, rows)
    if device.type != "cuda":
        return size
    return 2 * (max(20 << 20, -(-size >> 21) << 21) + (2 << 20))
