"""Contract under test: the checks of engines on a device, here run on a CPU. `exact` finds a
differing token, says where, stores its results and resumes. `rounds` reads a trace correctly and
names each bound that is missed."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench.models import pairs
from sbrt.gpu import lane as lanes
from sbrt.model.config import ModelConfig
from sbrt.trace.spans import Span
from tests.device import exact, rounds
from tests.device.steps import UNFINISHED

SHORT = ("--device", "cpu", "--max-tokens", "6", "--methods", "lookup,pearl")
SMALL = ModelConfig(
    architecture="LlamaForCausalLM", hidden=64, inner=96, layers=5, heads=4, kv_heads=2,
    head_dim=16, vocab=512, max_positions=128, rms_eps=1e-5, rope_theta=1e4, tied=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Use one thread, so that engines need not measure the best number of threads."""
    real = pairs.engine_config
    monkeypatch.setattr(
        pairs, "engine_config", lambda *args, **more: real(*args, **more | {"num_threads": 1})
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "exact.json"


def call(out, *more):
    return exact.main([*SHORT, *more, "--json", str(out)])


def test_methods_that_agree_are_right(out, capsys):
    assert call(out, "--prompts", "2") == 0
    kept = json.loads(out.read_text())
    assert (kept["done"], kept["wrong"]) == (2, [])
    assert {name: line["tokens"] for name, line in kept["methods"].items()} == {
        "none": 12, "lookup": 12, "pearl": 12
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "2 of 2 prompts by lookup, pearl" in said
    assert "none: 12 tokens, 1.00 a round" in said


def test_methods_may_reuse_what_plain_decoding_fed(out):
    assert call(out, "--prompts", "1", "--reuse") == 0
    reused = {k: v["reused"] for k, v in json.loads(out.read_text())["methods"].items()}
    assert reused["none"] == 0
    assert reused["lookup"] == reused["pearl"] > 8


def test_out_of_time_it_wants_another_turn_and_goes_on(out, monkeypatch):
    assert call(out, "--prompts", "2", "--seconds", "0") == UNFINISHED
    assert json.loads(out.read_text())["done"] == 0
    clock = iter([0.0, 0.0, 0.0, 0.0, 1e9, 1e9])
    with monkeypatch.context() as patch:
        patch.setattr(exact, "time", SimpleNamespace(monotonic=lambda: next(clock, 1e9)))
        assert call(out, "--prompts", "2") == UNFINISHED
    assert json.loads(out.read_text())["done"] == 1
    assert call(out, "--prompts", "2") == 0
    assert json.loads(out.read_text())["methods"]["none"]["tokens"] == 12
    monkeypatch.setattr(exact, "_engine", None)  # nothing is left to do, so no engine is made
    assert call(out, "--prompts", "2") == 0


@pytest.mark.parametrize("more", [("--temperature", "0.5"), ("--prompts", "3")])
def test_of_other_flags_or_another_source_nothing_is_kept(out, more, monkeypatch):
    assert call(out, "--prompts", "1") == 0
    assert call(out, "--prompts", "1", *more, "--seconds", "0") == UNFINISHED
    assert call(out, "--prompts", "1") == 0
    monkeypatch.setattr(exact, "source_hash", lambda: "another")
    assert call(out, "--prompts", "1", "--seconds", "0") == UNFINISHED


def test_a_token_that_differs_is_found(out, capsys, monkeypatch):
    real = exact._engine

    def spoilt(args, names):
        engine = real(args, names)
        answer = engine.generate

        def generate(prompt, params, *, method):
            found = answer(prompt, params, method=method)
            if method == "pearl" and params.seed == 1:
                found[0].outputs[0].token_ids[3] += 1
            return found

        engine.generate = generate
        return engine

    monkeypatch.setattr(exact, "_engine", spoilt)
    assert call(out, "--prompts", "3") == 1
    [wrong] = json.loads(out.read_text())["wrong"]
    assert (wrong["method"], wrong["prompt"], wrong["at"]) == ("pearl", 1, 3)
    assert wrong["got"] == [wrong["expected"][0] + 1]
    assert "WRONG: pearl, prompt 1: token 3 is" in capsys.readouterr().out
    # the failure stored by the earlier call is reported again
    assert call(out, "--prompts", "3") == 1


def test_prompts_that_share_rounds_are_compared_with_plain_decoding_alone(out, monkeypatch):
    asked, real = [], exact._engine

    def watched(args, names):
        engine = real(args, names)
        answer = engine.generate

        def generate(prompts, params, *, method):
            asked.append((method, len(params) if isinstance(params, list) else 1))
            return answer(prompts, params, method=method)

        engine.generate = generate
        return engine

    monkeypatch.setattr(exact, "_engine", watched)
    assert call(out, "--prompts", "3", "--together", "2") == 0
    pairs_of = [("none", 2), ("lookup", 2), ("pearl", 2)]
    assert asked[:5] == [("none", 1)] * 2 + pairs_of
    assert asked[5:] == [("none", 1), ("none", 1), ("lookup", 1), ("pearl", 1)]
    kept = json.loads(out.read_text())
    assert (kept["done"], kept["wrong"]) == (3, [])


@pytest.mark.parametrize(
    ("got", "plain", "at"), [([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([1, 2, 3], [1, 2], 2)]
)
def test_where_answers_part(got, plain, at):
    assert exact.difference("m", 0, got, plain)["at"] == at


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--prompts", "0"), "--prompts: expected at least 1, got 0"),
        (("--max-tokens", "0"), "--max-tokens: expected at least 1, got 0"),
        (("--together", "0"), "--together: expected at least 1, got 0"),
        (("--pair", "70b"), "--pair: expected one of demo, demo-1g, 8b, 1b, got 70b"),
        (("--pair", "8b"), "--pair: expected a demo pair on device cpu, got 8b"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flags, said):
    assert exact.main([*SHORT, *flags]) == 2
    assert capsys.readouterr().err.strip().endswith(said)


# --- rounds ---


def test_rounds_of_an_engine(tmp_path, capsys):
    out = tmp_path / "rounds.json"
    flags = ("--device", "cpu", "--prompts", "1", "--max-tokens", "8", "--json", str(out))
    methods = "draft_model:gamma=2,pearl:gamma=2"
    assert rounds.main([*flags, "--methods", methods]) == 0
    report = json.loads(out.read_text())
    assert [(line["method"], line["draft_first"]) for line in report["lines"]] == [
        ("none", True), ("draft_model:gamma=2", True), ("pearl:gamma=2", True),
        ("none", False), ("pearl:gamma=2", False),
    ]  # fmt: skip
    assert all(line["right"] and line["verify_us"] > 0 for line in report["lines"])
    assert report["lines"][0]["tokens_per_round"] == 1
    assert report["lines"][2]["overlap_us"] <= report["lines"][2]["draft_us"]
    assert "pearl:gamma=2, target first" in capsys.readouterr().out
    assert rounds.main([*flags, "--methods", methods, "--idle", "0.000001"]) == 1
    assert "MISSED: none: expected less than 1e-06 us idle" in capsys.readouterr().out


def spans_of(*given):
    return [Span(stream, name, begin, end, wait) for stream, name, begin, end, wait in given]


def test_the_target_is_idle_from_its_select_to_what_comes_next():
    spans = spans_of(
        ("target", "settle", 0, 10, False),
        ("target", "verify", 10, 5000, False),
        ("draft", "burst", 20, 9000, False),
        ("target", "draft_ready", 5000, 9000, True),
        ("target", "select", 9000, 9100, False),
        ("target", "settle", 12100, 12200, False),  # begins 3 us later
        ("target", "verify", 12300, 15000, False),
        ("target", "select", 15000, 15100, False),
    )
    assert rounds.idle_between(spans) == [3.0]


LINE = {"method": "none", "right": True, "idle_us": 5.0}


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"lines": [LINE], "share_of_none": 0.71}, []),
        ({"lines": [LINE]}, []),  # without a measured bandwidth
        ({"lines": [LINE], "share_of_none": 0.69},
         ["none: expected 70 % of the read bandwidth, got 69"]),
        ({"lines": [{**LINE, "idle_us": 20.0}]},
         ["none: expected less than 20 us idle between rounds, got 20.0"]),
        ({"lines": [LINE, {**LINE, "method": "pearl", "right": False}]}, ["pearl: wrong tokens"]),
    ],
    ids=["kept", "no roof", "slow", "idle", "wrong"],
)  # fmt: skip
def test_a_bound_that_is_not_kept_is_said(report, said):
    assert rounds.missed(SimpleNamespace(share=0.7, idle=20.0, mode="exact"), report) == said


