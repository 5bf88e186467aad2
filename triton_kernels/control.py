"""The control block (csrc/exec/control.h) as the kernels read it: 32-bit words in device memory.

The structs are declared here once more, for ctypes, and a test holds every offset against the
C++. A block is a tensor of int32 words; an op takes the words of the struct that it reads, so
that a view into the one control block of an engine will do, and so will a table of one's own.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from typing import TypeVar

import torch

SLOTS = 64  # in-flight slots of a ring, the root's included
MAX_ROWS = 64  # rows of a target's forward
MAX_STEP_ROWS = 512
MAX_BRANCHES = 64
MAX_TAIL = 64
CANDIDATES = 16
WORD = 4  # bytes

Mask = c_uint32 * 2


class Row(Structure):
    """One row of a forward; both masks include the row itself where it stands."""

    _fields_ = (
        ("position", c_int64),
        *((name, c_int32) for name in ("token", "slot", "branch", "node")),
        *((name, Mask) for name in ("chain", "tail")),
    )


class RowTable(Structure):
    """head: first position in flight; n: rows in use, those behind are padding."""

    _fields_ = (("head", c_int64), ("n", c_int32), ("row", Row * MAX_STEP_ROWS))


class Law(Structure):
    """What is kept of a draft's law at one node."""

    _fields_ = (
        *(("n", c_int32), ("q", c_float), ("entropy", c_float)),
        *(("token", c_int32 * CANDIDATES), ("lp", c_float * CANDIDATES)),
    )


class Choice(Structure):
    """A row's token, or what went wrong with it: error 1 for a NaN, 2 for no token left."""

    _fields_ = (("token", c_int32), ("error", c_int32))


class Chain(Structure):
    """Nodes 1 .. size hang below node 0, the root."""

    _fields_ = (
        *((name, c_int32) for name in ("size", "depth", "drawn")),
        *((name, c_int32 * SLOTS) for name in ("token", "parent", "level")),
        ("mask", Mask * SLOTS),
    )


class Branch(Structure):
    """A prepared continuation and its tail."""

    _fields_ = (
        *((name, c_int32) for name in ("node", "size", "in_place")),
        *((n, c_int32 * MAX_TAIL) for n in ("token", "parent", "level", "tried", "has_law")),
        *(("score", c_float * MAX_TAIL), ("mask", Mask * MAX_TAIL), ("law", Law * MAX_TAIL)),
    )


class Outcome(Structure):
    """What verification decided; path[i] is the accepted node at depth i."""

    _fields_ = (
        *((name, c_int32) for name in ("node", "n", "y", "branch", "error")),
        ("path", c_int32 * SLOTS),
    )


class List(Structure):
    """A list in memory of the host."""

    _fields_ = (("data", c_void_p), ("n", c_int64))


class Shaping(Structure):
    """What a request does to a row of logits before its temperature."""

    _fields_ = (
        *((name, c_int32) for name in ("active", "penalises", "restricts")),
        *((name, c_float) for name in ("repetition", "presence", "frequency")),
        ("ends_from", c_int64),
        *((name, List) for name in ("holes", "ends", "allowed", "bias", "words")),
    )


class Counts(Structure):
    """The trunk's tokens, counted."""

    _fields_ = (("n", c_int32), *((name, c_void_p) for name in ("token", "output", "seen")))


class Sampling(Structure):
    """The sampling law of one sequence; temperature 0 is greedy."""

    _fields_ = (
        *((name, c_float) for name in ("temperature", "min_p", "top_p")),
        *(("top_k", c_int32), ("seed", c_uint64), ("completion", c_uint32)),
    )


class Policy(Structure):
    """The knobs of a round; no kernel reads them."""

    _fields_ = (
        *((n, c_int32) for n in ("gamma", "branches", "ranking", "width", "nodes")),
        ("epsilon", c_float),
        *((name, c_int32) for name in ("on_miss", "burst", "burst_width", "hrad")),
        *((name, c_float) for name in ("lambda_", "theta")),
        ("rejection", c_int32),
    )


