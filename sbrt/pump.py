"""The pump is the only thread that calls an engine. Event loops hand their calls to the pump."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .engine import Engine
from .errors import EngineError
from .methods import Method
from .outputs import CompletionOutput, Logprob, RequestOutput
from .sampling import SamplingParams

T = TypeVar("T")
MOST_FAILURES = 3  # failures in a row after which the engine counts as broken


class RequestOutputKind(Enum):
    """The kind of outputs that a request yields, with vLLM's names."""

    CUMULATIVE = 0  # each output holds the whole answer so far
    DELTA = 1  # each output holds only what is new
    FINAL_ONLY = 2  # there is only one output, at the end


@dataclass(frozen=True)
class Order:
    """The arguments of `Engine.add_request` other than id and prompt."""

    params: SamplingParams | None = None
    method: str | Method | None = None
    completion: int = 0
    keeps_history: bool = False


class Stream:
    """The outputs of one request. The pump hands them to the event loop that made the request.

    A stream holds at most one output. If the loop has not taken an output when the next one
    arrives, the new output replaces the old one, and their deltas are joined. So a slow reader
    costs no memory and delays no other request. A DELTA output is made of the deltas alone, so its
    cost does not depend on the length of the answer.
    """

    def __init__(self, pump: Pump, request_id: str, prompt: str | None, prompt_ids: Any) -> None:
        self.id, self.prompt, self.prompt_ids = request_id, prompt, prompt_ids
        self.kind = RequestOutputKind.CUMULATIVE
        self.is_done = False  # True once the pump has handed over the last output or an error
        # Monotonic times of the outputs that were joined into the output that the event loop took
        # last.
        self.times: list[float] = []
        # Keeps the pump alive until the request ends, even if AsyncEngine is gone.
        self._pump = pump
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._is_told = False  # True if the event loop has been woken for an output
        self._latest: RequestOutput | None = None
        self._last: RequestOutput | None = None  # the newest output; only the pump uses it
        self._deltas: list[str] = []
        self._delta_ids: list[int] = []
        self._delta_logprobs: list[dict[int, Logprob]] | None = None
        # True once the event loop has taken an output with the prompt's log-probs.
        self._has_prompt_logprobs = False
        self._new_times: list[float] = []
        self._error: BaseException | None = None
        self._has_ended = False  # True once the event loop has taken the last output or the error

    async def next(self) -> RequestOutput:
        """Wait for the next output and return it in the form of `kind`.

        Raises the error that the pump passed to `fail`. Raises EngineError after the last output.
        """
        if self._has_ended:
            raise EngineError(f"request {self.id}: expected a further output, it has ended")
        await self._ready.wait()
        with self._lock:
            self._ready.clear()
            self._is_told = False
            latest, error, delta = self._latest, self._error, "".join(self._deltas)
            ids, logprobs = self._delta_ids, self._delta_logprobs
            self._latest, self._deltas, self._delta_ids, self._delta_logprobs = None, [], [], None
            self.times, self._new_times = self._new_times, []
            self._has_ended = error is not None or (latest is not None and latest.finished)
        if error is not None:
            raise error
        assert latest is not None
        return self._shaped(
            latest, delta=delta, delta_token_ids=ids, delta_logprobs=logprobs, prompt=self.prompt
        )

    def close(self) -> None:
        """Abort the request if it is unfinished. Does not wait for the abort."""
        self._pump.forget(self)

    def put(self, output: RequestOutput) -> bool:
        """Hand an output to the event loop; called by the pump. Returns False if the loop has been
        closed."""
        self._last, self.is_done = output, output.finished
        with self._lock:
            self._latest = output
            self._deltas.append(output.delta)
            self._delta_ids += output.delta_token_ids
            if output.delta_logprobs is not None:
                if self._delta_logprobs is None:
                    self._delta_logprobs = []
                self._delta_logprobs += output.delta_logprobs
            self._new_times.append(time.monotonic())
            is_wanted = self.kind is not RequestOutputKind.FINAL_ONLY or output.finished
            return self._tell() if is_wanted else not self._loop.is_closed()

    def fail(self, error: BaseException) -> None:
        """Hand an error to the event loop; no outputs follow."""
        self.is_done = True
        with self._lock:
            self._error = error
            self._tell()

    def aborted(self) -> RequestOutput:
        """Return the last output of an aborted request, with the tokens that it has so far."""
        if self._last is None:
            answer = CompletionOutput(index=0, text="", token_ids=[], finish_reason="abort")
            return RequestOutput(self.id, self.prompt, list(self.prompt_ids), [answer], True)
        [answer] = self._last.outputs
        answer = replace(answer, finish_reason="abort")
        found = replace(self._last, outputs=[answer], finished=True, delta="", delta_token_ids=[])
        return found if found.delta_logprobs is None else replace(found, delta_logprobs=[])

    def _tell(self) -> bool:
        """Wake the event loop, unless it has been woken already. Returns False if the loop has been
        closed.

        The caller must hold the lock.
        """
        if self._is_told:  # already woken; the loop may have been closed since then
            return not self._loop.is_closed()
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the event loop has been closed
            return False
        self._is_told = True
        return True

    def _shaped(self, output: RequestOutput, **fields: Any) -> RequestOutput:
        """Return the output in the form of `kind`, with `fields` replaced.

        Among DELTA outputs, only one has the prompt's log-probs.
        """
        if self.kind is RequestOutputKind.DELTA:
            answer = replace(
                output.outputs[0],
                text=fields["delta"],
                token_ids=fields["delta_token_ids"],
                logprobs=fields["delta_logprobs"],
            )
            of_prompt = None if self._has_prompt_logprobs else output.prompt_logprobs
            self._has_prompt_logprobs |= of_prompt is not None
            fields |= {"outputs": [answer], "prompt_logprobs": of_prompt}
        return replace(output, **fields)