# --- pairs ---


def test_a_random_draft_is_its_target_s_first_layers_and_often_right(monkeypatch):
    """At these sizes a layer contributes as much to the logits as a layer of an 8B model. So the
    draft agrees with the target as often as there."""
    pair = pairs.random_pair(SMALL, torch.device("cpu"), draft_layers=2)
    bound = []
    real = lanes.GpuLane

    def keep(*args):
        bound.append(real(*args))
        return bound[-1]

    monkeypatch.setattr(lanes, "GpuLane", keep)
    from sbrt import Engine, SamplingParams

    config = pairs.engine_config("8b", "cpu", "draft_model:gamma=3")
    with Engine(config, pair=pair) as engine:
        params = SamplingParams(temperature=0, max_tokens=16)
        found = [engine.generate([5, 6, 7], params, method=m)[0].outputs[0] for m in (None, "none")]
    target, draft = bound
    assert (target.layers, draft.layers) == (5, 2)
    assert target.weights.layers[1] is draft.weights.layers[1]
    damped = [float(layer.o.weight.abs().mean()) for layer in target.weights.layers]
    assert max(damped[2:]) < 0.1 * min(damped[:2])
    assert found[0].token_ids == found[1].token_ids
    assert found[0].spec_decode_metrics["num_accepted_draft_tokens"] > 0


def test_prompts_are_many():
    for name in ("demo", "8b"):
        prompt = pairs.prompts_of(name)
        assert len({str(prompt(i)) for i in range(200)}) == 200
    assert all(0 <= token < 128_256 for token in pairs.prompts_of("8b")(3))
