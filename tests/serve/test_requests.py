"""Contract under test: requests queue in order, and streams are cumulative. The engine goes on
after an abort, Ctrl-C, a failed request or a wrong argument."""

import threading
import time

import pytest

from sbrt import Engine, EngineError, InvalidInputError, SamplingParams
from sbrt.serve.request import draw_seed

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


def ids_of(output):
    return output.outputs[0].token_ids


@pytest.mark.usefixtures("each_round")
def test_a_stream_is_cumulative_and_its_deltas_are_the_text(engine, plain, prompts):
    outputs = list(engine.stream(prompts[0], GREEDY))
    assert len(outputs) == outputs[-1].outputs[0].spec_decode_metrics["num_spec_steps"] > 5
    text, seen = "", 0
    for output in outputs:
        text += output.delta
        [answer] = output.outputs
        assert answer.text == text
        assert answer.token_ids == plain[prompts[0]][: len(answer.token_ids)]
        assert len(answer.token_ids) > seen
        seen = len(answer.token_ids)
    assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1].metrics.decode_seconds > 0
    assert text == engine.generate(prompts[0], GREEDY)[0].outputs[0].text


def test_closing_a_stream_early_aborts(engine, plain, prompts):
    stream = engine.stream(prompts[0], GREEDY)
    next(stream)
    assert engine.has_unfinished_requests()
    stream.close()
    assert not engine.has_unfinished_requests()
    assert ids_of(engine.generate(prompts[0], GREEDY)[0]) == plain[prompts[0]]


def test_a_stream_never_started_queues_nothing(engine, prompts):
    engine.stream(prompts[0], GREEDY)
    assert not engine.has_unfinished_requests()
    with pytest.raises(InvalidInputError, match="one prompt"):
        engine.stream(prompts, GREEDY)


def test_step_runs_requests_in_order(engine, plain, prompts):
    # Plain decoding gives one token a round, so that all requests end in the same round.
    for i, prompt in enumerate(prompts):
        engine.add_request(f"r{i}", prompt, GREEDY, method="none")
    with pytest.raises(InvalidInputError, match="'r2'"):
        engine.add_request("r2", "x", GREEDY)
    finished = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                finished[output.request_id] = ids_of(output)
    assert list(finished) == ["r0", "r1", "r2", "r3"]
    assert list(finished.values()) == list(plain.values())
    assert engine.step() == []
    engine.add_request("r2", prompts[0], GREEDY)  # ids of finished requests are free again
    engine.abort_request("r2")


def test_abort_drops_the_running_and_the_queued(engine, plain, prompts):
    for name in "abc":
        engine.add_request(name, prompts[0], GREEDY)
    engine.step()
    engine.abort_request(["a", "b", "never there"])
    last = []
    while engine.has_unfinished_requests():
        last = engine.step() or last
    assert last[-1].request_id == "c"
    assert ids_of(last[-1]) == plain[prompts[0]]


def test_a_long_queue_keeps_its_order_and_its_ids(engine, prompts):
    names = [str(i) for i in range(20_000)]
    for name in names:
        engine.add_request(name, prompts[0], SamplingParams(temperature=0, max_tokens=1))
    with pytest.raises(InvalidInputError, match="not in use, got '19999'"):
        engine.add_request(names[-1], prompts[0], GREEDY)
    engine.abort_request(names[2:])
    done = []
    while engine.has_unfinished_requests():
        done += [output.request_id for output in engine.step() if output.finished]
    assert done == names[:2]


def test_streams_and_steps_share_the_queue(engine, plain, prompts):
    engine.add_request("first", prompts[1], GREEDY)
    streams = [engine.stream(p, GREEDY) for p in prompts[2:4]]
    outputs = [list(stream)[-1] for stream in streams]
    assert [ids_of(o) for o in outputs] == [plain[p] for p in prompts[2:4]]
    stepped = engine.step()
    assert stepped[-1].request_id == "first"
    assert ids_of(stepped[-1]) == plain[prompts[1]]


def test_ids_of_callers_and_drawn_ids_never_collide(folders, plain, prompts):
    drawn = ["generate-0", "generate-1", "generate-2"]
    with Engine.from_pretrained(*folders, num_threads=2) as engine:
        for name in drawn:
            engine.add_request(name, prompts[0], GREEDY)
        assert ids_of(engine.generate(prompts[1], GREEDY)[0]) == plain[prompts[1]]  # generate-0
        stream = engine.stream(prompts[2], GREEDY)  # generate-1
        outputs = [next(stream)]
        # aborts the requests of add_request, not the stream with the same id
        engine.abort_request(drawn)
        outputs += stream
        assert ids_of(outputs[-1]) == plain[prompts[2]]
        assert {output.request_id for output in outputs} == {"generate-1"}
        assert not engine.has_unfinished_requests()
        assert engine.step() == []
        stream = engine.stream(prompts[3], GREEDY)  # generate-2
        next(stream)
        engine.add_request("generate-2", prompts[0], GREEDY)
        with pytest.raises(InvalidInputError, match="'generate-2'"):
            engine.add_request("generate-2", prompts[0], GREEDY)
        engine.abort_request("generate-2")
        engine.abort_request("generate-2")  # no request of add_request has this id now
        assert list(stream)[-1].outputs[0].finish_reason == "abort"


