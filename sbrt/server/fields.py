"""Checks the fields of a request body by a table of rules.

An explicit null means "not given" everywhere.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import check
from ..check import show
from ..errors import InvalidInputError
from .errors import ApiError, bad_field

LOG = logging.getLogger("sbrt.server")
MOST_LOGGED = 256  # maximum number of unknown field names kept; it bounds the memory used

Check = Callable[[str, Any], Any]

# Fields of SamplingParams that a request body may have. SamplingParams itself checks their values.
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos"),
    *("min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
    *("allowed_token_ids", "bad_words", "skip_special_tokens", "include_stop_str_in_output"),
)

# Fields of features that are not built. The listed values do not use the feature, so they are
# accepted.
NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "priority": (0,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


def parse_body(raw: bytes) -> dict[str, Any]:
    """Parse the JSON object of a request body. Raises ApiError."""

    def no_constant(word: str) -> Any:
        raise ValueError(f"{word}, which is no number of JSON")

    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise ApiError(400, f"body: expected JSON, got: {why}") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"body: expected a JSON object, got {show(found)}")
    return found


class Reader:
    """Reads request bodies by a table of fields. The first use of an unknown field name is
    logged."""

    def __init__(self, table: Mapping[str, Check]) -> None:
        self._table = table
        self._logged: set[str] = set()

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Check the known fields of a request body; returns their values. Raises ApiError whose
        `param` is the field."""
        found = {}
        for name, value in body.items():
            if value is None:
                continue
            if name in self._table:
                found[name] = checked(self._table[name], name, value)
            elif name in NOT_BUILT:
                _refuse(name, value)
            else:
                self._log(name)
        return found

    def _log(self, name: str) -> None:
        if name not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(name)
            LOG.warning("the field %s is not known and is ignored", show(name))


def checked(rule: Check, name: str, value: Any) -> Any:
    """Return the value of a field, checked by `rule`. Raises ApiError whose `param` is the
    field."""
    try:
        return rule(name, value)
    except InvalidInputError as error:
        raise ApiError(400, str(error), param=name.split(".")[0].split("[")[0]) from None


def _refuse(name: str, value: Any) -> None:
    if not any(value == asks_nothing for asks_nothing in NOT_BUILT[name]):
        raise bad_field(name, f"not built yet, got {show(value)}")


# --- rules ---


def anything(name: str, value: Any) -> Any:
    """Accept any value. SamplingParams checks the value later."""
    return value


def text(name: str, value: Any) -> str:
    """Accept a str, which may be empty."""
    return check.text(name, value) if value != "" else ""


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Accept a JSON object."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}: expected an object, got {show(value)}")
    return value


def integer(low: int, high: int | None = None) -> Check:
    """Return a rule that accepts an integer from `low` to `high`."""
    return lambda name, value: check.integer(name, value, low, high)


def only(*allowed: Any) -> Check:
    """Return a rule that accepts only the values `allowed`. The error for any other value says that
    the feature is not built."""

    def rule(name: str, value: Any) -> Any:
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise InvalidInputError(f"{name}: not built yet, got {show(value)}")
        return value

    return rule


def prompts(name: str, value: Any) -> Sequence[str | list[int]]:
    """Accept a str, a list of str, a list of token ids, or a list of lists of token ids. Returns
    the prompts."""
    if isinstance(value, str):
        return [value]
    many = check.items(name, value, "text, token ids, or a list of these")
    if not many:
        raise InvalidInputError(f"{name}: expected at least one prompt, got []")
    if all(isinstance(one, str) for one in many):
        return many
    if all(isinstance(one, list) for one in many):
        return [_ids(f"{name}[{i}]", one) for i, one in enumerate(many)]
    return [_ids(name, many)]


def _ids(name: str, value: Sequence[Any]) -> list[int]:
    return [check.integer(f"{name}, token id", one, 0, 2**31 - 1) for one in value]


def token_ids(name: str, value: Any) -> list[int]:
    """Accept a list of token ids, which may be empty."""
    return _ids(name, check.items(name, value, "token ids"))


def biases(name: str, value: Any) -> dict[int, Any]:
    """Read logit_bias. JSON stores its integer keys as text."""
    found = {}
    for key, bias in mapping(name, value).items():
        if not (key.isascii() and key.isdigit() and len(key) < 20):
            raise InvalidInputError(f"{name}: expected token ids as keys, got {show(key)}")
        found[int(key)] = bias
    return found


def top_k(name: str, value: Any) -> Any:
    """Read top_k. -1 means the same as 0: keep every token."""
    return 0 if type(value) is int and value == -1 else value


def method(name: str, value: Any) -> str | None:
    """Read `speculative`: false, true (the server's own method), or a method."""
    if isinstance(value, bool):
        return None if value else "none"
    if not isinstance(value, str) or not value:
        raise InvalidInputError(
            f"{name}: expected false, true or METHOD[:key=value,...], got {show(value)}"
        )
    return value