class Prices(Structure):
    """What nodes cost; no kernel reads them."""

    _fields_ = (("known", c_int32), ("least", c_float), ("round", c_float * (MAX_ROWS + 1)))


class Scores(Structure):
    """Where the laws are that a rule of chance needs; no kernel reads them."""

    _fields_ = (
        *((name, c_int32) for name in ("vocab", "tail_slots")),
        *((name, c_void_p) for name in ("target", "chain", "in_place", "tails")),
    )


class Control(Structure):
    """The whole block."""

    _fields_ = (
        *(("sampling", Sampling), ("shaping", Shaping), ("policy", Policy)),
        *(("prices", Prices), ("scores", Scores)),
        *((name, c_int64) for name in ("limit", "draft_limit", "draft_vocab", "round", "head")),
        *(("trunk", c_void_p), ("trunk_hash", c_uint64), ("counts", Counts), ("chain", Chain)),
        ("outcome", Outcome),
        *(("source", c_int32 * SLOTS), ("sharpness", c_float)),
        *((name, c_int32) for name in ("lost", "no_mass", "cut")),
        *(("target_rows", RowTable), ("choice", Choice * MAX_ROWS), ("target_have", c_int64)),
        *(("draft_rows", RowTable), ("row_law", Law * MAX_STEP_ROWS), ("draft_have", c_int64)),
        ("draft_nodes", Mask),
        *((name, c_int32) for name in ("step", "branch_count", "draft_idle")),
        ("draft_compacts", c_int32),
        *(("branches", Branch * MAX_BRANCHES), ("chain_law", Law * SLOTS)),
        ("rank", c_void_p),
    )


STRUCTS: tuple[type[Structure], ...] = (
    *(Row, RowTable, Law, Choice, Chain, Branch, Outcome, Sampling, Shaping, Policy, Counts),
    *(Prices, Scores, Control),
)

S = TypeVar("S", bound=Structure)


def words(block: Structure, device: str | torch.device = "cpu") -> torch.Tensor:
    """A copy of a struct as int32 words on `device`, 16-byte aligned there."""
    return torch.frombuffer(bytearray(block), dtype=torch.int32).to(device)


def struct(kind: type[S], tensor: torch.Tensor) -> S:
    """A copy of the words of a struct, read on the host: for twins and tests, never a round."""
    return kind.from_buffer_copy(tensor.contiguous().cpu().numpy().tobytes())


def offset(kind: type[Structure], *fields: str) -> int:
    """Words from the start of a struct to a field: offset(Control, "chain", "token")."""
    total = 0
    for field in fields:
        total += getattr(kind, field).offset
        kind = dict(kind._fields_)[field]  # type: ignore[assignment,misc]
    return total // WORD


def size(kind: type[Structure]) -> int:
    """Words of a struct."""
    return ctypes.sizeof(kind) // WORD


def view(control: torch.Tensor, field: str) -> torch.Tensor:
    """The words of one field of a control block, shared with it."""
    kind = dict(Control._fields_)[field]
    start = offset(Control, field)
    return control[start : start + ctypes.sizeof(kind) // WORD]


def mask_bits(mask: ctypes.Array[c_uint32]) -> int:
    """The 64 bits of a mask."""
    return int(mask[0]) | int(mask[1]) << 32


def mask_of(bits: int) -> ctypes.Array[c_uint32]:
    """A mask of 64 bits."""
    return Mask(bits & 0xFFFFFFFF, bits >> 32)


def check_words(name: str, tensor: torch.Tensor, kind: type[Structure]) -> None:
    """Raises ValueError unless `tensor` holds (at least) the words of a struct."""
    if tensor.dtype != torch.int32 or tensor.dim() != 1 or not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected contiguous int32 words but got {tensor.dtype}, "
            f"shape {tuple(tensor.shape)}"
        )
    if tensor.numel() < size(kind):
        raise ValueError(f"{name}: expected {size(kind)} words but got {tensor.numel()}")
