"""SamplingParams: vLLM's fields, names and defaults. Unsupported values raise InvalidInputError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from . import check
from .errors import InvalidInputError

GREEDY_BELOW = 1e-5  # a temperature below this is greedy
MAX_SEED = 2**64 - 1
MAX_TOKENS = 2**40

MAX_BIAS = 100.0
PENALTY = 2.0  # maximum absolute value of a presence or frequency penalty
REPETITION = (0.01, 100.0)

# Fields that exist only because vLLM has them. Any value other than the default raises
# InvalidInputError.
UNSUPPORTED = ("n",)


@dataclass(frozen=True)
class SamplingParams:
    """The sampling parameters of one request, and the conditions at which it ends.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 keep every token. max_tokens None means up
    to the engine's max_model_len. seed None: the seed is drawn from (EngineConfig.seed, request
    id).
    Order: masks (allowed_token_ids, bad_words, min_tokens), logit_bias, penalties (repetition over
    prompt and output; frequency, presence over the output), temperature, min_p, top_k, top_p. Until
    the answer has min_tokens tokens, nothing ends the request. Its end and stop tokens are masked,
    and its stop strings are ignored. bad_words are banned with and without a leading space, even if
    the word begins in the prompt.
    logprobs: number of most likely tokens whose log-probs are returned at each position of the
    answer. The log-prob of the answer's own token is returned, too. -1: all tokens (see
    EngineConfig.max_logprobs). A log-prob is the log softmax of the model's raw logits, before
    masks, bias, penalties and temperature.
    prompt_logprobs: number of most likely tokens whose log-probs are returned at each position of
    the prompt except the first. Raises InvalidInputError, naming the field.
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
    prompt_logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
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
        self._set("stop", _strings("stop", self.stop))
        self._set("stop_token_ids", _ids("stop_token_ids", self.stop_token_ids))
        check.flag("ignore_eos", self.ignore_eos)
        if self.max_tokens is not None:
            self._set("max_tokens", check.integer("max_tokens", self.max_tokens, 0, MAX_TOKENS))
        self._check_shaping()
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._set(name, check.integer(name, getattr(self, name), -1, 2**30))
        check.flag("skip_special_tokens", self.skip_special_tokens)
        check.flag("include_stop_str_in_output", self.include_stop_str_in_output)

    def _check_shaping(self) -> None:
        most = MAX_TOKENS if self.max_tokens is None else self.max_tokens
        self._set("min_tokens", check.integer("min_tokens", self.min_tokens, 0, most))
        for name in ("presence_penalty", "frequency_penalty"):
            self._set(name, check.number(name, getattr(self, name), -PENALTY, PENALTY))
        repetition = check.number("repetition_penalty", self.repetition_penalty, *REPETITION)
        self._set("repetition_penalty", repetition)
        if self.logit_bias is not None:
            self._set("logit_bias", _biases(self.logit_bias))
        if self.allowed_token_ids is not None:
            self._set("allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
            if not self.allowed_token_ids:
                raise InvalidInputError("allowed_token_ids: expected at least one token id, got []")
        if self.bad_words is not None:
            self._set("bad_words", _words(self.bad_words))

    @property
    def greedy(self) -> bool:
        """True if the temperature is so small (below 1e-5) that the most likely token is always
        taken."""
        return self.temperature < GREEDY_BELOW

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse_unsupported(self) -> None:
        defaults = {f.name: f.default for f in fields(self)}
        for name in UNSUPPORTED:
            value, default = getattr(self, name), defaults[name]
            if value is not default and not (type(value) is int and value == default):
                raise InvalidInputError(
                    f"SamplingParams.{name}: not built yet; expected {default}, "
                    f"got {check.show(value)}"
                )


def _strings(name: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        given = (given,)
    return tuple(check.text(name, item) for item in check.items(name, given, "strings"))


def _words(given: Any) -> tuple[str, ...]:
    words = _strings("bad_words", given)
    for word in words:
        if not word.strip():
            raise InvalidInputError(f"bad_words: expected words, got {check.show(word)}")
    return words


def _ids(name: str, ids: Any) -> tuple[int, ...]:
    if ids is None:
        return ()
    given = check.items(name, ids, "token ids")
    return tuple(check.integer(name, item, 0, 2**31 - 1) for item in given)


def _biases(given: Any) -> dict[int, float]:
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"logit_bias: expected token ids to numbers, got {check.show(given)}"
        )
    return {
        check.integer("logit_bias, token id", token, 0, 2**31 - 1): check.number(
            f"logit_bias of token {check.show(token)}", bias, -MAX_BIAS, MAX_BIAS
        )
        for token, bias in given.items()
    }
