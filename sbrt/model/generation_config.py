"""Reads generation_config.json, the sampling parameters that a model's makers recommend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import check
from ..errors import InvalidInputError
from ..sampling import SamplingParams
from .config import read_json

# Keys of the file, and their names in SamplingParams. vLLM reads the same keys. Other keys, such as
# do_sample, are ignored.
KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
INTEGERS = ("top_k", "max_new_tokens")


@dataclass(frozen=True)
class Defaults:
    """The sampling fields of generation_config.json at `path`, by their names in SamplingParams.
    The values are not checked yet."""

    path: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def params(self) -> SamplingParams:
        """Return the sampling parameters for requests that set none.

        Where the file has no value, the default of SamplingParams applies.

        Raises InvalidInputError, naming file and field. A bad value is refused only here, because
        it does not affect requests with parameters of their own.
        """
        try:
            return SamplingParams(**self.given)
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.path}, {error}") from None


def read_defaults(folder: Path) -> Defaults:
    """Read the defaults of a model folder. Raises InvalidInputError if generation_config.json is
    not a JSON object."""
    path = folder / "generation_config.json"
    if not check.is_file(path):
        return Defaults()
    raw = read_json(path)
    return Defaults(
        path,
        {ours: as_meant(key, raw[key]) for key, ours in KEYS.items() if raw.get(key) is not None},
    )


def as_meant(key: str, value: Any) -> Any:
    """Return the value that the file means. For an integer, 50.0 means 50. For top_k, -1 means 0,
    which keeps every token."""
    if key in INTEGERS and isinstance(value, float) and value.is_integer():
        value = int(value)
    return 0 if key == "top_k" and value == -1 else value
