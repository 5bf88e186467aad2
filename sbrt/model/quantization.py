"""Reads the field quantization_config of a config.json: the format of a folder's quantised
matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import check
from ..errors import InvalidInputError

METHODS = ("gptq", "awq", "compressed-tensors")
FORMATS = ("pack-quantized", "int-quantized")  # formats of compressed-tensors
MAX_GROUP = 2**20


@dataclass(frozen=True)
class Scheme:
    """A quantisation scheme, the same for every quantised matrix of a folder.

    layout: gptq, awq, or the format of compressed-tensors. group: number of columns that share a
    scale; 0: all columns of a row. symmetric: True if there are no zero points. zero_offset: a
    number that is added to each stored zero point.
    """

    layout: str
    bits: int
    group: int
    symmetric: bool = False
    zero_offset: int = 0

    @property
    def name(self) -> str:
        """The scheme's name in messages."""
        return f"{self.layout} of {self.bits} bits"


def read_scheme(path: Path, raw: Mapping[str, Any]) -> Scheme | None:
    """Return the scheme in the fields `raw` of config.json; None if weights are plain numbers.

    Raises InvalidInputError, naming the field and the unsupported value.
    """
    given = raw.get("quantization_config")
    if given is None:
        return None
    fields = _Fields(f"{path}, quantization_config", _object(f"{path}, quantization_config", given))
    method = check.one_of(fields.name("quant_method"), fields.get("quant_method"), METHODS)
    return {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}[method](fields)


@dataclass(frozen=True)
class _Fields:
    where: str
    given: Mapping[str, Any]

    def name(self, key: str) -> str:
        return f"{self.where}.{key}"

    def get(self, *keys: str) -> Any:
        """Return the value of the first of these fields that exists; None if none of them
        exists."""
        return next((self.given[key] for key in keys if self.given.get(key) is not None), None)

    def expect(self, key: str, value: Any, *known: Any) -> Any:
        """Return `value`, the value of the field `key`, if it equals one of `known` and has the
        same type. Otherwise raise InvalidInputError."""
        if not any(type(value) is type(one) and value == one for one in known):
            options = ", ".join(map(str, known))
            raise InvalidInputError(
                f"{self.name(key)}: expected one of {options}, got {check.show(value)}"
            )
        return value

    def group(self, value: Any) -> int:
        """Return the number of columns in a group; 0 for -1 and None, which mean a whole row."""
        if value is None or value == -1:
            return 0
        return check.integer(self.name("group_size"), value, 1, MAX_GROUP)

    def inside(self, key: str, value: Any) -> _Fields:
        return _Fields(self.name(key), _object(self.name(key), value))


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{where}: expected an object, got {check.show(value)}")
    return value


def _gptq(fields: _Fields) -> Scheme:
    fields.expect("desc_act", fields.get("desc_act"), False, None)
    form = fields.expect(
        "checkpoint_format", fields.get("checkpoint_format"), None, "gptq", "gptq_v2"
    )
    return Scheme(
        layout="gptq",
        bits=fields.expect("bits", fields.get("bits"), 4, 8),
        group=fields.group(fields.get("group_size")),
        zero_offset=0 if form == "gptq_v2" else 1,
    )


def _awq(fields: _Fields) -> Scheme:
    version = fields.get("version")
    if isinstance(version, str):
        version = version.lower()
    fields.expect("version", version, "gemm", None)
    fields.expect("zero_point", fields.get("zero_point"), True, None)
    return Scheme(
        layout="awq",
        bits=fields.expect("bits", fields.get("bits", "w_bit"), 4),
        group=fields.group(fields.get("group_size", "q_group_size")),
    )


def _compressed(fields: _Fields) -> Scheme:
    layout = check.one_of(fields.name("format"), fields.get("format"), FORMATS)
    groups = _object(fields.name("config_groups"), fields.get("config_groups"))
    if len(groups) != 1:
        raise InvalidInputError(
            f"{fields.name('config_groups')}: expected one group, got {len(groups)}"
        )
    key, group = next(iter(groups.items()))
    weights = fields.inside(f"config_groups.{key}", group).inside("weights", group.get("weights"))
    weights.expect("type", weights.get("type"), "int")
    weights.expect("dynamic", weights.get("dynamic"), False, None)
    weights.expect("actorder", weights.get("actorder"), None, False)
    strategy = weights.expect("strategy", weights.get("strategy"), "group", "channel")
    bits = (8,) if layout == "int-quantized" else (4, 8)
    return Scheme(
        layout=layout,
        bits=weights.expect("num_bits", weights.get("num_bits"), *bits),
        group=weights.group(weights.get("group_size")) if strategy == "group" else 0,
        symmetric=weights.expect("symmetric", weights.get("symmetric"), True, False),
    )
