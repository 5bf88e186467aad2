"""Collects the log-probs of a request's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import check
from .._core import Logprobs, Seat
from ..errors import InvalidInputError
from ..model.tokenizer import Tokenizer
from ..outputs import Logprob
from ..sampling import SamplingParams
from .pair import Pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The arrays of tokens, ranks and log-probs, each [positions, 1 + top] (_core.Seat.take_logprobs).
Rows = tuple["NDArray[np.int32]", "NDArray[np.int32]", "NDArray[np.float32]"]
Position = dict[int, Logprob]


class PromptLogprobs(Sequence["Position | None"]):
    """The log-probs of a prompt, one item for each of its tokens; the first is None.

    The items are made when they are read. Making all items of a long prompt between two rounds
    would delay the other requests. The object compares, copies and pickles like a list.
    """

    def __init__(self, rows: Rows, item: Callable[[Rows, int], Position]) -> None:
        self._rows, self._item = rows, item

    def __len__(self) -> int:
        return 1 + len(self._rows[0])

    def __getitem__(self, at: Any) -> Any:
        """Return one item, or the list of the items in a slice."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        i = range(len(self))[at]
        return self._item(self._rows, i - 1) if i else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> Any:
        return list, (list(self),)


class RequestLogprobs:
    """The log-probs of one request. The list `output` only grows, so all outputs of the request
    share it.

    asked: the number of log-probs that the core keeps at each position. prompt: the prompt's
    log-probs; None before the answer's first token, and if the request does not want them.
    output: one entry for each token of the answer; None if the request does not want them.
    cumulative: the sum of the log-probs of the answer's tokens.
    """

    def __init__(self, params: SamplingParams, pair: Pair, most: int) -> None:
        """most: EngineConfig.max_logprobs. Raises InvalidInputError."""
        self.asked = Logprobs(
            output=_count("logprobs", params.logprobs, pair.vocab, most),
            prompt=_count("prompt_logprobs", params.prompt_logprobs, pair.vocab, most),
        )
        self._tokenizer: Tokenizer | None = pair.tokenizer
        self.prompt: PromptLogprobs | None = None
        self.output: list[Position] | None = [] if self.asked.output >= 0 else None
        self.cumulative = 0.0

    @property
    def wants_prompt(self) -> bool:
        """True if the request wants the prompt's log-probs."""
        return self.asked.prompt >= 0

    def take(self, seat: Seat, tokens: int) -> None:
        """Read new log-probs from the seat, up to those of the answer's first `tokens` tokens."""
        if self.wants_prompt and self.prompt is None:
            self.prompt = PromptLogprobs(seat.prompt_logprobs(), self._position)
        if self.output is None:
            return
        rows = seat.take_logprobs()
        for i in range(tokens - len(self.output)):
            self.output.append(self._position(rows, i))
            self.cumulative += float(rows[2][i, 0])

    def _position(self, rows: Rows, i: int) -> Position:
        """Return the log-probs at one position, by token id. The position's own token comes first,
        then the most likely tokens, best first."""
        tokenizer = self._tokenizer
        return {
            token: Logprob(logprob, rank, tokenizer.text_of(token) if tokenizer else None)
            for token, rank, logprob in zip(*(column[i].tolist() for column in rows), strict=True)
            if token >= 0
        }


def logprobs_of(params: SamplingParams, pair: Pair, most: int) -> RequestLogprobs | None:
    """Return a request's log-probs; None if it wants none. Raises InvalidInputError."""
    if params.logprobs is None and params.prompt_logprobs is None:
        return None
    return RequestLogprobs(params, pair, most)


def _count(name: str, given: int | None, vocab: int, most: int) -> int:
    """Return the number of most likely tokens to report at a position; -1 if the request wants
    none."""
    if given is None:
        return -1
    if most >= 0 and not 0 <= given <= most:
        raise InvalidInputError(
            f"{name}: expected at most {most} (EngineConfig.max_logprobs), got "
            + ("all (-1)" if given == -1 else check.show(given))
        )
    return vocab if given == -1 else min(given, vocab)
