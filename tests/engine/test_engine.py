"""Contract under test: every method gives the tokens of plain decoding. Prompts may have any form
that the API names. Stops are exact to the token."""

import time
from itertools import zip_longest

import numpy
import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, SpeculativeConfig
from sbrt import engine as engine_module
from sbrt.methods import DRAFTLESS, METHODS
from sbrt.serve.request import draw_seed

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


def ids_of(output):
    return output.outputs[0].token_ids


# --- exactness ---


@pytest.mark.parametrize("method", METHODS)
def test_greedy_equals_plain_decoding(engine, plain, method, prompts):
    outputs = engine.generate(prompts, GREEDY, method=method)
    assert [ids_of(o) for o in outputs] == [plain[p] for p in prompts]


@pytest.mark.parametrize("method", METHODS[1:])
def test_sampling_with_a_seed_equals_plain_decoding(engine, method, prompts):
    for seed in range(4):
        params = SamplingParams(
            temperature=0.8, top_p=0.9, top_k=50, min_p=0.01, seed=seed, max_tokens=40
        )
        wanted = [ids_of(o) for o in engine.generate(prompts, params, method="none")]
        assert [ids_of(o) for o in engine.generate(prompts, params, method=method)] == wanted


@pytest.mark.usefixtures("measured_costs")
@pytest.mark.parametrize("threads", [1, 2])
def test_costs_that_nobody_gave_are_measured(folders, plain, prompts, monkeypatch, threads):
    made, given = engine_module.EngineCore, []

    def core(*models, **more):
        given.append(more["tuning"])
        return made(*models, **more)

    monkeypatch.setattr(engine_module, "EngineCore", core)
    config = EngineConfig(folders[0], num_threads=threads, speculative={"model": folders[1]})
    with Engine(config) as engine:
        outputs = engine.generate(prompts, GREEDY)
    assert given == [None]
    assert [ids_of(o) for o in outputs] == [plain[p] for p in prompts]
    assert all(
        sum(o.outputs[0].spec_decode_metrics["auto"]["rounds"].values()) > 0 for o in outputs
    )


def test_rejection_repeats_and_is_plain_decoding_where_nothing_is_drawn(folders, plain, prompts):
    rule = SpeculativeConfig(model=folders[1], acceptance="rejection")
    with Engine(EngineConfig(folders[0], speculative=rule), methods=METHODS) as engine:
        assert engine.method.rejection
        for method in METHODS:
            outputs = engine.generate(prompts, GREEDY, method=method)
            assert [ids_of(o) for o in outputs] == [plain[p] for p in prompts]
        params = SamplingParams(temperature=1.0, top_p=0.9, seed=1, max_tokens=40)
        wanted = [ids_of(o) for o in engine.generate(prompts, params, method="none")]
        # With `auto`, sampled tokens vary, because the methods that it selects depend on measured
        # times.
        for method in METHODS[:-1]:
            found = [ids_of(o) for o in engine.generate(prompts, params, method=method)]
            assert found == [ids_of(o) for o in engine.generate(prompts, params, method=method)]
            if method in DRAFTLESS:
                assert found == wanted
            elif method != "adaedl":  # adaedl drafts nothing while the draft is uncertain
                assert found != wanted
            coupled = engine.generate(prompts, params, method=f"{method}:acceptance=coupled")
            assert [ids_of(o) for o in coupled] == wanted


def test_rejection_needs_an_engine_built_for_it(engine):
    with pytest.raises(InvalidInputError, match="expected acceptance coupled"):
        engine.generate("x", GREEDY, method="pearl:acceptance=rejection")
    engine.generate("x", GREEDY, method="none:acceptance=rejection")


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(folders, plain, threads, prompts):
    with Engine.from_pretrained(*folders, num_threads=threads) as engine:
        assert [ids_of(o) for o in engine.generate(prompts, GREEDY)] == list(plain.values())


def test_the_draft_was_of_use(engine, prompts):
    output = engine.generate(prompts[0], GREEDY, method="specbranch")[0].outputs[0]
    spec = output.spec_decode_metrics
    assert spec["num_accepted_draft_tokens"] > 0
    assert spec["num_branch_hits"] > 0
    assert spec["mean_acceptance_length"] > 1
    assert len(spec["acceptance_histogram"]) == 5
    assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"]
    drafted, accepted = spec["num_draft_tokens"], spec["num_accepted_draft_tokens"]
    assert spec["num_rollback_tokens"] == drafted - accepted
    assert spec["rollback_rate"] == spec["num_rollback_tokens"] / len(output.token_ids)
    assert spec["draft_time_s"] > 0
    assert spec["verify_time_s"] > 0
    assert spec["overlap_time_s"] <= min(spec["draft_time_s"], spec["verify_time_s"]) + 1e-9


