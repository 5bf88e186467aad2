"""Contract under test: AsyncEngine gives every request the answer that Engine gives, with any
number of event loops in parallel. A caller that leaves frees its seat. A slow reader gets larger
outputs and delays no other reader. If the engine fails, every caller that waits gets the error."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import aclosing
from dataclasses import replace

import pytest

from sbrt import (
    AsyncEngine,
    EngineError,
    InvalidInputError,
    RequestOutputKind,
    SamplingParams,
)
from sbrt.pump import Order, Stream
from tests.common.toys import PROMPT, answer, toy_engine

GREEDY = SamplingParams(temperature=0, max_tokens=40)
ENDLESS = SamplingParams(temperature=0, max_tokens=10**6)  # such requests are always aborted
DELTA, FINAL = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
METHOD = "pearl"


@pytest.fixture
def served():
    with AsyncEngine(toy_engine(num_threads=1, max_model_len=2**20)) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain():
    """plain(n, params=GREEDY): returns an Engine's answer to the first n tokens of PROMPT."""
    with toy_engine(num_threads=1) as engine:
        yield lambda n, params=GREEDY: answer(engine, PROMPT[:n], params, method=METHOD)


async def outputs_of(engine, n=5, params=GREEDY, request_id=None, **more):
    given = engine.generate(PROMPT[:n], params, request_id, method=METHOD, **more)
    return [output async for output in given]


def ids_of(output):
    return output.outputs[0].token_ids


async def until_idle(engine):
    """Wait until the pump, the thread that runs the engine, has handled all earlier calls. Return
    True if no request is unfinished."""
    await engine.abort("nobody")
    return not engine.engine.has_unfinished_requests()


def test_many_requests_at_once_get_the_answers_they_get_alone(served, plain):
    async def run():
        return await asyncio.gather(*(outputs_of(served, n) for n in range(1, 12)))

    for n, outputs in enumerate(asyncio.run(run()), start=1):
        assert ids_of(outputs[-1]) == plain(n)
        assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]
        assert all(o.prompt_token_ids == PROMPT[:n] for o in outputs)


def test_the_kinds_of_outputs(served, plain):
    everything = asyncio.run(outputs_of(served))
    assert all(ids_of(o) == plain(5)[: len(ids_of(o))] for o in everything)
    parts = asyncio.run(outputs_of(served, output_kind=DELTA))
    assert [i for o in parts for i in ids_of(o)] == plain(5)
    [last] = asyncio.run(outputs_of(served, output_kind=FINAL))
    assert ids_of(last) == plain(5)
    assert last.outputs[0].finish_reason == "length"
    assert last.outputs[0].spec_decode_metrics["num_spec_steps"] > 0


def test_text_is_the_same_in_parts_and_at_once():
    params = SamplingParams(temperature=0, max_tokens=12)

    async def run(engine):
        parts = [o async for o in engine.generate("def area(", params, output_kind=DELTA)]
        [whole] = [o async for o in engine.generate("def area(", params, output_kind=FINAL)]
        return parts, whole

    pearl = {"method": "pearl"}  # `auto` spends seconds on measurements
    with AsyncEngine.from_pretrained("demo", "demo", num_threads=1, speculative=pearl) as engine:
        parts, whole = asyncio.run(run(engine))
        [want] = engine.engine.generate("def area(", params)
    assert "".join(o.outputs[0].text for o in parts) == whole.outputs[0].text
    assert whole.outputs[0].text == want.outputs[0].text == whole.delta
    assert whole.prompt == "def area("
    assert whole.prompt_token_ids == want.prompt_token_ids


def test_answers_to_one_prompt_and_seed_differ_and_the_first_is_that_of_one(served):
    params = SamplingParams(seed=7, max_tokens=20)

    async def run():
        several = [outputs_of(served, params=params, completion=i) for i in range(3)]
        return [ids_of(outputs[-1]) for outputs in await asyncio.gather(*several)]

    with toy_engine(num_threads=1) as engine:
        alone = answer(engine, PROMPT[:5], params, method="none")
    first, *others = asyncio.run(run())
    assert first == alone
    assert len({tuple(first), *map(tuple, others)}) == 3
    assert asyncio.run(run()) == [first, *others]


