"""Holds one request: its checked prompt, its output so far, and the place where a stop string cuts
its text."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from .. import check
from .._core import Logprobs, Sampling, Seat, Shaping
from ..config import EngineConfig
from ..errors import InvalidInputError
from ..methods import Method
from ..model.tokenizer import Detokenizer
from ..outputs import CompletionOutput, RequestMetrics, RequestOutput
from ..sampling import SamplingParams
from .logprobs import RequestLogprobs, logprobs_of
from .pair import Pair
from .shaping import shaping_of

Params = SamplingParams | Sequence[SamplingParams] | None
Sink = deque["RequestOutput | BaseException"]  # where a request's outputs go


class Outputs(Enum):
    """The times at which a request gives an output."""

    LAST = "at its end"
    ROUNDS = "after every round"
    PACED = "after every round, but short rounds share one"  # for scheduler.PACE seconds


@dataclass(eq=False)
class Request:
    """A queued or running request. It compares equal to itself only.

    The answer's text is the join of `pieces`, followed by `text[visible:]`. No stop string can cut
    `pieces` any more. The lists of pieces and of token ids only grow, so outputs share them. The
    first `visible` characters of `text` are in `pieces` already. If answers include stop strings,
    these characters stay in `text`, because a stop string may begin there.
    """

    id: str
    prompt: str | None
    prompt_ids: list[int]
    params: SamplingParams
    method: Method
    sink: Sink
    outputs: Outputs
    seed: int
    eos: frozenset[int]  # end-of-sequence ids that end the request; empty with ignore_eos
    detokenizer: Detokenizer | None
    shaping: Shaping = field(default_factory=Shaping)
    logprobs: RequestLogprobs | None = None
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    text: str = ""
    visible: int = 0
    given: int = 0  # number of pieces that the last output had
    given_ids: int = 0  # number of token ids that the last output had
    keeps_history: bool = False  # True if the last output must hold the rounds and spans
    completion: int = 0  # index of this answer, if a prompt gets several answers
    is_drawn: bool = False  # True if the engine made the id; False if the caller gave it
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    queued_at: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0
    seat: Seat | None = None  # None until the request is admitted to a seat
    begun_ns: int = 0  # time of admission, by the core's clock
    had_company: bool = False  # True if another request has shared a round with this one
    # Number of prompt tokens whose KV was reused; None before the answer's first token.
    cached: int | None = None

    @property
    def key(self) -> tuple[bool, str]:
        """The key of the request in the queue. Ids that the engine makes never collide with ids of
        callers."""
        return self.is_drawn, self.id

    @cached_property
    def shown_prompt_ids(self) -> list[int]:
        """The prompt's ids that callers see, one list for all outputs. The engine reads its own
        copy."""
        return list(self.prompt_ids)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids of tokens that end the request: end-of-sequence ids and stop_token_ids."""
        return self.eos.union(self.params.stop_token_ids or ())

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """The request's stop strings."""
        return tuple(self.params.stop or ())

    @property
    def by_round(self) -> bool:
        """True if the engine must examine the tokens after every round."""
        return self.outputs is not Outputs.LAST or bool(self.stop)

    def sampling(self) -> Sampling:
        """Return the sampling parameters in the form that the C++ module takes. A temperature below
        1e-5 becomes 0."""
        params = self.params
        return Sampling(
            temperature=0.0 if params.greedy else params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            seed=self.seed,
            completion=self.completion,
        )

    @property
    def asked(self) -> Logprobs:
        """The number of log-probs that the core keeps at each position."""
        return Logprobs() if self.logprobs is None else self.logprobs.asked

    def budget(self, room: int) -> int:
        """Return the number of tokens that the core may generate, at most `room`.

        A prompt's log-probs arrive with the first token. So one token is generated for them even if
        max_tokens is 0; `take` then drops this token.
        """
        least = int(self.logprobs is not None and self.logprobs.wants_prompt)
        wanted = self.params.max_tokens
        return room if wanted is None else min(room, max(least, wanted))

    def take(self) -> bool:
        """Take the tokens that the seat has committed, with their log-probs. Returns False if there
        are none."""
        assert self.seat is not None
        tokens = self.seat.take()
        if not tokens:
            return False
        if not self.token_ids:
            self.cached = self.seat.stats.reused
        if self.params.max_tokens == 0:
            self.finish("length")
        else:
            self.accept(tokens)
        if self.logprobs is not None:
            self.logprobs.take(self.seat, len(self.token_ids))
        return True

    def accept(self, tokens: Sequence[int]) -> None:
        """Examine committed tokens one by one. The first token that completes a stop string, or is
        a stop token, ends the request."""
        for token in tokens:
            self.token_ids.append(token)
            ends = self._is_late and token in self.stop_ids
            searched = len(self.text)
            if self.detokenizer is not None and not (ends and not self._includes_stop):
                self.text += self.detokenizer.push(token)
            if ends:
                self.finish("stop", None if token in self.eos else token)
                return
            if self._cut_at_stop(searched):
                return

    def finish(self, reason: str, why: int | str | None = None) -> None:
        """Set finish_reason and stop_reason (see CompletionOutput). Add the text of bytes that the
        detokenizer still holds."""
        searched = len(self.text)
        if self.detokenizer is not None:
            self.text += self.detokenizer.flush()
        if reason == "length" and self._cut_at_stop(searched):
            return
        self.finish_reason, self.stop_reason = reason, why

    def settle(self) -> None:
        """Move text that no stop string can cut any more to `pieces`, so that `text` stays
        short."""
        end = len(self.text) - (0 if self.finish_reason is not None else self._held())
        if end > self.visible:
            self.pieces.append(self.text[self.visible : end])
        else:
            end = self.visible
        kept = min(end, self._longest_stop - 1) if self._includes_stop else 0
        self.text, self.visible = self.text[end - kept :], kept

    def output(self, metrics: RequestMetrics | None, spec: dict[str, Any] | None) -> RequestOutput:
        """Return the output of the request so far. Text that may become a stop string is held back
        until the request ends.

        The cost does not depend on the lengths of prompt and answer.
        """
        self.settle()
        delta = "".join(self.pieces[self.given :])
        self.given = len(self.pieces)
        new_ids = self.token_ids[self.given_ids :]
        asked = self.logprobs
        logprobs = None if asked is None else asked.output
        new_logprobs = None if logprobs is None else logprobs[self.given_ids :]
        self.given_ids += len(new_ids)
        completion = CompletionOutput.of(
            self.pieces,
            self.token_ids,
            logprobs,
            index=0,
            cumulative_logprob=None if asked is None or logprobs is None else asked.cumulative,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            spec_decode_metrics=spec,
        )
        return RequestOutput(
            request_id=self.id,
            prompt=self.prompt,
            prompt_token_ids=self.shown_prompt_ids,
            outputs=[completion],
            finished=self.finish_reason is not None,
            metrics=metrics,
            delta=delta,
            num_cached_tokens=self.cached,
            delta_token_ids=new_ids,
            delta_logprobs=new_logprobs,
            prompt_logprobs=None if asked is None else asked.prompt,
        )

    @property
    def _includes_stop(self) -> bool:
        return self.params.include_stop_str_in_output

    @property
    def _is_late(self) -> bool:
        """True if the answer is longer than min_tokens, so that its last token may end the
        request."""
        return len(self.token_ids) > self.params.min_tokens

    @cached_property
    def _longest_stop(self) -> int:
        return max(map(len, self.stop), default=1)

    def _cut_at_stop(self, searched: int) -> bool:
        """End the text at a stop string, if one ends after the first `searched` characters. Returns
        True if the text was cut."""
        if not (self.stop and self._is_late):
            return False
        begins = ((s, max(0, searched - len(s) + 1)) for s in self.stop)
        hits = [(at, s) for s, begin in begins if (at := self.text.find(s, begin)) >= 0]
        if not hits:
            return False
        at, string = min(hits, key=lambda hit: hit[0])
        self.text = self.text[: at + len(string) if self._includes_stop else at]
        self.finish_reason, self.stop_reason = "stop", string
        self.detokenizer = None  # no text follows after the cut
        return True

    def _held(self) -> int:
        """Return the length of the longest suffix of the text that may become a stop string."""
        if self._includes_stop:
            return 0
        for n in range(min(self._longest_stop - 1, len(self.text)), 0, -1):
            if any(s.startswith(self.text[-n:]) for s in self.stop):
                return n
        return 0