def test_without_a_draft_the_method_is_none(folders, plain, prompts):
    with Engine.from_pretrained(folders[0]) as engine:
        assert engine.method.name == "none"
        assert ids_of(engine.generate(prompts[0], GREEDY)[0]) == plain[prompts[0]]
        with pytest.raises(InvalidInputError, match="pearl: expected a draft"):
            engine.generate("x", GREEDY, method="pearl")
    with pytest.raises(InvalidInputError, match="specbranch: expected a draft"):
        Engine.from_pretrained(folders[0], speculative=SpeculativeConfig(method="specbranch"))
    with Engine.from_pretrained(folders[0], speculative=SpeculativeConfig()) as engine:
        output = engine.generate(prompts[0], GREEDY)[0]
        assert ids_of(output) == plain[prompts[0]]
        rounds = output.outputs[0].spec_decode_metrics["auto"]["rounds"]
        assert all(name.startswith(("none", "lookup")) for name in rounds)


def test_two_engines_in_one_process(engine, folders, plain, prompts):
    with Engine.from_pretrained(*folders, num_threads=2) as other:
        streams = [e.stream(prompts[0], GREEDY) for e in (engine, other)]
        last = [None, None]
        for outputs in zip_longest(*streams):  # with `auto` the number of steps may differ
            last = [new or old for new, old in zip(outputs, last, strict=True)]
        assert [ids_of(o) for o in last] == [plain[prompts[0]]] * 2


# --- seeds ---


def test_a_seed_is_drawn_from_engine_seed_and_request_id(folders):
    params = SamplingParams(max_tokens=24, ignore_eos=True)

    def run(seed):
        with Engine.from_pretrained(*folders, seed=seed) as engine:
            return [ids_of(o) for o in engine.generate(["def", "def"], params)]

    first = run(7)
    assert first == run(7)
    assert first[0] != first[1]
    assert first != run(8)
    assert draw_seed(0, "a") != draw_seed(0, "b") != draw_seed(1, "b")


# --- forms of prompts and params ---


def test_forms_of_a_prompt(engine, plain, prompts):
    text = prompts[0]
    ids = engine.encode(text)
    forms = [text, ids, tuple(ids), {"prompt_token_ids": ids}, {"prompt": text}]
    for form in forms:
        [output] = engine.generate(form, GREEDY)
        assert ids_of(output) == plain[text]
        assert output.prompt_token_ids == ids
    many = engine.generate([ids, ids], GREEDY)
    mixed = engine.generate([text, ids, {"prompt_token_ids": ids}], GREEDY)
    assert [ids_of(o) for o in [*many, *mixed]] == [plain[text]] * 5
    assert [o.prompt for o in mixed] == [text, None, None]


def test_params_one_or_one_each(engine, prompts):
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (3, 5)]
    assert [len(ids_of(o)) for o in engine.generate(prompts[:2], params)] == [3, 5]
    assert len(ids_of(engine.generate(prompts[0])[0])) <= 16
    for wrong in (params[:1], "x", {"max_tokens": 3}, [1, 2]):
        with pytest.raises(InvalidInputError, match="params"):
            engine.generate(prompts[:2], wrong)


@pytest.mark.parametrize(
    "prompt",
    ["", [[]], ["x", ""], {"prompt_token_ids": []}, {}, {"prompt": [1]}, {"prompt_token_ids": "x"},
     {"prompt": "x", "multi_modal_data": 1}, [1, "x"], [-1], [300], [1.0], [True], None, 5, [None],
     "\ud800", b"bytes look like ids", "word " * 300, [1] * 256],
    ids=lambda p: repr(p)[:20],
)  # fmt: skip
def test_a_prompt_that_cannot_be_is_refused(engine, plain, prompt, prompts):
    with pytest.raises(InvalidInputError) as caught:
        engine.generate(prompt, GREEDY)
    assert "prompt" in str(caught.value)
    assert not engine.has_unfinished_requests()
    assert ids_of(engine.generate(prompts[0], GREEDY)[0]) == plain[prompts[0]]


@pytest.mark.parametrize("none", [[], (), numpy.array([], int)])
@pytest.mark.parametrize("params", [None, GREEDY, []])
def test_no_prompts_have_no_answers(engine, none, params):
    assert engine.generate(none, params) == []
    with pytest.raises(InvalidInputError, match="expected one prompt, got a list of 0"):
        engine.stream(none, GREEDY)
    with pytest.raises(InvalidInputError, match="prompt: expected at least one token, got none"):
        engine.add_request("r", none, GREEDY)


