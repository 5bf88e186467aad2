"""The structs of csrc/state for ctypes. Made by tools/state_fields.py: do not edit."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int16, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from enum import IntEnum

MAX_SEATS = 64
SLOTS = 64
MAX_CHAIN = 63
MAX_ROWS = 64
MAX_STEP_ROWS = 512
MAX_BRANCHES = 64
MAX_TAIL = 64
CANDIDATES = 16
MOST_FOUND = 16
MOST_LAG = 8
MATCHES = 4
RECORDS = 8
RECORD_WORDS = 2 + SLOTS
KEY_PANEL = 16

Mask = c_uint32 * 2


class Ranking(IntEnum):
    """As csrc/state has it."""

    FIRST = 0
    ADAPTIVE = 1
    LIKELY = 2


class Cut(IntEnum):
    """As csrc/state has it."""

    NOTHING = 0
    CONFIDENT = 1
    EVERYTHING = 2


class OnMiss(IntEnum):
    """As csrc/state has it."""

    GO_ON = 0
    BURST = 1
    LOOKUP = 2


class RowError(IntEnum):
    """As csrc/state has it."""

    FINE = 0
    NAN_ROW = 1
    NO_TOKEN = 2


class Row(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("position", c_int64),
        ("token", c_int32),
        ("slot", c_int32),
        ("branch", c_int32),
        ("node", c_int16),
        ("seat", c_int16),
        ("chain", Mask),
        ("tail", Mask),
    )


class RowList(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("head", c_int64),
        ("n", c_int32),
        ("row", Row * MAX_STEP_ROWS),
    )


class Batch(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("head", c_int64 * MAX_SEATS),
        ("n", c_int32),
        ("first", c_int32 * (MAX_SEATS + 1)),
        ("row", Row * MAX_STEP_ROWS),
    )


class Sampling(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("temperature", c_float),
        ("min_p", c_float),
        ("top_p", c_float),
        ("top_k", c_int32),
        ("seed", c_uint64),
        ("completion", c_uint32),
    )


class List(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("data", c_void_p),
        ("n", c_int64),
    )


class TokenBias(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("token", c_int32),
        ("bias", c_float),
    )


class Shaping(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("active", c_int32),
        ("penalises", c_int32),
        ("restricts", c_int32),
        ("repetition", c_float),
        ("presence", c_float),
        ("frequency", c_float),
        ("ends_from", c_int64),
        ("holes", List),
        ("ends", List),
        ("allowed", List),
        ("bias", List),
        ("words", List),
    )


class Policy(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("gamma", c_int32),
        ("branches", c_int32),
        ("ranking", c_int32),
        ("width", c_int32),
        ("nodes", c_int32),
        ("epsilon", c_float),
        ("on_miss", c_int32),
        ("burst", c_int32),
        ("burst_width", c_int32),
        ("hrad", c_int32),
        ("lambda_", c_float),
        ("theta", c_float),
        ("rejection", c_int32),
        ("lookup", c_int32),
    )


class Prices(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("known", c_int32),
        ("least", c_float),
        ("round", c_float * (MAX_ROWS + 1)),
    )


class Dist(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("n", c_int32),
        ("q", c_float),
        ("entropy", c_float),
        ("token", c_int32 * CANDIDATES),
        ("lp", c_float * CANDIDATES),
    )


class Scores(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("vocab", c_int32),
        ("tail_slots", c_int32),
        ("columns", c_int32),
        ("ids", c_void_p),
        ("target", c_void_p),
        ("chain", c_void_p),
        ("in_place", c_void_p),
        ("tails", c_void_p),
    )


class Chain(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("size", c_int32),
        ("depth", c_int32),
        ("known", Mask),
        ("token", c_int32 * SLOTS),
        ("parent", c_int32 * SLOTS),
        ("level", c_int32 * SLOTS),
        ("score", c_float * SLOTS),
        ("mask", Mask * SLOTS),
        ("next", c_int32 * SLOTS),
        ("match", c_int32 * SLOTS),
    )


class Hindsight(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("right", c_float * MATCHES),
        ("seen", c_float * MATCHES),
    )


class Branch(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("node", c_int32),
        ("size", c_int32),
        ("in_place", c_int32),
        ("token", c_int32 * MAX_TAIL),
        ("parent", c_int32 * MAX_TAIL),
        ("level", c_int32 * MAX_TAIL),
        ("tried", c_int32 * MAX_TAIL),
        ("has_dist", c_int32 * MAX_TAIL),
        ("score", c_float * MAX_TAIL),
        ("mask", Mask * MAX_TAIL),
        ("dist", Dist * MAX_TAIL),
    )


class Outcome(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("node", c_int32),
        ("n", c_int32),
        ("y", c_int32),
        ("branch", c_int32),
        ("error", c_int32),
        ("path", c_int32 * SLOTS),
    )


class Counts(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("n", c_int32),
        ("token", c_void_p),
        ("output", c_void_p),
        ("seen", c_void_p),
    )


class Sequence(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("sampling", Sampling),
        ("shaping", Shaping),
        ("policy", Policy),
        ("prices", Prices),
        ("scores", Scores),
        ("limit", c_int64),
        ("draft_limit", c_int64),
        ("draft_vocab", c_int64),
        ("trunk", c_void_p),
        ("trunk_hash", c_uint64),
        ("followed", c_int64),
        ("told", c_int64),
        ("counts", Counts),
        ("no_mass", c_int32),
        ("cut", c_int32),
        ("head", c_int64),
        ("outcome", Outcome),
        ("committed", c_int32 * SLOTS),
        ("sharpness", c_float),
        ("hindsight", Hindsight),
        ("chain", Chain),
        ("source", c_int32 * SLOTS),
        ("lost", c_int32),
        ("filled", c_int32),
        ("draft_have", c_int64),
        ("draft_compacts", c_int32),
        ("draft_nodes", Mask),
        ("chain_dist", Dist * SLOTS),
        ("step", c_int32),
        ("branch_count", c_int32),
        ("draft_idle", c_int32),
        ("branches", Branch * MAX_BRANCHES),
        ("target_rows", RowList),
        ("verified", Mask),
        ("target_have", c_int64),
        ("draft_rows", RowList),
        ("rank", c_void_p),
    )


class Choice(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("token", c_int32),
        ("error", c_int32),
    )


class TargetScratch(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("batch", Batch),
        ("choice", Choice * MAX_ROWS),
    )


class DraftScratch(Structure):
    """As csrc/state has it."""

    _fields_ = (
        ("batch", Batch),
        ("dist", Dist * MAX_STEP_ROWS),
    )


STRUCTS: tuple[type[Structure], ...] = (
    Row,
    RowList,
    Batch,
    Sampling,
    TokenBias,
    Shaping,
    Policy,
    Prices,
    Dist,
    Scores,
    Chain,
    Hindsight,
    Branch,
    Outcome,
    Counts,
    Sequence,
    Choice,
    TargetScratch,
    DraftScratch,
)
