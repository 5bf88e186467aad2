"""Reads the rope scaling in a config.json, from `rope_parameters` (new) or `rope_scaling` (old).

Meanings and defaults are those of transformers. A field that the type of rope does not have is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import check
from .._core import RopeScaling
from ..config import MAX_POSITIONS
from ..errors import InvalidInputError

COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
IDLE = "attn_factor"  # files often have this field; transformers ignores it, and so does sbrt
FIELDS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    },
    "yarn": {
        "factor", "beta_fast", "beta_slow", "original_max_position_embeddings",
        "attention_factor", "mscale", "mscale_all_dim", "truncate", IDLE,
    },
}  # fmt: skip
THETA = 10000.0
LAYER_KINDS = ("full_attention", "sliding_attention")
MOST = 1e9  # largest accepted factor


@dataclass(frozen=True)
class Rope:
    """The rotary embedding. The angle of pair i at position p is p f_i; `kind` selects the formula
    of the frequency f_i.

    csrc/model/rope_table.h has the formulas. A field that `kind` does not use keeps its default.
    divisors: head_dim / 2 numbers; the result of the formula for f_i is divided by number i. (): no
    division.
    """

    kind: str = "default"
    factor: float = 1.0
    original_max: float = 1.0
    low_freq: float = 1.0
    high_freq: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    divisors: tuple[float, ...] = ()

    def core(self) -> RopeScaling:
        """Return the rope in the form that the C++ module takes."""
        return RopeScaling(**asdict(self))


@dataclass(frozen=True)
class _Fields:
    """The rope fields of one config, each checked when it is read."""

    where: str
    given: Mapping[str, Any]
    theta: float
    original_max: float  # number of positions in pretraining

    def number(self, key: str, low: float, default: float | None = None) -> float:
        value = self.given.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise InvalidInputError(f"{self.where}.{key}: expected a number, found none")
        return check.number(f"{self.where}.{key}", value, low, MOST)


def read_rope(path: Path, raw: Mapping[str, Any], max_positions: int) -> tuple[float, Rope]:
    """Return (theta, rope) of a config.json: the base of the frequencies, and the scaling. Raises
    InvalidInputError, naming the field."""
    return _read(path, raw, *_section(path, raw), max_positions)


def read_rope_of_kind(
    path: Path, raw: Mapping[str, Any], kind: str, max_positions: int
) -> tuple[float, Rope]:
    """Return (theta, rope) of one kind of layers, which has its own section of rope_parameters.

    Without rope_parameters, `raw` is read in the old form. Raises InvalidInputError.
    """
    given = raw.get("rope_parameters")
    if given is None:
        return read_rope(path, raw, max_positions)
    if not isinstance(given, dict) or not given.keys() <= set(LAYER_KINDS):
        raise InvalidInputError(
            f"{path}, rope_parameters: expected an object for each of {', '.join(LAYER_KINDS)}, "
            f"got {check.show(given)}"
        )
    old = raw.get("rope_scaling")
    section = given.get(kind)
    section = {} if section is None else section
    if not isinstance(section, dict) or old not in (None, section):
        raise InvalidInputError(
            f"{path}, rope_parameters.{kind}: expected an object and no other rope_scaling, "
            f"got {check.show(section)}"
        )
    return _read(path, raw, f"rope_parameters.{kind}", section, max_positions)


def _read(
    path: Path, raw: Mapping[str, Any], key: str, given: Mapping[str, Any], max_positions: int
) -> tuple[float, Rope]:
    """Return (theta, rope) that the object `given` describes. `key` is its name in config.json."""
    where = f"{path}, {key}"
    theta = given.get("rope_theta", raw.get("rope_theta"))
    theta = check.number(f"{path}, rope_theta", THETA if theta is None else theta, 1, 1e12)
    _refuse_partial(path, raw)
    _refuse_partial(path, given)
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in FIELDS:
        raise InvalidInputError(
            f"{path}, rope type: expected one of {', '.join(FIELDS)}, got {check.show(kind)}"
        )
    for name in given:
        if name not in COMMON | FIELDS[kind]:
            raise InvalidInputError(
                f"{where}: rope type {kind} expects "
                f"{', '.join(sorted(FIELDS[kind])) or 'no further field'}, got {check.show(name)}"
            )
    original = _original_max(where, given, path, raw, max_positions)
    return theta, _READERS[kind](_Fields(where, given, theta, original))


def context_length(path: Path, rope: Rope, max_positions: int) -> int:
    """Return the number of positions that a model with this rope supports, as vLLM does.

    max_positions: config.json's max_position_embeddings. The result depends on the kind of rope.
    linear: factor times max_positions. yarn: factor times the positions of pretraining, even if
    max_positions already includes the factor. default, llama3: max_positions; for llama3 it always
    includes the factor. Raises InvalidInputError beyond MAX_POSITIONS.
    """
    before = {"linear": max_positions, "yarn": rope.original_max}.get(rope.kind)
    if before is None:
        return max_positions
    length = math.floor(before * rope.factor)
    if length > MAX_POSITIONS:
        raise InvalidInputError(
            f"{path}, rope factor: expected at most {MAX_POSITIONS} positions, "
            f"got {rope.factor:g} times {before:g}"
        )
    return length


def _section(path: Path, raw: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the field that describes rope, and its object. The object is {} if there
    is no such field."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise InvalidInputError(f"{path}, {key}: expected an object, got {check.show(rope)}")
        found.append((key, rope))
    if len(found) == 2 and found[0][1] != found[1][1]:
        raise InvalidInputError(
            f"{path}, rope_scaling: expected it or rope_parameters, got both and they differ"
        )
    return found[0] if found else ("rope_parameters", {})


def _original_max(
    where: str, given: Mapping[str, Any], path: Path, raw: Mapping[str, Any], max_positions: int
) -> float:
    """Return the number of positions in pretraining.

    The number is taken from config.json itself. If it is missing there, it is taken from the rope
    object, and otherwise it is `max_positions`.
    """
    key = "original_max_position_embeddings"
    for name, value in ((f"{path}, {key}", raw.get(key)), (f"{where}.{key}", given.get(key))):
        if value is not None:
            return check.number(name, value, 1, MOST)
    return float(max_positions)


def _refuse_partial(path: Path, given: Mapping[str, Any]) -> None:
    part = given.get("partial_rotary_factor")
    if part is not None and check.number(f"{path}, partial_rotary_factor", part, 0) != 1:
        raise InvalidInputError(
            f"{path}, partial_rotary_factor: expected 1, got {check.show(part)}"
        )


def _default(fields: _Fields) -> Rope:
    return Rope()


def _linear(fields: _Fields) -> Rope:
    return Rope(kind="linear", factor=fields.number("factor", 1))


def _llama3(fields: _Fields) -> Rope:
    rope = Rope(
        kind="llama3",
        factor=fields.number("factor", 1),
        original_max=fields.original_max,
        low_freq=fields.number("low_freq_factor", 1e-6),
        high_freq=fields.number("high_freq_factor", 1e-6),
    )
    if rope.high_freq <= rope.low_freq:
        raise InvalidInputError(
            f"{fields.where}.high_freq_factor: expected more than low_freq_factor "
            f"{rope.low_freq:g}, got {rope.high_freq:g}"
        )
    return rope


def _yarn(fields: _Fields) -> Rope:
    if fields.theta <= 1:
        raise InvalidInputError(f"{fields.where}: yarn expects a rope_theta above 1, got 1")
    factor = fields.number("factor", 1)
    truncate = fields.given.get("truncate")
    return Rope(
        kind="yarn",
        factor=factor,
        original_max=fields.original_max,
        beta_fast=fields.number("beta_fast", 0, 0.0) or Rope.beta_fast,
        beta_slow=fields.number("beta_slow", 0, 0.0) or Rope.beta_slow,
        attention_factor=_attention_factor(fields, factor),
        truncate=True if truncate is None else check.flag(f"{fields.where}.truncate", truncate),
    )


def _attention_factor(fields: _Fields, factor: float) -> float:
    """Return yarn's attention factor.

    It is the given factor if there is one. Otherwise it is g(mscale) / g(mscale_all_dim) if both
    are given, else g(1). Here g(m) = 0.1 m ln(factor) + 1.
    """
    if fields.given.get("attention_factor") is not None:
        return fields.number("attention_factor", 1e-6)
    above, below = fields.number("mscale", 0, 0.0), fields.number("mscale_all_dim", 0, 0.0)
    grown = 0.1 * math.log(factor)
    if above and below:
        return (above * grown + 1) / (below * grown + 1)
    return grown + 1


_READERS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
