"""Contract under test: a call of the engine from inside another one of the same thread (a signal
handler, on_prefill, a destructor) is answered rightly or raises EngineError; the outer answer is
right, or the outer call raises."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from toys import GREEDY, PROMPT, answer, fresh, ids_of, toy_engine

from sbrt import Engine, EngineError, SamplingParams
from sbrt.scheduler import Scheduler

LONG = SamplingParams(temperature=0, max_tokens=300)
SHORT = SamplingParams(temperature=0, max_tokens=5)


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """alarm(call): the handler of SIGALRM calls it, whenever the signal comes."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda call: signal.signal(signal.SIGALRM, lambda *_: call())
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def send() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """during(method, call): `call` once, from inside that method of the scheduler."""

    def plant(method: str, call: Callable[[], object]) -> None:
        inner, calls = getattr(Scheduler, method), [call]

        def wrapped(self: Scheduler, *given: object) -> object:
            if calls:
                calls.pop()()
            return inner(self, *given)

        monkeypatch.setattr(Scheduler, method, wrapped)

    return plant


def interrupt(engine: Engine, call: Callable[[], object]) -> None:
    """`call` once, where nearly all signal handlers run: as a wait for a round returns."""
    real, calls = engine._scheduler._runtime, [call]

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def advance(self, **given: object) -> None:
            real.advance(**given)
            if calls:
                calls.pop()()

    engine._scheduler._runtime = Interrupted()


def outer(engine: Engine, how: str) -> list[int]:
    if how == "generate":
        return answer(engine, PROMPT[:20], LONG)
    if how == "stream":
        return ids_of(list(engine.stream(PROMPT[:20], LONG))[-1])
    engine.add_request("outer", PROMPT[:20], LONG)
    found = []
    while engine.has_unfinished_requests():
        found += [output for output in engine.step() if output.request_id == "outer"]
    return ids_of(found[-1])


@pytest.mark.parametrize("how", ["generate", "stream", "step"])
def test_a_handler_that_generates_while_the_engine_waits_for_a_round(how, alarm, during) -> None:
    """The signal comes inside the core: both answers are those of an engine that is alone."""
    want, inner = fresh(PROMPT[:20], LONG), fresh(PROMPT[:9], SHORT)
    with toy_engine() as engine:
        found: list[list[int]] = []
        alarm(lambda: found.append(answer(engine, PROMPT[:9], SHORT)))
        interrupt(engine, send)
        assert outer(engine, how) == want
        assert found == [inner]


@pytest.mark.parametrize("method", ["_start", "_file_last", "_spans"])
@pytest.mark.parametrize("how", ["generate", "stream", "step"])
def test_a_handler_that_generates_while_a_call_is_half_done(how, method, alarm, during) -> None:
    with toy_engine() as engine:
        alarm(lambda: answer(engine, PROMPT[:9], SHORT))
        during(method, send)
        with pytest.raises(EngineError, match="inside another call"):
            outer(engine, how)
        if how == "step":  # the request was dropped, or had just ended
            assert [output.finished for output in engine.step()] == [True]
        assert not engine.has_unfinished_requests()
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.close(),
        lambda engine: engine.abort_request("generate-0"),
        lambda engine: engine.has_unfinished_requests(),
        lambda engine: engine.add_request("x", [1], SHORT),
        lambda engine: engine.step(),
        lambda engine: engine.rounds(),
        lambda engine: engine.trace(),
        lambda engine: next(engine.stream([1], SHORT)),
    ],
)
def test_every_call_inside_a_half_done_one_is_refused(call, during) -> None:
    with toy_engine() as engine:
        during("_file_last", lambda: call(engine))
        with pytest.raises(EngineError, match="inside another call"):
            answer(engine, PROMPT[:20])
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


def test_a_handler_that_closes_the_engine_during_a_round() -> None:
    with toy_engine() as engine:
        interrupt(engine, engine.close)
        with pytest.raises(EngineError, match="closed"):
            answer(engine, PROMPT[:20], LONG)


def test_a_handler_that_aborts_during_a_round() -> None:
    with toy_engine(max_model_len=1 << 16) as engine:
        interrupt(engine, lambda: engine.abort_request("generate-0"))
        endless = SamplingParams(temperature=0, max_tokens=None)
        [output] = engine.generate(PROMPT[:20], endless)
        assert output.outputs[0].finish_reason == "abort"
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


def test_what_a_handler_raises_ends_one_call_and_no_other() -> None:
    """The handler's own call has run the outer request to its end, and begun another."""
    with toy_engine() as engine:

        def handler() -> None:
            answer(engine, PROMPT[:9], SHORT)
            engine.add_request("own", PROMPT[:20], GREEDY)
            engine.step()
            raise KeyError("of the handler")

        interrupt(engine, handler)
        with pytest.raises(KeyError, match="of the handler"):
            answer(engine, PROMPT[:30])
        found = []
        while engine.has_unfinished_requests():
            found += engine.step()
        assert ids_of(found[-1]) == fresh(PROMPT[:20])


def test_on_prefill_that_calls_the_engine_is_refused() -> None:
    with toy_engine(target={"gate_at": 300}) as engine:
        engine.on_prefill = lambda done, total: answer(engine, PROMPT[:9], SHORT)
        with pytest.raises(EngineError, match="inside another call"):
            engine.generate(PROMPT, GREEDY)
        engine.on_prefill = None
        engine.pair.target.open_gate()
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])


@pytest.mark.parametrize("method", ["_start", "_file_last", "_spans"])
def test_a_stream_that_a_collection_drops_inside_another_call(method, during) -> None:
    """Its destructor cannot drop the request at once; the next call does."""
    with toy_engine() as engine:
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
    with toy_engine() as engine, toy_engine() as other:
        found: list[list[int]] = []
        during("_file_last", lambda: found.append(answer(other, PROMPT[:9])))
        assert answer(engine, PROMPT[:20]) == fresh(PROMPT[:20])
        assert found == [fresh(PROMPT[:9])]
