"""Contract under test: an output of a stream is a snapshot, and making one costs the same at the
end of a long answer as at its beginning. Short rounds share an output. Streams, `step` and requests
with stop strings let as many rounds run ahead as `generate` does."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import pickle
import statistics
import tracemalloc

import pytest

from sbrt import CompletionOutput, Engine, SamplingParams
from sbrt.serve import scheduler
from sbrt.serve.request import Request

GREEDY = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
NEVER = "a stop string that never comes"


@pytest.fixture(scope="module")
def long_engine(make, tmp_path_factory):
    """An engine that can answer with 2,000 tokens."""
    folder = make.checkpoint(tmp_path_factory.mktemp("long"), max_position_embeddings=4096)
    with Engine.from_pretrained(folder, num_threads=1) as engine:
        yield engine


def rounds_of(engine, prompt, params, **more):
    """Yield the outputs of one request, one after each round."""
    engine.add_request("rounds", prompt, params, **more)
    while engine.has_unfinished_requests():
        yield from engine.step()


def bytes_by_round(outputs):
    """Return, for each round, the peak of Python's memory, in bytes above its level before the
    round."""
    spent = []
    tracemalloc.start()
    gc.disable()
    try:
        while True:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            if next(outputs, None) is None:
                return spent
            spent.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        gc.enable()
        tracemalloc.stop()


@pytest.mark.parametrize("stop", [None, NEVER])
@pytest.mark.parametrize("prompt", [1, 1500], ids=["short", "long"])
def test_a_round_of_a_stream_costs_the_same_from_first_to_last(long_engine, stop, prompt):
    params = SamplingParams(temperature=0, max_tokens=2000, ignore_eos=True, stop=stop)
    spent = bytes_by_round(rounds_of(long_engine, [7] * prompt, params))
    assert len(spent) == 2000
    first, last = statistics.median(spent[50:250]), statistics.median(spent[-250:-50])
    assert last <= first + 128  # 128 bytes more, because Python caches only small integers


def test_the_text_of_a_request_with_stop_strings_stays_short(long_engine, monkeypatch):
    """Only the last output is read. The text in which stop strings are searched stays short: the
    request drops text that no later stop string can contain."""
    lengths = []
    settle = Request.settle

    def counted(self):
        lengths.append(len(self.text))
        settle(self)

    monkeypatch.setattr(Request, "settle", counted)
    params = SamplingParams(temperature=0, max_tokens=2000, ignore_eos=True, stop=NEVER)
    [output] = long_engine.generate([7], params)
    assert len(output.outputs[0].text) > 1500
    assert max(lengths) < 200


def test_outputs_are_snapshots(engine, plain, prompts):
    method = "pearl"  # the rounds of auto depend on the clock
    outputs = list(rounds_of(engine, prompts[0], GREEDY, method=method))
    late = [(o.outputs[0].token_ids, o.outputs[0].text) for o in reversed(outputs)][::-1]
    early = []
    for output in rounds_of(engine, prompts[0], GREEDY, method=method):
        early.append((output.outputs[0].token_ids, output.outputs[0].text))
    assert late == early
    assert all(type(ids) is list and type(text) is str for ids, text in late)
    late[-1][0].clear()  # the list belongs to the caller
    assert outputs[-2].outputs[0].token_ids == early[-2][0]


def test_an_output_nobody_has_read_is_as_any_other(engine, prompts):
    streams = [list(rounds_of(engine, prompts[0], GREEDY, method="pearl")) for _ in range(2)]
    read, unread = (outputs[3].outputs[0] for outputs in streams)
    ids, text = list(read.token_ids), str(read.text)
    same = CompletionOutput(index=0, text=text, token_ids=ids)
    for made in (
        copy.copy(unread),
        copy.deepcopy(unread),
        pickle.loads(pickle.dumps(unread)),
        dataclasses.replace(unread),
    ):
        assert made == same
    assert repr(unread) == repr(same)
    assert dataclasses.asdict(unread) == dataclasses.asdict(same)
    assert json.loads(json.dumps(dataclasses.asdict(unread)))["token_ids"] == ids
    assert unread == same
    with pytest.raises(AttributeError, match="'logits'"):
        _ = unread.logits
    with pytest.raises(dataclasses.FrozenInstanceError):
        unread.text = ""


def test_a_caller_who_changes_the_prompt_s_ids_changes_no_token(engine, plain, prompts):
    prompt = engine.encode(prompts[0])
    given = list(prompt)
    outputs = []
    for output in engine.stream(given, GREEDY):
        outputs.append(output)
        output.prompt_token_ids.append(0)
        given.append(0)
    assert outputs[-1].outputs[0].token_ids[:40] == plain[prompts[0]]
    assert engine.generate(prompt, GREEDY)[0].prompt_token_ids == prompt


@pytest.mark.parametrize(
    "method", ["none", "lookup", "draft_model", "pearl", "specbranch", "hedge"]
)
def test_streams_steps_and_stop_strings_run_as_far_ahead_as_generate(engine, prompts, method):
    def ahead() -> tuple[int, int]:
        stats = engine._scheduler._newest.stats
        return stats.rounds, stats.rounds_ahead

    stopping = dataclasses.replace(GREEDY, stop=NEVER)
    engine.generate(prompts[0], GREEDY, method=method)
    want = ahead()
    # The shape of a hedge round depends on the previous outcome, so hedge rounds cannot run ahead.
    assert (want[1] > want[0] // 2) == (method != "hedge")
    for params in (GREEDY, stopping):
        list(engine.stream(prompts[0], params, method=method))
        assert ahead() == want
        engine.add_request("a", prompts[0], params, method=method)
        while engine.has_unfinished_requests():
            engine.step()
        assert ahead() == want
    engine.generate(prompts[0], stopping, method=method)
    assert ahead() == want


# --- rounds that share an output ---


class Clock:
    """A clock for the scheduler: every reading is `tick` seconds after the previous one."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def monotonic(self):
        self.now += self.tick
        return self.now

    def sleep(self, seconds):
        raise AssertionError


