"""Contract under test: callers may call an engine's methods in any order. Requests get seats in the
order of the queue. All tokens are those of plain decoding. A bad call changes nothing, and a closed
engine raises an error. The tests use the toy pair on the cpu backend."""

from __future__ import annotations

import itertools
import os
from functools import cache

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sbrt import Engine, EngineConfig, EngineError, InvalidInputError, SamplingParams
from sbrt._core import Toy
from sbrt.methods import AUTO, METHODS
from sbrt.serve.pair import Pair
from tests.common.toys import UNTUNED

VOCAB, LIMIT = 24, 96  # size of the vocabulary, max_model_len
PAIR = Pair(Toy(VOCAB, 5), Toy(VOCAB, 5, noise16=6), None, frozenset(), VOCAB, "float32")
SAMPLINGS = (
    {"temperature": 0},
    {"temperature": 0, "stop_token_ids": [3, 17]},
    {"temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"temperature": 1.0, "seed": 8, "presence_penalty": 0.7, "repetition_penalty": 1.2},
    {"temperature": 0.9, "seed": 9, "bad_words": None, "logit_bias": {4: 2.0}},
    {"temperature": 0.7, "seed": 6, "logprobs": 2, "prompt_logprobs": 1},
)
PROMPTS = st.integers(1, LIMIT - 1).map(lambda n: tuple(7 * i * i % VOCAB for i in range(n)))
REQUESTS = st.tuples(
    PROMPTS, st.sampled_from(range(len(SAMPLINGS))), st.integers(0, 14), st.sampled_from(METHODS)
)
BAD = (
    {"prompt": [[]]},
    {"prompt": [VOCAB]},
    {"prompt": [-1]},
    {"prompt": [1] * LIMIT},
    {"prompt": "text without a tokenizer"},
    {"prompt": [1], "params": SamplingParams(stop_token_ids=[VOCAB])},
    {"prompt": [1], "params": SamplingParams(stop="text")},
    {"prompt": [1], "params": "greedy"},
    {"prompt": [1], "method": "pearl:gamma=60"},
    {"prompt": [1], "method": "no such method"},
)


def open_engine(tuned: bool = False, seats: int = 1) -> Engine:
    """Open an engine. tuned: True if `auto` is among its methods."""
    config = EngineConfig(
        model="toy",
        skip_tokenizer_init=True,
        max_model_len=LIMIT,
        max_num_seqs=seats,
        num_threads=2,
        speculative={"model": "toy", "method": "specbranch"},
    )
    return Engine(config, pair=PAIR, methods=METHODS if tuned else UNTUNED)


def params_of(sampling: int, budget: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=budget, min_tokens=min(sampling, budget), **SAMPLINGS[sampling]
    )


@cache
def alone() -> Engine:
    return open_engine()


@cache
def plain(prompt: tuple[int, ...], sampling: int, budget: int) -> tuple[list[int], str]:
    """Return (tokens, finish reason) of plain decoding by an engine that does nothing else."""
    [output] = alone().generate(list(prompt), params_of(sampling, budget), method="none")
    return output.outputs[0].token_ids, output.outputs[0].finish_reason


class Callers(RuleBasedStateMachine):
    """Makes random calls to an engine and checks the results.

    told: unfinished requests that `step` runs, in the order of the queue. tuned: True if the engine
    has `auto` in place of `none`, as about every fourth engine has.
    """

    @initialize(
        tuned=st.sampled_from([False, False, False, True]), seats=st.sampled_from([1, 2, 8])
    )
    def start(self, tuned, seats):
        self.tuned, self.seats = tuned, seats
        self.engine: Engine | None = open_engine(tuned, seats)
        self.ids = map(str, itertools.count())
        self.told: dict[str, tuple] = {}  # {id: (prompt, sampling, budget)}
        self.seen: dict[str, int] = {}  # {id: number of tokens so far}
        self.free: list[str] = []  # ids of finished requests, which may be used again
        self.streams: list[tuple] = []  # (iterator, prompt, sampling, budget)

    def teardown(self):
        if self.engine is not None:
            while self.engine.has_unfinished_requests():
                self.check(self.engine.step())
            assert not self.told
            self.generate([((1, 2, 3), 2, 9, METHODS[-1])])
            self.engine.close()

    def how(self, method):
        if self.tuned:
            return AUTO if method == "none" else method
        return "hedge" if method == AUTO else method

    def check(self, outputs):
        """Check outputs of `step`. A request with an output must be among the first `seats`
        requests of the queue. Its tokens must be a prefix of those of plain decoding."""
        for output in outputs:
            assert output.request_id in self.told
            tokens, finish = plain(*self.told[output.request_id])
            [answer] = output.outputs
            before = self.seen.get(output.request_id, 0)
            assert answer.token_ids == tokens[: len(answer.token_ids)]
            assert len(answer.token_ids) > before or output.finished
            self.seen[output.request_id] = len(answer.token_ids)
            assert list(self.told).index(output.request_id) < self.seats
            if output.finished:
                assert (answer.token_ids, answer.finish_reason) == (tokens, finish)
                self.forget(output.request_id)

    def forget(self, name):
        del self.told[name]
        self.seen.pop(name, None)
        self.free.append(name)

    # --- rules ---

    is_open = precondition(lambda self: self.engine is not None)

    @is_open
    @rule(request=REQUESTS, again=st.booleans())
    def add(self, request, again):
        *what, method = request
        name = self.free.pop() if again and self.free else next(self.ids)
        self.engine.add_request(name, list(what[0]), params_of(*what[1:]), method=self.how(method))
        self.told[name] = tuple(what)

    @is_open
    @rule(pick=st.integers(0, 99))
    def add_an_id_in_use(self, pick):
        live = [r.id for r in self.engine._scheduler.live() if not r.is_drawn]
        if live:
            name = live[pick % len(live)]
            with pytest.raises(InvalidInputError, match="request_id"):
                self.engine.add_request(name, [1])

    @is_open
    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self.check(self.engine.step())

    @is_open
    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=3))
    def generate(self, requests):
        prompts = [list(prompt) for prompt, *_ in requests]
        params = [params_of(sampling, budget) for _, sampling, budget, _ in requests]
        outputs = self.engine.generate(prompts, params, method=self.how(requests[0][3]))
        found = [(o.outputs[0].token_ids, o.outputs[0].finish_reason) for o in outputs]
        assert found == [plain(*request[:3]) for request in requests]

    @is_open
    @rule(request=REQUESTS)
    def stream(self, request):
        *what, method = request
        params, method = params_of(*what[1:]), self.how(method)
        outputs = self.engine.stream(list(what[0]), params, method=method)
        self.streams.append((outputs, *what))

    @is_open
    @precondition(lambda self: self.streams)
    @rule(pick=st.integers(0, 9), times=st.integers(1, 5))
    def consume(self, pick, times):
        outputs, *what = self.streams[pick % len(self.streams)]
        tokens, finish = plain(*what)
        for output in itertools.islice(outputs, times):
            answer = output.outputs[0]
            assert answer.token_ids == tokens[: len(answer.token_ids)]
            if output.finished:
                assert (answer.token_ids, answer.finish_reason) == (tokens, finish)

    @is_open
    @precondition(lambda self: self.streams)
    @rule(pick=st.integers(0, 9), explicit=st.booleans())
    def leave_a_stream(self, pick, explicit):
        outputs, *_ = self.streams.pop(pick % len(self.streams))
        if explicit:
            outputs.close()

    @is_open
    @rule(picks=st.lists(st.integers(0, 99), max_size=3), unknown=st.booleans())
    def abort(self, picks, unknown):
        names = list(self.told) + self.free
        names = {names[pick % len(names)] for pick in picks} if names else set()
        self.engine.abort_request([*names, "never there"] if unknown else names)
        for name in names & self.told.keys():
            self.forget(name)

    @is_open
    @rule(bad=st.sampled_from(BAD), how=st.sampled_from(["generate", "stream", "add_request"]))
    def call_wrongly(self, bad, how):
        given = dict(bad)
        prompt = given.pop("prompt")
        call = getattr(self.engine, how)
        with pytest.raises(InvalidInputError) as caught:
            call(*(["wrong"] if how == "add_request" else []), prompt, **given)
        assert "\n" not in str(caught.value)

    @is_open
    @precondition(lambda self: len(self.told) + len(self.streams) > 1)
    @rule()
    def close(self):
        engine, self.engine = self.engine, None
        engine.close()
        assert not engine.has_unfinished_requests()
        for call in (engine.step, engine.trace, lambda: engine.generate([1])):
            with pytest.raises(EngineError, match="closed"):
                call()
        for outputs, *_ in self.streams:
            with pytest.raises((EngineError, StopIteration)):
                next(outputs)

    @precondition(lambda self: self.engine is None)
    @rule()
    def open_again(self):
        self.start(self.tuned, self.seats)

    @invariant()
    def there_is_work_as_long_as_somebody_waits(self):
        if self.engine is not None:
            if self.told:
                assert self.engine.has_unfinished_requests()
            elif not self.streams:
                assert not self.engine.has_unfinished_requests()
                assert self.engine.step() == []


def examples(count):
    return settings(
        max_examples=count,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TestCallers = Callers.TestCase
# Runs under sanitizers may set another number of examples.
TestCallers.settings = examples(int(os.environ.get("SBRT_EXAMPLES", "40")))


@pytest.mark.exact
def test_callers_for_long():
    run_state_machine_as_test(Callers, settings=examples(500))