def test_a_drawn_id_s_seed_is_that_of_its_name(folders, prompts):
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    with Engine.from_pretrained(*folders, num_threads=1, seed=9) as engine:
        engine.add_request("generate-0", prompts[0], params)
        while engine.has_unfinished_requests():
            own = ids_of(engine.step()[-1])
        drawn = ids_of(engine.generate(prompts[0], params)[0])
        seeded = SamplingParams(max_tokens=20, ignore_eos=True, seed=draw_seed(9, "generate-0"))
        assert own == drawn == ids_of(engine.generate(prompts[0], seeded)[0])


def test_threads_share_an_engine(engine, plain, prompts):
    results = {}

    def work(prompt):
        results[prompt] = ids_of(engine.generate(prompt, GREEDY)[0])

    threads = [threading.Thread(target=work, args=(p,)) for p in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == plain


def test_aborting_from_another_thread_ends_generate(folders, prompts):
    with Engine.from_pretrained(*folders, num_threads=2) as engine:
        params = SamplingParams(max_tokens=None, ignore_eos=True, stop="never there")
        outputs = []

        def work():
            outputs.extend(engine.generate([prompts[0]] * 50, params))

        thread = threading.Thread(target=work)
        thread.start()
        while not engine.has_unfinished_requests():
            time.sleep(0.001)
        engine.abort_request([f"generate-{i}" for i in range(50)])
        thread.join(timeout=30)
        assert len(outputs) == 50
        assert outputs[-1].outputs[0].finish_reason == "abort"


# --- failures ---


def test_ctrl_c_drops_the_sequence_and_the_engine_goes_on(engine, plain, prompts, ctrl_c):
    params = SamplingParams(max_tokens=200, ignore_eos=True, seed=0)
    for delay in (0.001, 0.01, 0.05):
        with ctrl_c(delay):
            engine.generate([prompts[0]] * 500, params)
        assert not engine.has_unfinished_requests()
        assert ids_of(engine.generate(prompts[0], GREEDY)[0]) == plain[prompts[0]]


@pytest.mark.parametrize("method", ["none", "specbranch"])
def test_a_nan_row_fails_the_request_alone(make, folders, tmp_path, method, prompts):
    weights = make.weights(make.config(), seed=1)
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    folder = make.checkpoint(tmp_path / "t", weights=weights)
    with Engine.from_pretrained(folder, folders[1], num_threads=2) as engine:
        for _ in range(2):
            [answer] = engine.generate(prompts[0], GREEDY, method=method)[0].outputs
            assert answer.finish_reason == "error"
            assert isinstance(answer.stop_reason, str)
            assert answer.token_ids == []


def test_a_closed_engine_says_so(folders, prompts):
    engine = Engine.from_pretrained(*folders, num_threads=2)
    stream = engine.stream(prompts[0], GREEDY)
    next(stream)
    engine.close()
    engine.close()
    calls = [
        lambda: engine.generate("x"),
        lambda: engine.stream("x"),
        lambda: engine.add_request("a", "x"),
        lambda: engine.step(),
        lambda: engine.abort_request(["a"]),
        lambda: engine.trace(),
        lambda: next(stream),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()
    assert not engine.has_unfinished_requests()


def test_without_a_tokenizer_ids_go_in_and_come_out(folders, plain):
    with Engine.from_pretrained(*folders, skip_tokenizer_init=True) as bare:
        with pytest.raises(InvalidInputError, match="skip_tokenizer_init"):
            bare.generate("x")
        with pytest.raises(InvalidInputError, match="stop"):
            bare.generate([1], SamplingParams(stop="x"))
        [output] = bare.generate([1, 2, 3], GREEDY)
        assert output.outputs[0].text == ""
        assert len(ids_of(output)) == 40


@pytest.mark.parametrize(
    "params",
    [{"stop_token_ids": [300]}, {"stop_token_ids": [2**31 - 1]}],
)
def test_a_stop_token_outside_the_vocabulary_is_refused(engine, params):
    with pytest.raises(InvalidInputError, match="stop_token_ids"):
        engine.generate("x", SamplingParams(**params))


def test_a_method_larger_than_the_engine_is_refused(engine, folders):
    with pytest.raises(InvalidInputError, match="gamma of at most 15"):
        engine.generate("x", GREEDY, method="pearl:gamma=16")
    with pytest.raises(InvalidInputError, match="width of at most 2"):
        engine.generate("x", GREEDY, method="hedge:tree=3")


def test_the_trace_shows_both_lanes(engine, prompts):
    engine.generate(prompts[0], GREEDY, method="pearl")
    spans = engine.trace()
    assert {span.stream for span in spans} == {"draft", "target"}
    assert all(span.begin_ns <= span.end_ns for span in spans)
    assert any(span.is_wait for span in spans)
