"""Contract under test: a signal handler may call the engine at every moment of another call, and
both answers are right. on_prefill may call the engine, too. A call by a destructor inside another
call of the same thread raises EngineError."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import sbrt
from sbrt import Engine, EngineError, SamplingParams
from sbrt.serve.scheduler import Scheduler
from tests.common.toys import GREEDY, PROMPT, answer, fresh, ids_of, toy_engine

LONG = SamplingParams(temperature=0, max_tokens=300)
SHORT = SamplingParams(temperature=0, max_tokens=5)
ENDLESS = SamplingParams(temperature=0, max_tokens=None)


def one_engine(**fields: object) -> Engine:
    """Return an engine with one method. It opens fast, because it measures no costs."""
    return toy_engine(methods=(), **fields)


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """alarm(call): installs a handler of SIGALRM that makes the call `call`."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda call: signal.signal(signal.SIGALRM, lambda *_: call())
    signal.signal(signal.SIGALRM, before)


def send() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """during(method, call): makes `call` once while the scheduler's method `method` runs."""

    def plant(method: str, call: Callable[[], object]) -> None:
        inner, calls = getattr(Scheduler, method), [call]

        def wrapped(self: Scheduler, *given: object) -> object:
            if calls:
                calls.pop()()
            return inner(self, *given)

        monkeypatch.setattr(Scheduler, method, wrapped)

    return plant


def interrupt(engine: Engine, call: Callable[[], object]) -> None:
    """Make `call` once, right after the engine has waited for a round."""
    real, calls = engine._scheduler._engine_core, [call]

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def advance(self, **given: object) -> None:
            real.advance(**given)
            if calls:
                calls.pop()()

    engine._scheduler._engine_core = Interrupted()


def outer(engine: Engine, how: str, params: SamplingParams = LONG) -> list[int]:
    if how == "generate":
        return answer(engine, PROMPT[:20], params)
    if how == "stream":
        return ids_of(list(engine.stream(PROMPT[:20], params))[-1])
    engine.add_request("outer", PROMPT[:20], params)
    found = []
    while engine.has_unfinished_requests():
        found += [output for output in engine.step() if output.request_id == "outer"]
    return ids_of(found[-1])


@contextmanager
def at_every_bytecode(call: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Make `call` between any two bytecodes of sbrt in this thread. Yield a function that returns
    how many calls were made."""
    here, count = str(Path(sbrt.__file__).parent), itertools.count()

    def trace(frame: FrameType, event: str, arg: object) -> object:
        if not frame.f_code.co_filename.startswith(here):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            next(count)
            call()  # Python does not trace this call
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: next(count)
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("how", ["generate", "stream", "step"])
def test_a_handler_that_generates_at_every_moment_of_a_call(how, alarm) -> None:
    """A helper thread makes the engine calls of the main thread. In this test the handler runs at
    any moment of the main thread. In the next tests it runs at chosen moments of the call
    itself."""
    # few tokens, because the handler runs thousands of times
    two = SamplingParams(temperature=0, max_tokens=2)
    want, inner = fresh(PROMPT[:20], SHORT), fresh(PROMPT[:9], two)
    found: list[list[int]] = []
    with one_engine() as engine:

        def handler() -> None:
            found.append(answer(engine, PROMPT[:9], two, method="none"))

        # As this program has a signal handler, a helper thread makes the main thread's calls.
        # Instead of signals, the trace calls `handler`.
        alarm(lambda: None)
        with at_every_bytecode(handler) as moments:
            assert outer(engine, how, SHORT) == want
        assert moments() == len(found) > 500
        assert all(ids == inner for ids in found)


@pytest.mark.parametrize("how", ["generate", "stream", "step"])
def test_a_handler_that_generates_while_the_engine_waits_for_a_round(how, alarm) -> None:
    """The signal arrives inside the core. Both answers are those of a new engine."""
    want, inner = fresh(PROMPT[:20], LONG), fresh(PROMPT[:9], SHORT)
    with one_engine() as engine:
        found: list[list[int]] = []
        alarm(lambda: found.append(answer(engine, PROMPT[:9], SHORT)))
        interrupt(engine, send)
        assert outer(engine, how) == want
        assert found == [inner]


@pytest.mark.parametrize(
    "method", ["drop_late", "_advance", "_start", "_run", "_file_last", "_take_tokens", "_end"]
)
@pytest.mark.parametrize("how", ["generate", "stream", "step"])
def test_a_handler_that_generates_while_a_call_is_half_done(how, method, alarm, during) -> None:
    want, inner = fresh(PROMPT[:20], LONG), fresh(PROMPT[:9], SHORT)
    with one_engine() as engine:
        found: list[list[int]] = []
        begun = threading.Event()

        def handler() -> None:
            begun.set()
            found.append(answer(engine, PROMPT[:9], SHORT))

        def half_done() -> None:
            assert threading.current_thread() is not threading.main_thread()
            send()
            assert begun.wait(60)  # the handler has begun, and the interrupted call is not done

        alarm(handler)
        during(method, half_done)
        assert outer(engine, how) == want
        assert found == [inner]


CALLS = [
    lambda engine: engine.close(),
    lambda engine: engine.abort_request("generate-0"),
    lambda engine: engine.has_unfinished_requests(),
    lambda engine: engine.add_request("x", [1], SHORT),
    lambda engine: engine.step(),
    lambda engine: engine.rounds(),
    lambda engine: engine.trace(),
    lambda engine: engine.measure_costs(0.01),
    lambda engine: next(engine.stream([1], SHORT)),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_by_a_handler_while_another_is_half_done(call, alarm, during) -> None:
    """The interrupted call ends first, then the handler's call is made."""
    with one_engine() as engine:
        done: list[object] = []
        alarm(lambda: done.append((call(engine), None)))
        during("_file_last", send)
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])
        assert len(done) == 1