def test_a_huge_prompt_is_refused_before_it_is_tokenised(engine):
    begun = time.monotonic()
    with pytest.raises(InvalidInputError, match="50000000 characters"):
        engine.generate("x" * 50_000_000, GREEDY)
    assert time.monotonic() - begun < 5


def test_one_wrong_prompt_among_many_queues_none(engine):
    with pytest.raises(InvalidInputError, match="300"):
        engine.generate(["def", [300]], GREEDY)
    assert not engine.has_unfinished_requests()


# --- stops ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_max_tokens_is_exact(engine, plain, method, n, prompts):
    [output] = engine.generate(
        prompts[0], SamplingParams(temperature=0, max_tokens=n, ignore_eos=True), method=method
    )
    assert ids_of(output) == plain[prompts[0]][:n]
    assert output.outputs[0].finish_reason == "length"


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_token_ends_it_and_is_returned(engine, plain, method, prompts):
    wanted = plain[prompts[0]]
    for token in sorted(set(wanted)):
        at = wanted.index(token)
        params = SamplingParams(
            temperature=0, max_tokens=40, ignore_eos=True, stop_token_ids=[token]
        )
        [answer] = engine.generate(prompts[0], params, method=method)[0].outputs
        assert answer.token_ids == wanted[: at + 1]
        assert (answer.finish_reason, answer.stop_reason) == ("stop", token)


def test_stop_beats_length(engine, plain, prompts):
    wanted = plain[prompts[0]]
    n = len(wanted) - wanted[::-1].index(wanted[-1])
    first = wanted.index(wanted[-1]) + 1
    params = SamplingParams(
        temperature=0, max_tokens=first, ignore_eos=True, stop_token_ids=[wanted[-1]]
    )
    assert n >= first
    assert engine.generate(prompts[0], params)[0].outputs[0].finish_reason == "stop"


def first_completed(engine, ids, prompt_ids, stop):
    """Return (index of the token that completes `stop`, text before `stop`), or None. The whole
    text is searched after each token."""
    from sbrt.model.tokenizer import Detokenizer

    detokenizer, text = Detokenizer(engine.pair.tokenizer, prompt_ids), ""
    for i, token in enumerate(ids):
        text += detokenizer.push(token)
        if stop in text:
            return i, text[: text.index(stop)]
    return None


@pytest.mark.parametrize("method", ["none", "pearl", "specbranch"])
def test_a_stop_string_cuts_the_text_before_it(engine, plain, method, prompts):
    prompt = prompts[0]
    [whole] = engine.generate(prompt, GREEDY)[0].outputs
    prompt_ids = engine.encode(prompt)
    tried = 0
    for begin in range(0, len(whole.text) - 4, 3):
        stop = whole.text[begin : begin + 4]
        at, text = first_completed(engine, plain[prompt], prompt_ids, stop)
        params = SamplingParams(
            temperature=0, max_tokens=40, ignore_eos=True, stop=["never there", stop]
        )
        [answer] = engine.generate(prompt, params, method=method)[0].outputs
        assert answer.token_ids == plain[prompt][: at + 1]
        assert (answer.text, answer.finish_reason, answer.stop_reason) == (text, "stop", stop)
        streamed = "".join(o.delta for o in engine.stream(prompt, params, method=method))
        assert streamed == text
        tried += 1
    assert tried > 5


def test_an_end_of_sequence_token_ends_it(make, folders, plain, tmp_path, prompts):
    end = plain[prompts[0]][3]
    weights = make.weights(make.config(), seed=1)
    folder = make.checkpoint(tmp_path / "t", weights=weights, eos_token_id=[end, 299])
    first = plain[prompts[0]].index(end)
    with Engine.from_pretrained(folder, folders[1]) as engine:
        params = SamplingParams(temperature=0, max_tokens=40)
        [answer] = engine.generate(prompts[0], params)[0].outputs
        assert answer.token_ids == plain[prompts[0]][: first + 1]
        assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
        assert ids_of(engine.generate(prompts[0], GREEDY)[0]) == plain[prompts[0]]


@pytest.mark.parametrize("method", METHODS)
def test_the_context_ends_with_length(folders, method, prompts):
    params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    speculative = None if method == "none" else {"method": method}
    short = {"max_model_len": 64, "num_threads": 2, "speculative": speculative}
    with Engine.from_pretrained(*folders, **short) as engine:
        [output] = engine.generate(prompts[0], params, method=method)
        assert len(output.prompt_token_ids) + len(ids_of(output)) == 64
        assert output.outputs[0].finish_reason == "length"


def test_a_context_longer_than_the_models_is_refused(folders):
    with pytest.raises(InvalidInputError, match="max_model_len"):
        Engine.from_pretrained(*folders, max_model_len=257)