def first_of(sink: Sink) -> RequestOutput:
    """Take the first item of `sink`, which must have one. If the item is an exception, raise it;
    otherwise return it."""
    item = sink.popleft()
    if isinstance(item, BaseException):
        raise item
    return item


class RequestMaker:
    """Turns a caller's arguments into requests. All checks of a request are made here."""

    def __init__(self, pair: Pair, max_model_len: int, config: EngineConfig) -> None:
        self._pair = pair
        self._max_model_len = max_model_len
        self._seed, self._max_logprobs = config.seed, config.max_logprobs

    def make(
        self,
        request_id: str,
        prompt: Any,
        params: SamplingParams,
        *,
        method: Method,
        sink: Sink,
        outputs: Outputs,
    ) -> Request:
        """Make a request. Raises InvalidInputError on a bad prompt, or on ids or stop strings that
        cannot be used."""
        check.text("request_id", request_id)
        if not isinstance(params, SamplingParams):
            raise InvalidInputError(f"params: expected SamplingParams, got {check.show(params)}")
        text, ids = self.prompt(prompt)
        tokenizer = self._pair.tokenizer
        if params.stop and tokenizer is None:
            raise InvalidInputError("stop: expected none with skip_tokenizer_init, got strings")
        for i in params.stop_token_ids or ():
            self._token("stop_token_ids", i)
        return Request(
            id=request_id,
            prompt=text,
            prompt_ids=ids,
            params=params,
            method=method,
            sink=sink,
            outputs=outputs,
            seed=draw_seed(self._seed, request_id) if params.seed is None else params.seed,
            eos=frozenset() if params.ignore_eos else self._pair.eos,
            detokenizer=Detokenizer(tokenizer, ids, skip_special=params.skip_special_tokens)
            if tokenizer
            else None,
            shaping=shaping_of(params, tokenizer, self._pair.vocab),
            logprobs=logprobs_of(params, self._pair, self._max_logprobs),
        )

    def prompt(self, prompt: Any) -> tuple[str | None, list[int]]:
        """Return (text, checked ids) of one prompt; text is None for ids. Raises
        InvalidInputError."""
        text: str | None = None
        if isinstance(prompt, Mapping):
            prompt = _of_mapping(prompt)
        if isinstance(prompt, str):
            if self._pair.tokenizer is None:
                raise InvalidInputError(
                    "prompt: expected token ids with skip_tokenizer_init, got text"
                )
            text = str(check.text("prompt", prompt))
            ids = self._pair.tokenizer.encode(text, self._max_model_len)
        else:
            ids = check.items("prompt", prompt, "text or token ids")
        if not ids:
            raise InvalidInputError("prompt: expected at least one token, got none")
        if len(ids) >= self._max_model_len:
            raise InvalidInputError(
                f"prompt: expected at most {self._max_model_len - 1} tokens, got {len(ids)}"
            )
        return text, [self._token("prompt", i) for i in ids]

    def _token(self, name: str, token: Any) -> int:
        return check.integer(f"{name}, token id", token, 0, self._pair.vocab - 1)


