"""Access to the structs of csrc/state, which kernels read as 32-bit words in device memory.

fields.py defines the structs. An op gets the words of each struct that it reads. The words are a
view of an engine's memory, or a separate copy.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_uint32
from typing import TypeVar

import torch

# Other modules import the structs and sizes from this module.
from .fields import *  # noqa: F403
from .fields import Mask, Sequence

WORD = 4  # bytes

S = TypeVar("S", bound=Structure)


def words(block: Structure, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return a copy of a struct as int32 words on `device`. The copy is 16-byte aligned."""
    return torch.frombuffer(bytearray(block), dtype=torch.int32).to(device)


def struct(kind: type[S], tensor: torch.Tensor) -> S:
    """Return a copy of the words as a struct on the host. For twins and tests, never in a round."""
    return kind.from_buffer_copy(tensor.contiguous().cpu().numpy().tobytes())


def offset(kind: type[Structure], *fields: str) -> int:
    """Return the number of words from the start of a struct to a field.

    Nested fields are named in order: offset(Sequence, "chain", "token").
    """
    total = 0
    for field in fields:
        total += getattr(kind, field).offset
        kind = dict(kind._fields_)[field]  # type: ignore[assignment,misc]
    return total // WORD


def size(kind: type[Structure]) -> int:
    """Return the number of words of a struct."""
    return ctypes.sizeof(kind) // WORD


def view(words: torch.Tensor, kind: type[Structure], field: str) -> torch.Tensor:
    """Return the words of one field of a struct. They share memory with `words`."""
    start = offset(kind, field)
    return words[start : start + ctypes.sizeof(dict(kind._fields_)[field]) // WORD]


def of_seat(words: torch.Tensor, seat: int) -> torch.Tensor:
    """Return the words of all sequences from the given seat's on."""
    return words[seat * size(Sequence) :]


def mask_bits(mask: ctypes.Array[c_uint32]) -> int:
    """Return a mask as an int of 64 bits."""
    return int(mask[0]) | int(mask[1]) << 32


def mask_of(bits: int) -> ctypes.Array[c_uint32]:
    """Return the mask with these 64 bits."""
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
