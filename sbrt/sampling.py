"""SamplingParams: vLLM's fields, names and defaults. What is not supported raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from . import check
from .errors import InvalidInputError

GREEDY_BELOW = 1e-5  # a smaller temperature is greedy
MAX_SEED = 2**64 - 1
MAX_TOKENS = 2**40

# Fields that exist for their names only: any value but the default raises.
UNSUPPORTED = (
    "n",
    "min_tokens",
    "logprobs",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
    "include_stop_str_in_output",
)


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled and when it ends.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 keep every token; max_tokens None means
    up to the engine's max_model_len; seed None draws one from (EngineConfig.seed, request id).
    Raises InvalidInputError, naming the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self._refuse_unsupported()
        self._set("temperature", check.number("temperature", self.temperature, 0, 1e6))
        self._set("top_p", check.number("top_p", self.top_p, 0, 1))
        if self.top_p == 0:
            raise InvalidInputError("top_p: expected a number above 0, got 0")
        self._set("top_k", check.integer("top_k", self.top_k, 0, 2**30))
        self._set("min_p", check.number("min_p", self.min_p, 0, 1))
        if self.seed is not None:
            self._set("seed", check.integer("seed", self.seed, 0, MAX_SEED))
        self._set("stop", _strings(self.stop))
        self._set("stop_token_ids", _ids(self.stop_token_ids))
        check.flag("ignore_eos", self.ignore_eos)
        if self.max_tokens is not None:
            self._set("max_tokens", check.integer("max_tokens", self.max_tokens, 0, MAX_TOKENS))

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse_unsupported(self) -> None:
        defaults = {f.name: f.default for f in fields(self)}
        for name in UNSUPPORTED:
            value, default = getattr(self, name), defaults[name]
            if type(value) is bool or type(default) is bool:
                same = value is default
            else:
                same = value is default or (default is not None and value == default)
            if not same:
                raise InvalidInputError(
                    f"SamplingParams.{name}: not built yet; expected {default}, "
                    f"got {check.show(value)}"
                )


def _strings(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, (list, tuple)):
        raise InvalidInputError(f"stop: expected strings, got {check.show(stop)}")
    return tuple(check.text("stop", item) for item in stop)


def _ids(ids: Any) -> tuple[int, ...]:
    if ids is None:
        return ()
    if isinstance(ids, str) or not hasattr(ids, "__iter__"):
        raise InvalidInputError(f"stop_token_ids: expected token ids, got {check.show(ids)}")
    return tuple(check.integer("stop_token_ids", item, 0, 2**31 - 1) for item in ids)