@pytest.mark.parametrize("call", CALLS)
def test_every_call_by_a_destructor_inside_another_is_refused(call, during) -> None:
    with one_engine() as engine:
        during("_file_last", lambda: call(engine))
        with pytest.raises(EngineError, match="inside another call"):
            answer(engine, PROMPT[:20])
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


def test_a_handler_that_closes_the_engine_during_a_round(alarm) -> None:
    with one_engine(max_model_len=1 << 16) as engine:
        alarm(engine.close)
        interrupt(engine, send)
        with pytest.raises(EngineError, match="closed"):
            list(engine.stream(PROMPT[:20], ENDLESS))


def test_a_handler_that_aborts_during_a_round(alarm) -> None:
    with one_engine(max_model_len=1 << 16) as engine:
        alarm(lambda: engine.abort_request("generate-0"))
        interrupt(engine, send)
        [output] = engine.generate(PROMPT[:20], ENDLESS)
        assert output.outputs[0].finish_reason == "abort"
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


def test_what_a_handler_raises_ends_one_call_and_no_other(alarm) -> None:
    """Before the handler raises, its own calls begin another request."""
    with one_engine() as engine:

        def handler() -> None:
            answer(engine, PROMPT[:9], SHORT)
            engine.add_request("own", PROMPT[:20], GREEDY)
            engine.step()
            raise KeyError("of the handler")

        alarm(handler)
        interrupt(engine, send)
        with pytest.raises(KeyError, match="of the handler"):
            answer(engine, PROMPT[:30])
        found = []
        while engine.has_unfinished_requests():
            found += engine.step()
        assert ids_of(found[-1]) == fresh(PROMPT[:20])


@pytest.mark.parametrize("error", [KeyError, EngineError])
def test_what_a_handler_raises_in_a_step_ends_the_step_and_no_request(error, alarm) -> None:
    """As with Ctrl-C, the results of a round that ran are kept."""
    with one_engine() as engine:

        def handler() -> None:
            raise error("of the handler")

        def wait_for_it() -> None:
            send()
            while engine._scheduler.turns.interruption is None:
                time.sleep(0.001)

        engine.add_request("a", PROMPT[:30], LONG)
        engine.add_request("b", PROMPT[:20], GREEDY)
        alarm(handler)
        interrupt(engine, wait_for_it)
        with pytest.raises(error, match="of the handler"):
            engine.step()
        found = {}
        while engine.has_unfinished_requests():
            found |= {output.request_id: ids_of(output) for output in engine.step()}
        assert found == {"a": fresh(PROMPT[:30], LONG), "b": fresh(PROMPT[:20])}