def test_a_closed_generator_frees_the_engine(served, plain):
    async def run():
        async with aclosing(served.generate(PROMPT[:5], ENDLESS, method=METHOD)) as outputs:
            async for _ in outputs:
                break
        assert await until_idle(served)
        return await outputs_of(served)

    assert ids_of(asyncio.run(run())[-1]) == plain(5)


def test_a_cancelled_task_frees_the_engine(served, plain):
    async def run():
        tasks = [asyncio.create_task(outputs_of(served, n, ENDLESS)) for n in (3, 4)]
        await asyncio.sleep(0)  # one request runs; the other may not have begun
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in done)
        assert await until_idle(served)
        return await outputs_of(served)

    assert ids_of(asyncio.run(run())[-1]) == plain(5)


def test_abort_gives_a_last_output_with_the_tokens_so_far(served):
    async def run():
        stream = served.generate(PROMPT[:5], ENDLESS, "running", method=METHOD)
        first = await anext(stream)
        waiting = asyncio.create_task(outputs_of(served, 5, ENDLESS, "queued"))
        await asyncio.sleep(0)
        await served.abort(["running", "queued", "unknown"])
        return [first, *[o async for o in stream]], await waiting

    running, queued = asyncio.run(run())
    assert running[-1].outputs[0].finish_reason == "abort"
    assert running[-1].finished
    count = len(ids_of(running[0]))
    assert ids_of(running[-1])[:count] == ids_of(running[0])
    [last] = queued
    assert last.outputs[0].finish_reason == "abort"
    assert last.prompt_token_ids == PROMPT[:5]
    assert ids_of(last) == []


def test_a_slow_reader_gets_larger_parts_and_holds_up_nobody(served, plain):
    async def run():
        slow = served.generate(PROMPT[:5], GREEDY, output_kind=DELTA, method=METHOD)
        parts = [ids_of(await anext(slow))]
        others = [ids_of((await outputs_of(served, n))[-1]) for n in (2, 3)]
        parts += [ids_of(o) async for o in slow]
        return parts, others

    parts, others = asyncio.run(run())
    assert others == [plain(2), plain(3)]
    assert len(parts) <= 2  # the first output, and one output that joins all later ones
    assert [i for ids in parts for i in ids] == plain(5)


def test_several_loops_share_an_engine(served, plain):
    found = {}

    def work(n):
        found[n] = ids_of(asyncio.run(outputs_of(served, n))[-1])

    threads = [threading.Thread(target=work, args=[n]) for n in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: plain(n) for n in (1, 2, 3, 4)}


def test_a_loop_that_was_closed_under_a_request_loses_it(served, plain):
    loop = asyncio.new_event_loop()
    stream = served.generate(PROMPT[:5], ENDLESS, method=METHOD)
    loop.run_until_complete(anext(stream))
    loop.close()
    assert ids_of(asyncio.run(outputs_of(served))[-1]) == plain(5)
    assert asyncio.run(until_idle(served))


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_a_loop_that_was_closed_before_it_took_an_output_is_noticed(kind):
    async def make():
        return Stream(None, "a", None, [1])

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(make())
    stream.kind = kind
    output = replace(stream.aborted(), finished=False)
    assert stream.put(output)
    assert stream.put(output)  # the event loop has not taken the first output yet
    loop.close()
    assert not stream.put(output)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": []}, "at least one token"),
        ({"prompt": [99]}, "token id"),
        ({"prompt": "text"}, "skip_tokenizer_init"),
        ({"prompt": 7}, "prompt"),
        ({"sampling_params": 7}, "SamplingParams"),
        ({"method": "magic"}, "magic"),
        ({"completion": -1}, "completion"),
        ({"request_id": ""}, "request_id"),
    ],
    ids=lambda given: next(iter(given.values())) if isinstance(given, dict) else "",
)
def test_a_bad_request_is_refused_alone(served, plain, given, message):
    async def run():
        good = asyncio.create_task(outputs_of(served))
        with pytest.raises(InvalidInputError, match=message):
            async for _ in served.generate(**({"prompt": [1], "sampling_params": GREEDY} | given)):
                pass
        return await good

    assert ids_of(asyncio.run(run())[-1]) == plain(5)


