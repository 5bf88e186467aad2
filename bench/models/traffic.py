"""Sends requests to an engine as clients would, and notes when their tokens arrive."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sbrt.engine import Engine
from sbrt.errors import EngineError
from sbrt.methods import Method
from sbrt.outputs import ratio
from sbrt.sampling import SamplingParams


@dataclass(frozen=True)
class Load:
    """How requests arrive. concurrency: number of requests in flight at any time.

    rate: number of requests that arrive per second, as a Poisson process. Either concurrency or
    rate is None.
    """

    concurrency: int | None = None
    rate: float | None = None

    @property
    def text(self) -> str:
        """The name of the load in tables and messages."""
        return f"{self.rate:g}/s" if self.concurrency is None else f"{self.concurrency} at once"


@dataclass(frozen=True)
class Work:
    """Prompts as token ids, and the parameters of every request. seed: seed of the arrivals."""

    prompts: Sequence[list[int]]
    params: SamplingParams
    seed: int = 0


@dataclass
class Answer:
    """The tokens of one request and their arrival times, in seconds of perf_counter().

    prompt: the prompt's index. arrived: when the request was sent. is_ballast: the request only
    keeps the load up and is not counted. times, counts: arrival time and number of tokens of each
    output that has tokens.
    """

    prompt: int
    arrived: float
    is_ballast: bool = False
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finished: bool = False

    def add(self, ids: Sequence[int], now: float) -> None:
        """Record the tokens of an output that arrived at `now`."""
        if ids:
            self.times.append(now)
            self.counts.append(len(ids))
            self.ids += ids

    @property
    def gaps(self) -> list[float]:
        """Seconds between successive outputs."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def token_gaps(self) -> list[float]:
        """Return the seconds per token for all tokens after the first output. The time since the
        previous output is divided by the output's number of tokens."""
        pairs = zip(self.gaps, self.counts[1:], strict=True)
        return [gap / count for gap, count in pairs for _ in range(count)]

    def agrees(self, expected: Sequence[int]) -> bool:
        """Return True if the tokens are the expected ones. For an aborted answer, the tokens so far
        are compared with the first tokens of `expected`."""
        return self.ids == list(expected if self.finished else expected[: len(self.ids)])


@dataclass(frozen=True)
class Played:
    """The answers of one run of a load, and the duration of the run in seconds."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def counted(self) -> list[Answer]:
        """The answers that count, which are all but the ballast."""
        return [answer for answer in self.answers if not answer.is_ballast]

    @property
    def tokens(self) -> int:
        """Number of tokens of all answers, ballast included."""
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def rate(self) -> float:
        """Tokens per second of all requests together, prefill included."""
        return ratio(self.tokens, self.seconds)

    @property
    def request_rate(self) -> float:
        """Tokens per second of the median request, from its arrival to its last token."""
        rates = [ratio(len(a.ids), a.times[-1] - a.arrived) for a in self.counted if a.times]
        return statistics.median(rates) if rates else 0.0

    def first(self, share: float) -> float:
        """Return the percentile `share` of the seconds from a request's arrival to its first
        token."""
        return percentile([a.times[0] - a.arrived for a in self.counted if a.times], share)

    def between_tokens(self, share: float) -> float:
        """Return the percentile `share` of the seconds per token within a request."""
        return percentile([gap for a in self.counted for gap in a.token_gaps], share)

    def shared(self) -> tuple[int, float]:
        """Return (tokens, seconds) of the time in which all requests were decoding.

        This time begins when all requests have their first token. It ends when one of the requests
        has its last token. Returns (0, 0.0) if there was no such time.
        """
        begin = max(a.times[0] for a in self.counted)
        end = min(a.times[-1] for a in self.counted)
        if end <= begin:
            return 0, 0.0
        outputs = [o for a in self.counted for o in zip(a.times, a.counts, strict=True)]
        return sum(count for at, count in outputs if begin < at <= end), end - begin

    def between_outputs(self, share: float) -> float:
        """Return the percentile `share` of the seconds between two outputs of a request."""
        return percentile([gap for a in self.counted for gap in a.gaps], share)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile of `values` at `share`, from 0 to 1. It is the smallest value that at
    least this share of the values do not exceed. Returns 0.0 if there are no values."""
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return the seconds at which `count` requests arrive: a Poisson process that begins at 0."""
    chance = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + chance.expovariate(rate))
    return times


def play(engine: Engine, method: Method, load: Load, work: Work) -> Played:
    """Send every prompt once under this load, and wait for the answers.

    With `concurrency`, ballast requests repeat the prompts until all other requests have ended. The
    ballast keeps the number of requests in flight constant, and is aborted at the end. Raises
    EngineError if a generation fails.
    """
    player = _Player(engine, method, work)
    if load.concurrency is not None:
        return player.closed(load.concurrency)
    assert load.rate is not None
    return player.open(load.rate)


class _Player:
    """Sends the requests of one run. `_live` maps the ids of the requests in flight to their
    answers."""

    def __init__(self, engine: Engine, method: Method, work: Work) -> None:
        self._engine, self._method, self._work = engine, method, work
        self._live: dict[str, Answer] = {}
        self._answers: list[Answer] = []
        self._left = len(work.prompts)  # number of unfinished requests, without ballast

    def closed(self, concurrency: int) -> Played:
        begin = time.perf_counter()
        while len(self._live) < concurrency:
            self._send(time.perf_counter())
        while self._left:
            now = self._step()
            while self._left and len(self._live) < concurrency:
                self._send(now)
        seconds = time.perf_counter() - begin
        self._engine.abort_request(list(self._live))
        return Played(self._answers, seconds)

    def open(self, rate: float) -> Played:
        due = deque(arrivals(rate, len(self._work.prompts), self._work.seed))
        begin = time.perf_counter()
        while self._left:
            now = time.perf_counter() - begin
            while due and due[0] <= now:
                self._send(begin + due.popleft())
            if self._live:
                self._step()
            else:
                time.sleep(due[0] - now)
        return Played(self._answers, time.perf_counter() - begin)

    def _send(self, arrived: float) -> None:
        index = len(self._answers)
        is_ballast = index >= len(self._work.prompts)
        answer = Answer(index % len(self._work.prompts), arrived, is_ballast)
        ids, name = self._work.prompts[answer.prompt], f"traffic-{index}"
        self._engine.add_request(name, ids, self._work.params, method=self._method)
        self._answers.append(answer)
        self._live[name] = answer

    def _step(self) -> float:
        """Run a round and return the time at its end."""
        outputs, now = self._engine.step(), time.perf_counter()
        for output in outputs:
            answer, [completion] = self._live[output.request_id], output.outputs
            if completion.finish_reason == "error":
                raise EngineError(f"method {self._method.text}: {completion.stop_reason}")
            answer.add(output.delta_token_ids, now)
            if output.finished:
                answer.finished = True
                del self._live[output.request_id]
                self._left -= not answer.is_ballast
        return now
