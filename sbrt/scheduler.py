"""The queue in front of the runtime: one sequence in flight, the others wait in order."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ._core import Costs, Runtime
from .chrome import Recording
from .errors import EngineError, InvalidInputError
from .outputs import LaneTimes, RequestMetrics, RequestOutput, auto_metrics, spec_decode_metrics
from .profile import Profile
from .request import Request, Sink
from .trace import Round, Span, lane_times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLICE = 0.05  # seconds of a generation between two chances for Ctrl-C and for other threads


class Scheduler:
    """Owns the runtime; every output goes to its request's sink.

    Whoever waits for an output runs whatever is first in the queue, so several callers and threads
    can wait at once. Every method may be called from any thread.
    """

    def __init__(
        self,
        runtime: Runtime,
        max_model_len: int,
        arms: Sequence[str] = (),
        *,
        keeps_trace: bool = True,
    ) -> None:
        """`arms`: what the runtime may choose from. keeps_trace: without a profile, on a device."""
        self._runtime: Runtime | None = runtime
        self._arms = arms
        self._max_model_len = max_model_len
        self._lock = threading.RLock()
        self._waiting: set[int] = set()  # threads that want the lock
        self._queue: OrderedDict[str, Request] = OrderedDict()  # by id
        self._running: Request | None = None
        self._begun_ns = runtime.now_ns  # what was measured is no request's
        self._keeps_trace = keeps_trace
        self._profile: Profile | None = None
        if keeps_trace:
            runtime.keep_trace(True)
        self._rounds = 0  # calls that brought tokens
        self.on_prefill: Callable[[int, int], None] | None = None  # Engine.on_prefill

    @property
    def runtime(self) -> Runtime:
        """Raises EngineError once closed."""
        if self._runtime is None:
            raise EngineError("engine: expected an open one, this one has been closed")
        return self._runtime

    def add(self, requests: Sequence[Request]) -> None:
        """Queue all of them or, if an id is in use, none."""
        with self._turn():
            self._taken()
            _ = self.runtime
            running = None if self._running is None else self._running.id
            for request in requests:
                if request.id in self._queue or request.id == running:
                    raise InvalidInputError(
                        f"request_id: expected one that is not in use, got {request.id!r}"
                    )
            self._queue.update((request.id, request) for request in requests)

    def live(self) -> list[Request]:
        """Unfinished requests, the one in flight first."""
        with self._turn():
            self._taken()
            return [*([self._running] if self._running else []), *self._queue.values()]

    def drop(self, requests: Sequence[Request]) -> list[Request]:
        """Forget those of `requests` that are unfinished, and return them."""
        with self._turn():
            self._taken()
            unwanted = set(map(id, requests))
            dropped = [request for request in self.live() if id(request) in unwanted]
            for request in dropped:
                self._queue.pop(request.id, None)
            if self._running is not None and id(self._running) in unwanted:
                self._end()
            return dropped

    def next(self, sink: Sink) -> RequestOutput:
        """The next output of `sink`, running what is first in the queue until there is one."""
        while True:
            self._give_way()
            with self._turn():
                self._taken()
                _ = self.runtime  # a closed engine says so, whatever still waits to be read
                if not sink:
                    self._advance()
                item = sink.popleft() if sink else None
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                return item

    def advance(self) -> bool:
        """Start the next request if none is in flight; run a round of it, or a slice of time.

        False if the prefill or the round takes longer than the slice: it goes on, call again.
        """
        self._give_way()
        with self._turn():
            self._taken()
            return self._advance()

    def trace(self) -> list[Span]:
        """What the lanes did since the last request began, oldest first per lane."""
        with self._turn():
            self._taken()
            self._wait_until_idle(self.runtime)
            return [Span(*event) for event in self.runtime.trace(self._begun_ns)]

    @property
    def is_traced(self) -> bool:
        """Whether a device keeps times."""
        return self._keeps_trace or self._profile is not None

    def start_profile(self, path: Path | None) -> None:
        """Record requests into `path`. Raises EngineError while another profile is in progress."""
        with self._turn():
            self._taken()
            runtime = self.runtime
            if self._profile is not None:
                raise EngineError("start_profile: expected no profile in progress, got one")
            self._wait_until_idle(runtime)
            if not self._keeps_trace:
                runtime.keep_trace(True)
            self._profile = Profile(path, runtime.now_ns)
            runtime.profile(True)

    def stop_profile(self) -> Path | None:
        """Write what was recorded; where. Raises EngineError without a profile in progress."""
        with self._turn():
            self._taken()
            runtime = self.runtime
            if self._profile is None:
                raise EngineError("stop_profile: expected start_profile before it, got none")
            self._record()
            profile, self._profile = self._profile, None
            runtime.profile(False)
            if not self._keeps_trace:
                runtime.keep_trace(False)
            return profile.write()

    def _record(self) -> None:
        """Put the request in flight, as far as it came, into the profile if there is one."""
        if self._profile is None or self._running is None or self._runtime is None:
            return
        since = max(self._begun_ns, self._profile.begun_ns)
        self._wait_until_idle(self._runtime)
        spans = [Span(*event) for event in self._runtime.trace(since)]
        title = f"{self._running.id}: {self._running.method.text}"
        self._profile.add(Recording(title, spans, self.rounds()))

    def rounds(self) -> list[Round]:
        """What the rounds of the last request decided, oldest first."""
        with self._lock:
            return [Round(*entry) for entry in self.runtime.rounds()]

    def features(self) -> NDArray[np.float32]:
        """[hrad.inputs(hidden)]: what H-RAD sees at the last round's outcome."""
        with self._lock:
            return self.runtime.features()

    def measure_costs(self, seconds: float, temperature: float) -> Costs:
        """Of forwards; raises EngineError while a request is in flight."""
        with self._turn():
            self._taken()
            if self.live():
                raise EngineError("measure_costs: expected no unfinished request, got one")
            runtime = self.runtime
            self._wait_until_idle(runtime)
            costs = runtime.measure(seconds, temperature)
            self._begun_ns = runtime.now_ns
            return costs

    def close(self) -> None:
        """Forget everything; threads and memory go with the runtime."""
        with self._turn():
            self._taken()
            self._queue.clear()
            self._end()
            try:
                if self._profile is not None:
                    with suppress(EngineError):  # of a fork, or of a device that broke
                        self.stop_profile()
            finally:
                if self._runtime is not None:
                    self._wait_until_idle(self._runtime)
                    self._runtime.close()  # an exception's traceback may hold it for long
                self._runtime = None

    def _turn(self) -> AbstractContextManager[bool]:
        """The lock, and a word that this thread wants it; `_taken` takes the word back."""
        self._waiting.add(threading.get_ident())
        return self._lock

    def _taken(self) -> None:
        self._waiting.discard(threading.get_ident())

    def _give_way(self) -> None:
        """Let a waiting thread have the lock; taken at once again, it never would."""
        if self._waiting:
            time.sleep(0.001)

    def _advance(self) -> bool:
        runtime, before = self.runtime, self._rounds
        if self._running is None and self._queue:
            if not runtime.idle(SLICE):
                return False  # the last round of a dropped request; it has nothing to say
            _, self._running = self._queue.popitem(last=False)
            self._guard(self._start, runtime, self._running)
        if self._running is not None:
            self._guard(self._run, runtime, self._running)
        return self._running is None or self._rounds > before

    def _guard(
        self, what: Callable[[Runtime, Request], None], runtime: Runtime, request: Request
    ) -> None:
        """Call `what`; if it fails the request is dropped, and whoever waits for it learns why."""
        try:
            what(runtime, request)
        except (EngineError, InvalidInputError) as error:
            self._end()
            request.sink.append(error)
        except BaseException:  # Ctrl-C above all
            self._end()
            request.finish("abort")  # another thread may be waiting for it
            request.sink.append(request.output(None, None))
            raise

    def _wait_until_idle(self, runtime: Runtime) -> None:
        """The last round of a dropped request may still run; it has nothing to say."""
        while not runtime.idle(SLICE):
            pass

    def _start(self, runtime: Runtime, request: Request) -> None:
        request.queue_seconds = time.monotonic() - request.queued_at
        self._begun_ns = runtime.now_ns
        room = self._max_model_len - len(request.prompt_ids)
        wanted = request.params.max_tokens
        max_tokens = room if wanted is None else min(room, wanted)
        runtime.begin(
            request.prompt_ids,
            request.sampling(),
            request.method.policy(),
            max_tokens,
            sorted(request.stop_ids),
            request.shaping,
        )
        if max_tokens == 0:
            self._running = None
            request.finish("length")
            request.sink.append(request.output(RequestMetrics(request.queue_seconds), None))

    def _run(self, runtime: Runtime, request: Request) -> None:
        tokens = runtime.run(max_rounds=1 if request.by_round else 0, seconds=SLICE)
        self._rounds += bool(tokens)
        if self.on_prefill and not (tokens or request.token_ids or runtime.finished):
            self.on_prefill(runtime.prefilled_tokens, len(request.prompt_ids) - 1)
        request.accept(tokens)
        if request.finish_reason is None and runtime.finished:
            reason = runtime.finish_reason or "error"
            request.finish(reason, runtime.error if reason == "error" else None)
        if request.finish_reason is not None:
            self._file_last(runtime, request)
        elif request.streams and tokens:
            request.sink.append(request.output(None, None))

    def _file_last(self, runtime: Runtime, request: Request) -> None:
        self._end()
        stats = runtime.stats
        metrics = RequestMetrics(
            request.queue_seconds, stats.prefill_ns / 1e9, stats.decode_ns / 1e9
        )
        times = lane_times(self.trace()) if request.method.drafts else LaneTimes()
        tokens, gamma = len(request.token_ids), request.method.gamma
        spec = spec_decode_metrics(stats, times, tokens, gamma)
        if request.method.policy() is None:
            spec["auto"] = auto_metrics(self._arms, runtime.tuned)
        request.sink.append(request.output(metrics, spec))

    def _end(self) -> None:
        try:
            self._record()
        finally:
            self._running = None
            if self._runtime is not None:
                self._runtime.end()