def split_prompts(prompts: Any) -> list[Any]:
    """Return the prompts as a list. A str, a list of ids or a mapping is one prompt; a list of
    these is many prompts."""
    if isinstance(prompts, (str, bytes, bytearray, Mapping)):
        return [prompts]
    many = check.items("prompts", prompts, "text or token ids")
    if not many:
        return []
    is_nested = [hasattr(p, "__iter__") for p in many]
    if any(is_nested) and not all(is_nested):
        raise InvalidInputError("prompts: expected prompts or token ids, got both in one list")
    return many if all(is_nested) else [many]


def split_params(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> list[SamplingParams]:
    """Return one SamplingParams for each of `count` prompts. Raises InvalidInputError."""
    if isinstance(params, SamplingParams):
        return [params] * count
    if isinstance(params, (list, tuple)) and len(params) == count:
        return list(params)
    got = len(params) if isinstance(params, (list, tuple)) else check.show(params)
    raise InvalidInputError(
        f"params: expected SamplingParams, one or one for each of {count} prompts, got {got}"
    )


def draw_seed(engine_seed: int, request_id: str) -> int:
    """Draw 64 bits from (EngineConfig.seed, request id). The bits are the same on every machine."""
    key = engine_seed.to_bytes(8, "little")
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little")


def _of_mapping(prompt: Mapping[str, Any]) -> Any:
    keys = set(prompt)
    if keys in ({"prompt_token_ids"}, {"prompt"}):
        value = next(iter(prompt.values()))
        if isinstance(value, str) == (keys == {"prompt"}):
            return value
    raise InvalidInputError(
        'prompt: expected {"prompt_token_ids": [...]} or {"prompt": "..."}, '
        f"got {check.show(dict(prompt))}"
    )