def test_what_a_handler_raises_ends_a_call_that_waits_for_another_thread(alarm) -> None:
    """The main thread's call waits for another thread's call. If a signal
    handler raises an error meanwhile, the waiting call raises it and does not begin."""
    with one_engine() as engine:
        turns, held, raised = engine._scheduler.turns, threading.Event(), threading.Event()
        seen: list[bool] = []

        def hold() -> None:
            with turns.lock:
                held.set()
                while not turns.waiting:
                    time.sleep(0.001)
                send()
                seen.append(raised.wait(60))

        def handler() -> None:
            raised.set()
            raise KeyError("of the handler")

        alarm(handler)
        other = threading.Thread(target=hold, daemon=True)
        other.start()
        held.wait()
        with pytest.raises(KeyError, match="of the handler"):
            answer(engine, PROMPT[:20])
        other.join()
        assert seen == [True]
        assert not engine.has_unfinished_requests()
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


def test_a_thread_aside_is_made_for_handlers_alone_and_ends_with_the_engine(alarm) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    engine = one_engine()
    answer(engine, PROMPT[:20])
    before = threads()
    alarm(lambda: None)
    answer(engine, PROMPT[:20])
    answer(engine, PROMPT[:20])
    assert threads() == before + 1
    engine.close()
    del engine
    gc.collect()
    wanted, patience = before, time.monotonic() + 60
    while threads() >= wanted and time.monotonic() < patience:
        time.sleep(0.001)
    assert threads() < wanted


def test_on_prefill_may_call_the_engine_and_is_not_called_inside_itself() -> None:
    with one_engine(target={"gate_at": 300}) as engine:
        found: list[list[int]] = []

        def on_prefill(done: int, total: int) -> None:
            engine.pair.target.open_gate()
            found.append(answer(engine, PROMPT[:9], SHORT))

        engine.on_prefill = on_prefill
        assert answer(engine, PROMPT) == fresh(PROMPT)
        assert found[0] == fresh(PROMPT[:9], SHORT)


@pytest.mark.parametrize("how", ["generate", "step"])
def test_what_on_prefill_raises_drops_the_request(how) -> None:
    with one_engine(target={"gate_at": 300}) as engine:

        def on_prefill(done: int, total: int) -> None:
            raise KeyError("of on_prefill")

        engine.on_prefill = on_prefill
        if how == "generate":
            with pytest.raises(KeyError, match="of on_prefill"):
                engine.generate(PROMPT, GREEDY)
        else:
            engine.add_request("a", PROMPT, GREEDY)
            with pytest.raises(KeyError, match="of on_prefill"):
                engine.step()
        engine.on_prefill = None
        engine.pair.target.open_gate()
        if how == "step":
            assert [output.outputs[0].finish_reason for output in engine.step()] == ["abort"]
        assert not engine.has_unfinished_requests()
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


@pytest.mark.parametrize("method", ["_start", "_file_last", "_take_tokens"])
def test_a_stream_that_a_collection_drops_inside_another_call(method, during) -> None:
    """The destructor cannot drop the request immediately; the next call drops it."""
    with one_engine() as engine:
        cycle: list[object] = [engine.stream(PROMPT[:30], GREEDY)]
        next(cycle[0])
        cycle.append(cycle)
        engine.add_request("after", PROMPT[:20], GREEDY)
        del cycle
        during(method, gc.collect)
        found = []
        while engine.has_unfinished_requests():
            found += engine.step()
        assert ids_of(found[-1]) == fresh(PROMPT[:20])


def test_a_call_inside_one_of_another_engine_is_no_inner_call(during) -> None:
    with one_engine() as engine, one_engine() as other:
        found: list[list[int]] = []
        during("_file_last", lambda: found.append(answer(other, PROMPT[:9])))
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])
        assert found == [fresh(PROMPT[:9])]
