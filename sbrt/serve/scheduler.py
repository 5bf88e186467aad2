"""The queue in front of the C++ core, where requests wait for seats in order of arrival."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .._core import Costs, EngineCore, Seat
from ..errors import EngineError, InvalidInputError
from ..outputs import LaneTimes, RequestMetrics, RequestOutput, auto_metrics, spec_decode_metrics
from ..trace.history import History, rounds_of
from ..trace.spans import Round, Span, lane_times
from .recorder import Recorder, wait_until_idle
from .request import Outputs, Request, Sink, first_of
from .turn import Turns, in_turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Found = TypeVar("Found")

SLICE = 0.05  # seconds; after each slice Ctrl-C and other threads get a chance
SHORT = 0.002  # seconds; rounds of a stream that are shorter than this share an output
PACE = 0.016  # seconds for which short rounds share an output: one frame of a screen


class Prefill(NamedTuple):
    """Progress of a prefill: number of prompt tokens fed so far, and their total number."""

    request: Request
    done: int
    total: int


class Scheduler:
    """Owns the C++ core. Every output goes to its request's sink.

    A caller that waits for an output runs the rounds of all requests that have a seat. So several
    threads can wait at the same time. Any thread and any signal handler may call every method. In a
    destructor that runs inside another call of the same thread, every method raises EngineError.
    There `drop` does not raise, but takes effect at the next call.
    """

    def __init__(
        self,
        core: EngineCore,
        max_model_len: int,
        arms: Sequence[str] = (),
        *,
        keeps_trace: bool = True,
    ) -> None:
        """arms: candidates of `auto`. keeps_trace: True if a device keeps a trace even without a
        profile."""
        self._engine_core: EngineCore | None = core
        self._arms = arms
        self._max_model_len = max_model_len
        self.turns = Turns()
        self._late: deque[Request] = deque()  # requests that the next holder of the lock drops
        self._queue: OrderedDict[tuple[bool, str], Request] = OrderedDict()  # keys: Request.key
        self._running: dict[tuple[bool, str], Request] = {}  # requests with a seat, oldest first
        self._newest: Seat | None = None  # seat of the request that was admitted last
        self._begun_ns = core.now_ns  # trace() leaves out earlier spans, which belong to no request
        self._recorder = Recorder(core, keeps_trace=keeps_trace)
        self._rounds = 0  # counts every time that a request gets tokens
        self.on_prefill: Callable[[int, int], None] | None = None  # Engine.on_prefill
        self._prefill: Prefill | None = None  # the next values to report to on_prefill
        self._telling: set[int] = set()  # threads inside on_prefill

    @property
    def core(self) -> EngineCore:
        """The C++ core. Raises EngineError once the scheduler is closed."""
        if self._engine_core is None:
            raise EngineError("engine: expected an open one, this one has been closed")
        return self._engine_core

    def check_process(self) -> None:
        """Raises EngineError in a fork."""
        if self.turns.is_fork:
            self.core.check_usable()

    def check_open(self) -> None:
        """Raises EngineError in a fork, and once the scheduler is closed."""
        self.check_process()
        _ = self.core

    @in_turn
    def add(self, requests: Sequence[Request]) -> None:
        """Queue all requests. If an id is in use, queue none and raise InvalidInputError."""
        _ = self.core
        for request in requests:
            if request.key in self._queue or request.key in self._running:
                raise InvalidInputError(
                    f"request_id: expected one that is not in use, got {request.id!r}"
                )
        self._queue.update((request.key, request) for request in requests)

    @in_turn
    def has_live(self) -> bool:
        """True if a request is unfinished."""
        return bool(self._running or self._queue)

    @in_turn
    def live(self) -> list[Request]:
        """Return unfinished requests; those that have a seat come first."""
        return self._live()

    def drop(self, requests: Sequence[Request]) -> None:
        """Drop those of `requests` that are unfinished. Does nothing in a fork."""
        if self.turns.is_fork:
            return
        if self.turns.is_inside or self.turns.is_lost:  # called by a stream's destructor
            self._late.extend(requests)
        else:
            self._drop_now(requests)

    @in_turn
    def abort(self, ids: Iterable[str], inbox: Sink) -> None:
        """Drop unfinished requests. `inbox` loses their outputs; other sinks get a last output.

        If a caller's id equals an id that the engine made, only the caller's request is dropped.
        """
        _ = self.core
        wanted, live = set(ids), self._live()
        unread = [item for item in inbox if isinstance(item, RequestOutput)]
        own = {r.id for r in live if not r.is_drawn} | {output.request_id for output in unread}
        named = [r for r in live if r.id in wanted and not (r.is_drawn and r.id in own)]
        self._drop(named)
        for output in unread:
            if output.request_id in wanted:
                inbox.remove(output)
        for request in named:
            if request.sink is not inbox:
                _file_abort(request)

    def next(self, sink: Sink) -> RequestOutput:
        """Return the next output of `sink`. Runs rounds until there is one."""
        while True:
            self.turns.give_way()
            if isinstance(found := self._take(sink), RequestOutput):
                return found
            self._tell(found)

    def step(self, sink: Sink) -> list[RequestOutput] | None:
        """Return all outputs of `sink`. If there are none, admit requests and run a round first.

        Returns None if the prefill or the round takes longer than a slice. The work goes on; call
        again.
        """
        self.turns.give_way()
        if isinstance(found := self._take_all(sink), list):
            return found
        self._tell(found)
        return None

    @in_turn
    def trace(self) -> list[Span]:
        """Return the lanes' spans since the last request began, oldest first for each lane."""
        _ = self.core
        return self._recorder.spans(self._begun_ns)

    @property
    def is_traced(self) -> bool:
        """True if a device keeps a trace at this moment."""
        return self._recorder.is_traced

    @in_turn
    def start_profile(self, path: Path | None) -> None:
        """Begin a profile for the file `path`. Raises EngineError while another profile is in
        progress."""
        _ = self.core
        self._recorder.start(path)

    @in_turn
    def stop_profile(self) -> Path | None:
        """Write the profile; returns its path. Raises EngineError if no profile is in progress."""
        _ = self.core
        return self._recorder.stop(self._running.values())

    @in_turn
    def rounds(self) -> list[Round]:
        """Return the results of the last request's rounds, oldest first."""
        return self._logged()

    @in_turn
    def features(self) -> NDArray[np.float32]:
        """Return the H-RAD classifier's inputs after the last round, [hrad.inputs(hidden)]."""
        return (self._newest or self.core.seat(0)).features()

    @in_turn
    def measure_costs(self, seconds: float, temperature: float) -> Costs:
        """Measure the times of forwards. Raises EngineError while a request is unfinished."""
        if self._live():
            raise EngineError("measure_costs: expected no unfinished request, got one")
        core = self.core
        wait_until_idle(core)
        costs = core.measure(seconds, temperature)
        self._begun_ns = core.now_ns
        return costs

    def close(self) -> None:
        """Drop all requests; free the core's threads and memory. Does nothing in a fork."""
        if not self.turns.is_fork and not self.turns.is_lost:
            self._close()

    # --- methods whose caller holds the lock ---

    @in_turn
    def _take(self, sink: Sink) -> RequestOutput | Prefill | None:
        _ = self.core  # raises if the engine is closed, even if outputs are unread
        if not sink:
            self._advance()
        return first_of(sink) if sink else self._prefill

    @in_turn
    def _take_all(self, sink: Sink) -> list[RequestOutput] | Prefill | None:
        if not sink and not self._advance():
            return self._prefill
        found: list[RequestOutput] = []
        while sink and not (found and isinstance(sink[0], BaseException)):
            found.append(first_of(sink))
        return found

    def _tell(self, prefill: Prefill | None) -> None:
        """Call on_prefill in the waiting thread. If on_prefill raises, the request is dropped."""
        thread, call = threading.get_ident(), self.on_prefill
        if prefill is None or call is None or thread in self._telling:
            return
        self._telling.add(thread)
        try:
            call(prefill.done, prefill.total)
        except BaseException:
            self._give_up(prefill.request)
            raise
        finally:
            self._telling.discard(thread)

    @in_turn
    def _give_up(self, request: Request) -> None:
        if self._drop([request]):
            _file_abort(request)

    @in_turn
    def _drop_now(self, requests: Sequence[Request]) -> None:
        self._drop(requests)

    @in_turn
    def _close(self) -> None:
        self._queue.clear()
        self._drop(list(self._running.values()))
        try:
            with suppress(EngineError):  # a broken device raises
                if self._recorder.is_recording:
                    self._recorder.stop(())
        finally:
            if self._engine_core is not None:
                wait_until_idle(self._engine_core)
                self._engine_core.close()  # closed here: a traceback may keep the core alive
            self._engine_core = None

    def _live(self) -> list[Request]:
        return [*self._running.values(), *self._queue.values()]

    def drop_late(self) -> None:
        """Drop the requests that `drop` could not drop earlier. The caller must hold the lock."""
        while self._late:
            self._drop([self._late.popleft()])

    def _drop(self, requests: Iterable[Request]) -> int:
        """Drop those of `requests` that are unfinished; returns their number."""
        count = 0
        for request in requests:
            is_queued = self._queue.get(request.key) is request
            if is_queued:
                del self._queue[request.key]
            is_running = self._running.get(request.key) is request
            if is_running:
                self._end(request)
            count += is_queued or is_running
        return count

    def _logged(self) -> list[Round]:
        return [Round(*entry) for entry in self._newest.rounds()] if self._newest else []

    def _advance(self) -> bool:
        """Admit requests to free seats. For all requests with a seat, run a round or a slice of it.

        Returns False if the prefill or the round takes longer than the slice.
        """
        core, before = self.core, self._rounds
        self._prefill = None
        if self._queue and not self._running and not core.idle(SLICE):
            return False  # a round of a dropped request is still running
        while self._queue and core.has_free_seat:
            self._guard(self._start, core, next(iter(self._queue.values())))
        if self._running:
            self._run(core)
        return not self._running or self._rounds > before

    def _guard(
        self, what: Callable[[EngineCore, Request], Found], core: EngineCore, request: Request
    ) -> Found | bool:
        """Call `what`. If it raises, drop the request and give the error to its caller."""
        try:
            return what(core, request)
        except BaseException as error:
            if not self._drop([request]) or _is_filed(request):
                raise  # no caller waits for the request any more
            if isinstance(error, EngineError) and error is not self.turns.interruption:
                request.sink.append(error)
                return True
            _file_abort(request)  # a signal handler of this caller raised; other callers may wait
            raise

    def _start(self, core: EngineCore, request: Request) -> None:
        request.queue_seconds = time.monotonic() - request.queued_at
        self._begun_ns = request.begun_ns = core.now_ns
        room = self._max_model_len - len(request.prompt_ids)
        max_tokens = request.budget(room)
        seat = self._newest = core.admit(
            request.prompt_ids,
            request.sampling(),
            request.method.policy(),
            max_tokens,
            sorted(request.stop_ids),
            request.shaping,
            request.asked,
        )
        if max_tokens == 0:
            seat.release()
            request.finish("length")
            request.sink.append(request.output(RequestMetrics(request.queue_seconds), None))
        else:
            request.seat = seat
            self._running[request.key] = request
        del self._queue[request.key]  # last step: if interrupted, the request stays in the queue

    def _run(self, core: EngineCore) -> None:
        """Run all requests that have a seat: for one slice, for one round, or for the rounds that
        share an output."""
        running = list(self._running.values())
        before = {request: len(request.token_ids) for request in running}
        for request in running:
            request.had_company |= len(running) > 1
        is_late, due, begun, seconds = False, SHORT, time.monotonic(), SLICE
        rounds = int(any(request.by_round for request in running))
        while not is_late:
            if not self._advance_all(core, rounds, seconds):
                return
            taken = time.monotonic() - begun
            is_late = taken >= due
            due, seconds = PACE, PACE - taken
            for request in running:
                is_late |= self._guard(self._take_tokens, core, request)
            rounds = int(any(request.stop for request in running))  # Python tests stop strings
        for request in running:
            has_more = len(request.token_ids) > before[request]
            self._rounds += has_more
            if request.key not in self._running:
                continue
            if has_more and request.outputs is not Outputs.LAST:
                request.sink.append(request.output(None, None))
            elif self.on_prefill and self._prefill is None and not request.token_ids:
                total = len(request.prompt_ids) - 1
                self._prefill = Prefill(request, _seat_of(request).prefilled_tokens, total)

    def _advance_all(self, core: EngineCore, rounds: int, seconds: float) -> bool:
        """Run rounds. If the engine fails, drop all requests, pass the error to each sink, and
        return False."""
        try:
            core.advance(max_rounds=rounds, seconds=seconds)
        except EngineError as error:
            for request in list(self._running.values()):
                self._drop([request])
                request.sink.append(error)
            return False
        if (interruption := self.turns.interruption) is not None:
            raise interruption
        return True

    def _take_tokens(self, core: EngineCore, request: Request) -> bool:
        """Take a request's new tokens, which may end it. Returns True if its output is due now."""
        seat, is_first = _seat_of(request), not request.token_ids
        has_tokens = request.take()
        if request.finish_reason is None and seat.finished:
            reason = seat.finish_reason or "error"
            request.finish(reason, seat.error if reason == "error" else None)
        request.settle()
        if request.finish_reason is not None:
            self._file_last(request)
            return True
        return not has_tokens or is_first or request.outputs is not Outputs.PACED

    def _file_last(self, request: Request) -> None:
        seat = _seat_of(request)
        stats = seat.stats
        metrics = RequestMetrics(
            request.queue_seconds, stats.prefill_ns / 1e9, stats.decode_ns / 1e9
        )
        times = LaneTimes()
        if request.method.drafts and not request.had_company:  # spans of shared rounds mix requests
            times = lane_times(self._recorder.spans(request.begun_ns))
        tokens, gamma = len(request.token_ids), request.method.gamma
        spec = spec_decode_metrics(stats, times, tokens, gamma)
        if request.method.policy() is None:
            spec["auto"] = auto_metrics(self._arms, seat.tuned)
        output = request.output(metrics, spec)
        if request.keeps_history:
            output = replace(output, history=self._history(request))
        request.sink.append(output)
        self._end(request)

    def _history(self, request: Request) -> History:
        """Return the history of a request that has just ended. Its spans include the work for other
        seats."""
        rounds = (Round(*entry) for entry in _seat_of(request).rounds())
        return History(
            rounds_of(rounds, len(request.token_ids)), self._recorder.spans(request.begun_ns)
        )

    def _end(self, request: Request) -> None:
        try:
            self._recorder.add(request)
        finally:
            del self._running[request.key]
            if request.seat is not None:
                request.seat.release()


def _seat_of(request: Request) -> Seat:
    assert request.seat is not None
    return request.seat


def _file_abort(request: Request) -> None:
    """Append the last output of an aborted request to its sink, for a caller that waits."""
    request.finish("abort")
    request.sink.append(request.output(None, None))


def _is_filed(request: Request) -> bool:
    """True if the request's last output has just been appended to its sink."""
    last = request.sink[-1] if request.sink else None
    return isinstance(last, RequestOutput) and last.finished and last.request_id == request.id
