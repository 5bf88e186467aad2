"""Contract under test: requests that run together get the answers that each request gets alone. The
tests use every method, greedy, sampled and shaped, 1 and 2 threads, any order of arrival, and
aborts of other requests. They use `generate` of a list, `step`, and streams of several threads."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import load_pair
from tests.common.toys import GREEDY, answer, fresh, ids_of, toy_engine
from tests.engine.test_same_tokens import METHODS, SAMPLINGS, some_prompts

SEATS = 6
COUNT, MANY = 14, 40  # numbers of requests
GROWTH = 8 * 2**20  # number of bytes by which the allocator itself may grow
METHODS_OF_SEATS = ("none", "draft_model", "specbranch")


@pytest.fixture(scope="module", params=[1, 2])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    config = EngineConfig(
        model=demo_folder("target"),
        num_threads=request.param,
        max_num_seqs=SEATS,
        speculative={"model": demo_folder("draft")},
    )
    with Engine(config, pair=load_pair(config), methods=METHODS) as engine:
        yield engine


def params_of(i: int, sampling: str) -> SamplingParams:
    """Return the params of request i. The answers' lengths differ, so that seats get free at
    different times."""
    return SamplingParams(
        seed=i, max_tokens=8 + 7 * i % 41, ignore_eos=i % 8 != 0, **SAMPLINGS[sampling]
    )


def resident() -> int:
    """Return the bytes that the process has in memory now; 0 if the system does not tell."""
    status = Path("/proc/self/statm")
    pages = int(status.read_text().split()[1]) if status.is_file() else 0
    return pages * resource.getpagesize()


def summary(output) -> tuple:
    [answer] = output.outputs
    return answer.token_ids, answer.text, answer.finish_reason, answer.stop_reason


def run_together(engine: Engine, sampling: str, seed: int, count: int) -> dict[str, tuple]:
    """Run requests that arrive at random, with several methods; return {name: summary}. A few
    additional requests are aborted while these run."""
    rng, found = Random(seed), {}
    prompts = some_prompts(count)
    waiting = [(f"{i}", prompts[i], params_of(i, sampling), METHODS[i % len(METHODS)])
               for i in rng.sample(range(count), count)]  # fmt: skip
    while waiting or engine.has_unfinished_requests():
        if waiting and rng.random() < 0.5:
            name, prompt, params, method = waiting.pop()
            engine.add_request(name, prompt, params, method=method)
            if rng.random() < 0.3:  # this request will be aborted
                engine.add_request(f"late {name}", prompt[::-1], params, method=method)
        for output in engine.step():
            if output.finished:
                found[output.request_id] = summary(output)
            elif output.request_id.startswith("late") and rng.random() < 0.3:
                engine.abort_request(output.request_id)
    return {name: found[name] for name in found if not name.startswith("late")}


@cache
def answers_alone(engine: Engine, sampling: str, count: int) -> list[tuple]:
    return [
        summary(engine.generate(prompt, params_of(i, sampling), method="none")[0])
        for i, prompt in enumerate(some_prompts(count))
    ]


@pytest.mark.parametrize("count", [COUNT, pytest.param(MANY, marks=pytest.mark.exact)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_answers_do_not_depend_on_company(engine: Engine, sampling: str, count: int) -> None:
    found = run_together(engine, sampling, len(sampling), count)
    assert [found[f"{i}"] for i in range(count)] == answers_alone(engine, sampling, count)


@pytest.mark.parametrize("method", ["none", "specbranch", "auto"])
def test_a_list_is_answered_in_order_by_rounds_that_are_shared(engine: Engine, method: str) -> None:
    prompts = some_prompts(COUNT)
    params = [params_of(i, "greedy") for i in range(COUNT)]
    found = [summary(o) for o in engine.generate(prompts, params, method=method)]
    assert found == answers_alone(engine, "greedy", COUNT)


def test_rounds_are_shared() -> None:
    """Eight requests of forty tokens take about forty rounds, not 320, because a round serves all
    of them."""
    with toy_engine(max_num_seqs=8) as engine:
        for i in range(8):
            engine.add_request(f"{i}", [i + 1], GREEDY, method="none")
        steps, most, found = 0, 0, {}
        while engine.has_unfinished_requests():
            outputs = engine.step()
            steps += 1
            most = max(most, len(outputs))
            found |= {o.request_id: ids_of(o) for o in outputs}
        assert found == {f"{i}": fresh([i + 1]) for i in range(8)}
        assert most == 8
        assert steps < 60


def test_a_long_prompt_holds_the_others_up_by_pieces() -> None:
    """The long prompt is fed in pieces. During its prefill every step gives the other request a
    token."""
    with toy_engine(max_num_seqs=2) as engine:
        params = SamplingParams(temperature=0, max_tokens=200)
        engine.add_request("short", [1], params, method="none")
        engine.step()
        engine.add_request("long", [i % 31 for i in range(1500)], params, method="none")
        lengths = []
        while len(lengths) < 20:
            lengths += [len(ids_of(o)) for o in engine.step() if o.request_id == "short"]
        assert lengths == list(range(lengths[0], lengths[0] + 20))


def test_the_first_to_come_is_the_first_to_start() -> None:
    with toy_engine(max_num_seqs=2) as engine:
        for i in range(6):
            engine.add_request(f"{i}", [i + 1] * 5, GREEDY, method="none")
        seen: list[str] = []
        while engine.has_unfinished_requests():
            seen += [o.request_id for o in engine.step() if o.request_id not in seen]
        assert seen == [f"{i}" for i in range(6)]


def test_streams_of_several_threads_run_together() -> None:
    with toy_engine(max_num_seqs=4) as engine:
        found: dict[int, list[int]] = {}

        def read(i: int) -> None:
            for output in engine.stream([i + 1] * 3, GREEDY):
                found[i] = list(ids_of(output))

        threads = [threading.Thread(target=read, args=(i,)) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {i: fresh([i + 1] * 3) for i in range(10)}


@pytest.mark.parametrize(
    ("count", "seats"), [(300, 3), pytest.param(10_000, 8, marks=pytest.mark.exact)]
)
def test_seats_come_back(count: int, seats: int) -> None:
    """Many requests of three methods run, and some are aborted. All other requests, and one that
    then runs alone, get the right answers. Memory does not grow."""
    rng, before = Random(5), 0
    with toy_engine(max_num_seqs=seats, methods=METHODS_OF_SEATS) as engine:
        params = SamplingParams(temperature=0, max_tokens=12)
        wanted = {k: fresh([k] * 3, params) for k in range(1, 9)}
        names = [f"{i}" for i in range(count)]
        while names or engine.has_unfinished_requests():
            if names and rng.random() < 0.7:
                name = names.pop()
                method = METHODS_OF_SEATS[int(name) % len(METHODS_OF_SEATS)]
                engine.add_request(name, [1 + int(name) % 8] * 3, params, method=method)
                if len(names) == count // 2:
                    before = resident()
            for output in engine.step():
                if output.finished:
                    assert ids_of(output) == wanted[1 + int(output.request_id) % 8]
                elif rng.random() < 0.1:
                    engine.abort_request(output.request_id)
        assert answer(engine, [5] * 3, params) == wanted[5]
        # A leak of a few KB per request would show after 5,000 requests, but not after 150.
        assert resident() - before < GROWTH


def test_a_sequence_that_fails_does_not_end_the_others() -> None:
    with toy_engine(target={"nan_at": 30}, max_num_seqs=3) as engine:
        many = engine.generate(
            [[1] * 3, [2] * 40, [3] * 3], SamplingParams(temperature=0, max_tokens=20)
        )
        assert [o.outputs[0].finish_reason for o in many] == ["length", "length", "length"]
        long = SamplingParams(temperature=0, max_tokens=60)
        engine.add_request("fails", [1] * 3, long)
        engine.add_request("lives", [2] * 40, long)
        reasons = {}
        while engine.has_unfinished_requests():
            reasons |= {o.request_id: o.outputs[0].finish_reason for o in engine.step()}
        assert reasons == {"fails": "error", "lives": "length"}


def test_more_seats_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="max_num_seqs"):
        toy_engine(max_num_seqs=65)