class Unhurried:
    """A core that ignores the clock: a call with only a time limit runs three rounds."""

    def __init__(self, real):
        self.real, self.asked = real, []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def advance(self, max_rounds, seconds):
        self.asked.append(max_rounds)
        self.real.advance(max_rounds=max_rounds or 3)


@pytest.fixture
def ticks(engine, monkeypatch):
    """Return ticks(seconds), which gives the scheduler a clock that advances by `seconds` at each
    reading.

    ticks returns a list, in which the core records the max_rounds of each call of `advance`.
    """

    def tick(seconds):
        core = Unhurried(engine._scheduler.core)
        monkeypatch.setattr(scheduler, "time", Clock(seconds))
        monkeypatch.setattr(engine._scheduler, "_engine_core", core)
        return core.asked

    return tick


def texts(outputs):
    return [output.delta for output in outputs]


@pytest.mark.parametrize("stop", [None, NEVER])
def test_a_round_that_is_not_short_has_an_output_of_its_own(engine, prompts, ticks, stop):
    params = dataclasses.replace(GREEDY, stop=stop)
    rounds = texts(rounds_of(engine, prompts[0], params, method="none"))
    ticks(scheduler.SHORT + 1e-4)
    assert texts(engine.stream(prompts[0], params, method="none")) == rounds


@pytest.mark.parametrize("method", ["none", "draft_model", "pearl"])
def test_short_rounds_of_a_stream_share_an_output_but_the_first(engine, prompts, ticks, method):
    """With a stop string the scheduler looks at the tokens, and at the clock, after every round."""
    params = dataclasses.replace(GREEDY, stop=NEVER)
    rounds = list(rounds_of(engine, prompts[0], params, method=method))
    ticks(scheduler.PACE / 8.5)  # rounds are short: PACE has passed after nine of them
    outputs = list(engine.stream(prompts[0], params, method=method))
    read = [rounds[0], *rounds[9:-1:9], rounds[-1]]
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in read]
    assert [o.outputs[0].text for o in outputs] == [o.outputs[0].text for o in read]
    assert "".join(texts(outputs)) == read[-1].outputs[0].text


def test_a_stream_without_stop_strings_leaves_short_rounds_to_the_core(engine, prompts, ticks):
    asked = ticks(scheduler.PACE / 8.5)
    counts = [
        len(output.outputs[0].token_ids)
        for output in engine.stream(prompts[0], GREEDY, method="none")
    ]
    assert counts == [1, *range(26, 200, 25), 200]
    assert asked[:19] == [1, *[1, *[0] * 8] * 2]


def test_a_stop_ends_the_rounds_that_share_an_output(engine, prompts):
    """After a stop string, the other rounds that would share the output are not run."""
    [whole] = engine.generate(prompts[0], GREEDY, method="none")
    stop = whole.outputs[0].text[40:44]
    params = dataclasses.replace(GREEDY, stop=stop)
    [stopped] = engine.generate(prompts[0], params, method="none")
    streamed = list(engine.stream(prompts[0], params, method="none"))[-1]
    for output in (stopped, streamed):
        assert output.outputs[0].stop_reason == stop
        spec = output.outputs[0].spec_decode_metrics
        assert spec["num_spec_steps"] == len(output.outputs[0].token_ids)