def test_an_id_in_use_is_refused(served):
    async def run():
        async with aclosing(served.generate([1], ENDLESS, "a")) as first:
            await anext(first)
            with pytest.raises(InvalidInputError, match="'a'"):
                await anext(served.generate([1], GREEDY, "a"))
            assert not (await anext(first)).finished

    asyncio.run(run())


def test_an_engine_that_fails_tells_everybody(served, monkeypatch):
    async def run():
        tasks = [asyncio.create_task(outputs_of(served, n, ENDLESS)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        monkeypatch.setattr(served.engine, "step", broken)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in done] == [message] * 3
        with pytest.raises(EngineError, match="the device broke"):
            await served.check_health()
        with pytest.raises(EngineError, match="the device broke"):
            await outputs_of(served)
        with pytest.raises(EngineError, match="the device broke"):
            await served.abort("x")

    def broken():
        raise EngineError("the device broke")

    message = "AsyncEngine: expected a working engine, it failed: the device broke"
    asyncio.run(served.check_health())
    assert served.is_running
    asyncio.run(run())
    assert served.errored
    assert not served.is_running


def failing_engine(seats=1):
    """Return an engine in which a forward with position 300 throws."""
    fields = {"num_threads": 1, "max_model_len": 2**20, "max_num_seqs": seats}
    return toy_engine(target={"throw_at": 300}, **fields)


def test_a_request_that_the_engine_fails_ends_alone(plain):
    async def run(engine):
        good = [outputs_of(engine, n) for n in (1, 2, 3)]
        bad = outputs_of(engine, 290)
        done = await asyncio.gather(good[0], bad, *good[1:], return_exceptions=True)
        await engine.check_health()
        return done, await outputs_of(engine)

    with AsyncEngine(failing_engine()) as engine:
        (first, error, *others), last = asyncio.run(run(engine))
        assert not engine.errored
    assert isinstance(error, EngineError)
    assert "position 300" in str(error)
    assert [ids_of(outputs[-1]) for outputs in (first, *others)] == [plain(n) for n in (1, 2, 3)]
    assert ids_of(last[-1]) == plain(5)


def test_requests_that_share_the_round_that_fails_end_and_the_others_go_on(plain):
    async def run(engine):
        sharing = [outputs_of(engine, 290, request_id=name) for name in ("a", "b")]
        queued = [outputs_of(engine, n) for n in (1, 2, 3)]
        done = await asyncio.gather(*sharing, *queued, return_exceptions=True)
        await engine.check_health()
        return done

    with AsyncEngine(failing_engine(seats=2)) as engine:
        *shared, one, two, three = asyncio.run(run(engine))
        assert not engine.engine.has_unfinished_requests()
    assert all("position 300" in str(error) for error in shared)
    assert [ids_of(outputs[-1]) for outputs in (one, two, three)] == [plain(n) for n in (1, 2, 3)]


def test_an_engine_that_fails_request_after_request_is_broken():
    async def run(engine):
        for _ in range(2):
            with pytest.raises(EngineError, match="position 300"):
                await outputs_of(engine, 290)
        # A complete answer in between shows that the engine still works.
        await outputs_of(engine)
        for _ in range(3):
            with pytest.raises(EngineError, match="position 300"):
                await outputs_of(engine, 290)
        with pytest.raises(EngineError, match="position 300"):
            await engine.check_health()

    with AsyncEngine(failing_engine()) as engine:
        asyncio.run(run(engine))
        assert engine.errored


def test_an_error_that_ends_several_requests_ends_no_other(served, plain, monkeypatch):
    """If an engine fails in a round, each request with a seat gets one error. Later errors must not
    reach other requests."""
    real, state = served.engine.step, {"errors": 0, "live": None}

    def step():
        if state["errors"]:
            state["errors"] -= 1
            raise EngineError("the round broke")
        return real()

    async def run():
        lost = [asyncio.create_task(outputs_of(served, n, ENDLESS, f"lost-{n}")) for n in (1, 2)]
        good = asyncio.create_task(outputs_of(served, 3, GREEDY, "good"))
        await asyncio.sleep(0)

        def break_two():
            served.engine.abort_request(["lost-1", "lost-2"])
            state["errors"] = 2

        await served._ask(break_two)
        return await asyncio.gather(*lost, return_exceptions=True), await good

    monkeypatch.setattr(served.engine, "step", step)
    lost, good = asyncio.run(run())
    assert [str(error) for error in lost] == ["the round broke"] * 2
    assert ids_of(good[-1]) == plain(3)
    assert not served.errored


def test_a_delta_costs_no_copy_of_the_answer(served, plain, monkeypatch):
    """The whole text and all ids are computed only if a caller reads them. Here no caller does."""
    handed, real = [], served.engine.step

    def step():
        outputs = real()
        handed.extend(outputs)
        return outputs

    monkeypatch.setattr(served.engine, "step", step)
    parts = asyncio.run(outputs_of(served, output_kind=DELTA))
    assert [i for o in parts for i in ids_of(o)] == plain(5)
    assert [i for o in parts for i in o.delta_token_ids] == plain(5)
    assert len(handed) > 3
    assert not any(vars(o.outputs[0]).keys() & {"token_ids", "text"} for o in handed)


def test_close_fails_what_is_unfinished():
    engine = AsyncEngine(toy_engine(num_threads=1, max_model_len=2**20))

    async def run():
        stream = engine.generate(PROMPT[:5], ENDLESS, method=METHOD)
        await anext(stream)
        engine.close()
        with pytest.raises(EngineError, match="has been closed"):
            async for _ in stream:
                pass
        with pytest.raises(EngineError, match="has been closed"):
            await anext(engine.generate([1], GREEDY))

    asyncio.run(run())
    assert not engine.is_running
    assert not engine.errored
    engine.close()
    with pytest.raises(EngineError, match="has been closed"):
        engine.engine.generate([1])


def test_nothing_follows_the_last_output(served):
    async def run():
        stream = await served.add_request([1], Order(SamplingParams(max_tokens=0)))
        assert (await stream.next()).finished
        with pytest.raises(EngineError, match="it has ended"):
            await stream.next()

    asyncio.run(run())


def test_close_raises_once_what_the_engine_s_close_raised(monkeypatch):
    engine = AsyncEngine(toy_engine(num_threads=1))
    real = engine.engine.close

    def broken():
        real()
        raise OSError("the profile: expected a place to write it, got none")

    monkeypatch.setattr(engine.engine, "close", broken)
    with pytest.raises(OSError, match="the profile"):
        engine.close()
    engine.close()


def test_the_pump_sleeps_while_there_is_nothing_to_do(served):
    """The pump's thread does not poll: while it is idle it uses nearly no processor time."""
    asyncio.run(outputs_of(served))
    clock = time.pthread_getcpuclockid(served._pump._thread.ident)
    begin = time.clock_gettime_ns(clock)
    time.sleep(0.3)
    assert time.clock_gettime_ns(clock) - begin < 20_000_000


def test_nobody_s_engine_ends_its_thread():
    engine = AsyncEngine(toy_engine(num_threads=1, max_model_len=2**20))
    thread = engine._pump._thread
    del engine
    thread.join(30)
    assert not thread.is_alive()


def test_a_fork_is_refused(served):
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(outputs_of(served))
        except EngineError as error:
            os._exit(0 if "fork" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
