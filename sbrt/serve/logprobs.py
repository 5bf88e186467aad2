"""What a request learns of the log-probs of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from .. import check
from .._core import Logprobs, Seat
from ..errors import InvalidInputError
from ..model.tokenizer import Tokenizer
from ..outputs import Logprob
from ..sampling import SamplingParams
from .pair import Pair

Entry = tuple[int, int, float]  # token, rank, log-prob


class RequestLogprobs:
    """The log-probs of one request: those of its answer only grow, so outputs share them.

    asked: what the binary module is to keep. prompt: None unless asked for, and before the first
    token; its first position has none. output: one entry for each token of the answer; None unless
    asked for. cumulative: the sum of the answer's.
    """

    def __init__(self, params: SamplingParams, pair: Pair, most: int) -> None:
        """most: EngineConfig.max_logprobs. Raises InvalidInputError."""
        self.asked = Logprobs(
            output=_count("logprobs", params.logprobs, pair.vocab, most),
            prompt=_count("prompt_logprobs", params.prompt_logprobs, pair.vocab, most),
        )
        self._tokenizer: Tokenizer | None = pair.tokenizer
        self.prompt: list[dict[int, Logprob] | None] | None = None
        self.output: list[dict[int, Logprob]] | None = [] if self.asked.output >= 0 else None
        self.cumulative = 0.0

    @property
    def wants_prompt(self) -> bool:
        """Whether the prompt's are asked for."""
        return self.asked.prompt >= 0

    def take(self, seat: Seat, tokens: int) -> None:
        """Read what came with the first `tokens` tokens of the answer; of later ones nothing."""
        if self.wants_prompt and self.prompt is None:
            self.prompt = [None, *map(self._position, seat.prompt_logprobs())]
        if self.output is None:
            return
        for entries in seat.take_logprobs()[: tokens - len(self.output)]:
            self.output.append(self._position(entries))
            self.cumulative += entries[0][2]

    def _position(self, entries: Sequence[Entry]) -> dict[int, Logprob]:
        """By token id: the token that stands there first, then the most likely, best first."""
        tokenizer = self._tokenizer
        return {
            token: Logprob(logprob, rank, tokenizer.text_of(token) if tokenizer else None)
            for token, rank, logprob in entries
        }


def logprobs_of(
    params: SamplingParams, pair: Pair, most: int, on_cuda: bool
) -> RequestLogprobs | None:
    """None for a request that asks for none. Raises InvalidInputError."""
    if params.logprobs is None and params.prompt_logprobs is None:
        return None
    if on_cuda:
        name = "logprobs" if params.logprobs is not None else "prompt_logprobs"
        raise InvalidInputError(f"{name}: expected none on cuda, where they are not built yet")
    return RequestLogprobs(params, pair, most)


def _count(name: str, given: int | None, vocab: int, most: int) -> int:
    """How many of the most likely tokens the core keeps; -1 of a request that does not ask."""
    if given is None:
        return -1
    if most >= 0 and not 0 <= given <= most:
        raise InvalidInputError(
            f"{name}: expected at most {most} (EngineConfig.max_logprobs), got "
            + ("all (-1)" if given == -1 else check.show(given))
        )
    return vocab if given == -1 else min(given, vocab)