class Pump:
    """The thread that runs rounds, and makes queued calls between two rounds. While no request is
    unfinished, the thread sleeps until a call is queued."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # The streams of unfinished requests, by request id. Only the pump uses them.
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()  # a call is either queued before the pump ends, or refused
        self._has_ended = False
        self._failures = 0  # number of failures since a request last finished
        self.error: BaseException | None = None
        self._close_failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sbrt pump", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """True until the pump's thread ends."""
        return not self._has_ended

    def check(self) -> None:
        """Raises EngineError if the pump's thread has ended."""
        if self._has_ended:
            raise self._reason()

    def post(self, call: Callable[[], None]) -> None:
        """Queue a call, which the pump makes between two rounds. The call must not raise. Raises
        EngineError if the pump's thread has ended."""
        with self._lock:
            self.check()
            self._calls.put(call)

    def ask(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call, which the pump makes between two rounds; returns a future of its result."""
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                self.check()
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self.post(answer)
        return future

    def stop(self) -> None:
        """Let the pump's thread end after the round in flight. The thread then closes the
        engine."""
        self._calls.put(None)

    def join(self) -> None:
        """Wait until the pump's thread has ended. If closing the engine failed, raise that error
        once."""
        if threading.current_thread() is not self._thread:
            self._thread.join()
            failure, self._close_failure = self._close_failure, None
            if failure is not None:
                raise failure

    def forget(self, stream: Stream) -> None:
        """Drop a request if it is unfinished. Any thread may call this; it does not wait."""
        if not (stream.is_done or self._has_ended):
            self._calls.put(lambda: self._drop(stream))

    # --- calls that the pump's thread makes ---

    def begin(self, stream: Stream, order: Order) -> None:
        """Give a request to the engine. Raises InvalidInputError if the request is bad."""
        self._engine.add_request(
            stream.id,
            {"prompt_token_ids": stream.prompt_ids},
            order.params,
            method=order.method,
            completion=order.completion,
            keeps_history=order.keeps_history,
        )
        self._streams[stream.id] = stream

    def abort(self, ids: Iterable[str]) -> None:
        """Abort requests; each of them gets a last output."""
        for name in ids:
            if (stream := self._streams.get(name)) is not None:
                self._drop(stream)
                stream.put(stream.aborted())

    def _drop(self, stream: Stream) -> None:
        if self._streams.get(stream.id) is stream:
            del self._streams[stream.id]
            self._engine.abort_request(stream.id)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while self._make_calls():
                self._round()
        except BaseException as error:
            self.error = error
        with self._lock:
            self._has_ended = True
        self._refuse_the_rest()
        try:
            self._engine.close()
        except Exception as error:  # for example, the profile could not be written
            self._close_failure = error

    def _make_calls(self) -> bool:
        """Make the queued calls. If no request is unfinished, wait for a call. Returns False if the
        pump must stop."""
        while True:
            try:
                call = self._calls.get(block=not self._streams)
            except Empty:
                return True
            if call is None:
                return False
            call()

    def _round(self) -> None:
        try:
            outputs = self._engine.step()
        except EngineError as error:
            self._fail_lost(error)
        else:
            self._hand_over(outputs)

    def _fail_lost(self, error: EngineError) -> None:
        """Hand an engine's error to the streams whose requests the engine has dropped. Other
        requests go on.

        Raises the error if the engine is broken: the engine dropped no request, or failed
        MOST_FAILURES times in a row.
        """
        live = set(self._engine.unfinished_requests())
        lost = [stream for stream in self._streams.values() if stream.id not in live]
        self._failures += 1
        if not lost or self._failures >= MOST_FAILURES:
            raise error
        for stream in lost:
            del self._streams[stream.id]
            stream.fail(error)
        for _ in lost[1:]:  # the engine raises the error once for each dropped request
            with suppress(EngineError):
                self._hand_over(self._engine.step())

    def _hand_over(self, outputs: list[RequestOutput]) -> None:
        if any(output.finished for output in outputs):
            self._failures = 0
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if output.finished:
                del self._streams[stream.id]
            if not stream.put(output):
                self._drop(stream)
        if not (outputs or self._engine.has_unfinished_requests()):
            self.abort(list(self._streams))  # another caller of the engine aborted these requests

    def _refuse_the_rest(self) -> None:
        for stream in self._streams.values():
            stream.fail(self._reason())
        self._streams.clear()
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            if call is not None:
                call()

    def _reason(self) -> EngineError:
        if self.error is None:
            return EngineError("AsyncEngine: expected an open one, this one has been closed")
        return EngineError(f"AsyncEngine: expected a working engine, it failed: {self.error}")
