"""The state of an engine (csrc/state) as the kernels read it: 32-bit words in device memory.

fields.py has the structs. An op takes the words of the struct that it reads: a view into an
engine's memory, or a separate struct.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_uint32
from typing import TypeVar

import torch

# Other modules read the structs and sizes from this module.
from .fields import *  # noqa: F403
from .fields import Mask, Sequence

WORD = 4  # bytes

S = TypeVar("S", bound=Structure)


def words(block: Structure, device: str | torch.device = "cpu") -> torch.Tensor:
    """A copy of a struct as int32 words on `device`, 16-byte aligned there."""
    return torch.frombuffer(bytearray(block), dtype=torch.int32).to(device)


def struct(kind: type[S], tensor: torch.Tensor) -> S:
    """A copy of the words of a struct, read on the host. For twins and tests, never in a round."""
    return kind.from_buffer_copy(tensor.contiguous().cpu().numpy().tobytes())


def offset(kind: type[Structure], *fields: str) -> int:
    """Words from the start of a struct to a field: offset(Sequence, "chain", "token")."""
    total = 0
    for field in fields:
        total += getattr(kind, field).offset
        kind = dict(kind._fields_)[field]  # type: ignore[assignment,misc]
    return total // WORD


def size(kind: type[Structure]) -> int:
    """Words of a struct."""
    return ctypes.sizeof(kind) // WORD


def view(words: torch.Tensor, kind: type[Structure], field: str) -> torch.Tensor:
    """The words of one field of a struct, shared with it."""
    start = offset(kind, field)
    return words[start : start + ctypes.sizeof(dict(kind._fields_)[field]) // WORD]


def of_seat(words: torch.Tensor, seat: int) -> torch.Tensor:
    """The words of one seat's Sequence, and of those after it."""
    return words[seat * size(Sequence) :]


def mask_bits(mask: ctypes.Array[c_uint32]) -> int:
    """The 64 bits of a mask."""
    return int(mask[0]) | int(mask[1]) << 32


def mask_of(bits: int) -> ctypes.Array[c_uint32]:
    """A mask of 64 bits."""
    return Mask(bits & 0xFFFFFFFF, bits >> 32)


def check_words(name: str, tensor: torch.Tensor, kind: type[Structure]) -> None:
    """Raise ValueError unless `tensor` holds (at least) the words of a struct."""
    if tensor.dtype != torch.int32 or tensor.dim() != 1 or not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected contiguous int32 words but got {tensor.dtype}, "
            f"shape {tuple(tensor.shape)}"
        )
    if tensor.numel() < size(kind):
        raise ValueError(f"{name}: expected {size(kind)} words but got {tensor.numel()}")
