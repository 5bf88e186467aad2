"""Keeps a fixed number of sequences running: as soon as a sequence ends, the next prompt takes its
place.

Only full rounds are measured: rounds in which all sequences decode. The start, the end and prefill
are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .. import check
from .._core import MAX_SEATS
from ..engine import Engine
from ..errors import InvalidInputError
from ..methods import Method
from ..outputs import RequestOutput
from ..sampling import SamplingParams


@dataclass
class Load:
    """Results of a closed loop. outputs: one per request, in the order of the requests.

    tokens, seconds: sums over the rounds in which all sequences decode.
    """

    outputs: list[RequestOutput]
    tokens: int = 0
    seconds: float = 0.0


def count(prompts: int, concurrency: int) -> int:
    """Return the number of requests of a closed loop with N = `concurrency` sequences.

    The number is at least 2 N - 1, so that N of the requests can always run next to N - 1 others.
    """
    return max(prompts, 2 * concurrency - 1)


def counts(flag: str, text: str) -> list[int]:
    """Parse a list of numbers of sequences, for example "1,2,4". Raises InvalidInputError."""
    found = []
    for part in text.split(","):
        is_number = part.isascii() and part.isdigit() and len(part) < 10
        if not (is_number and 1 <= int(part) <= MAX_SEATS):
            raise InvalidInputError(
                f"{flag}: expected numbers from 1 to {MAX_SEATS}, got {check.show(part)}"
            )
        found.append(int(part))
    return found


@dataclass
class ClosedLoop:
    """Keeps `concurrency` sequences of `method` in flight on an engine in virtual time.

    say: a function that is called with the number of answers so far.
    """

    engine: Engine
    method: Method
    concurrency: int
    say: Callable[[int], None]
    # For each unfinished request, by name: True once the request has tokens.
    _begun: dict[str, bool] = field(default_factory=dict)
    _done: dict[str, RequestOutput] = field(default_factory=dict)

    def run(self, prompts: Sequence[list[int]], params: SamplingParams) -> Load:
        """Answer prompts of token ids. The prompts are repeated until `count` requests have
        ended. Raises InvalidInputError if no round is full."""
        total = count(len(prompts), self.concurrency)
        waiting = [(str(i), prompts[i % len(prompts)]) for i in reversed(range(total))]
        load = Load([])
        while waiting or self._begun:
            while waiting and len(self._begun) < self.concurrency:
                name, ids = waiting.pop()
                self.engine.add_request(name, ids, params, method=self.method)
                self._begun[name] = False
            self._step(load)
            self.say(len(self._done))
        if load.seconds == 0 and any(one.outputs[0].token_ids for one in self._done.values()):
            raise InvalidInputError(
                f"--max-tokens: expected answers so long that {self.concurrency} sequences decode "
                f"in the same round, got {params.max_tokens} tokens"
            )
        load.outputs = [self._done[str(i)] for i in range(total)]
        return load

    def _step(self, load: Load) -> None:
        before, members = self.engine.now_ns, set(self._begun)
        outputs = self.engine.step()
        for output in outputs:
            self._begun[output.request_id] = True
        is_full = len(members) == self.concurrency and all(self._begun[name] for name in members)
        if is_full:
            load.tokens += sum(len(output.delta_token_ids) for output in outputs)
            load.seconds += (self.engine.now_ns - before) / 1e9
        for output in outputs:
            if output.finished:
                del self._begun[output.request_id]
                self._done[output.request_id] = output
