"""Contract under test: names and defaults are the same as in vLLM. An unsupported value raises an
error of one sentence that names the value. Nothing is ignored without a message."""

import dataclasses
import math
from pathlib import Path

import pytest

from sbrt import (
    Engine,
    EngineConfig,
    EngineError,
    InvalidInputError,
    SamplingParams,
    SpeculativeConfig,
)
from sbrt.methods import METHODS, parse, parse_list
from sbrt.model import demo_pair

SAMPLING = {
    "n": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None, "stop": (),
    "stop_token_ids": (), "ignore_eos": False, "max_tokens": 16, "min_tokens": 0, "logprobs": None,
    "prompt_logprobs": None,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
    "logit_bias": None, "allowed_token_ids": None, "bad_words": None, "skip_special_tokens": True,
    "include_stop_str_in_output": False,
}  # fmt: skip
ENGINE = {
    "tokenizer": None, "dtype": "auto", "activation_dtype": "auto", "device": "auto",
    "max_model_len": None, "max_num_seqs": 8, "max_num_batched_tokens": None,
    "enable_prefix_caching": True, "seed": 0, "num_threads": None, "draft_threads": None,
    "cpu_affinity": None, "attention_backend": "auto",
    "skip_tokenizer_init": False, "max_logprobs": 20, "enforce_eager": False, "mode": "exact",
    "programmatic_launch": False, "nvtx": False, "trace": False,
    "profile_dir": None, "speculative": None,
}  # fmt: skip


def refused(kind, names, **given):
    with pytest.raises(InvalidInputError) as caught:
        kind(**given)
    sentence = str(caught.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence
    assert len(sentence) < 300


def test_errors_are_catchable_as_what_they_are():
    assert issubclass(EngineError, RuntimeError)
    assert issubclass(InvalidInputError, ValueError)


def test_sampling_defaults():
    assert dataclasses.asdict(SamplingParams()) == SAMPLING


def test_engine_defaults_in_order():
    assert {k: v for k, v in vars(EngineConfig("x")).items() if k != "model"} == ENGINE
    assert [f.name for f in dataclasses.fields(EngineConfig)] == ["model", *ENGINE]


def test_speculative_defaults():
    method = SpeculativeConfig().resolve()
    assert method.name == "auto"
    assert method.options == {"gamma": 15, "k_max": 64}
    assert method.policy() is None
    assert [arm.name for arm in method.arms[:2]] == ["none", "lookup"]
    limited = SpeculativeConfig(num_speculative_tokens=3, num_branches=8).resolve()
    assert {arm.gamma for arm in limited.arms} <= {0, 1, 2, 3}
    assert {arm.branches for arm in limited.arms} == {0, 2, 4, 8}
    method = SpeculativeConfig(method="specbranch").resolve()
    options = {"gamma": 4, "k_max": 8, "epsilon": 0.1, "hrad": "off", "on_miss": "continue"}
    assert method.options == options


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("n", True),
    ],
)  # fmt: skip
def test_a_sampling_field_that_is_not_built_raises(field, value):
    refused(SamplingParams, [field, "not built yet"], **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
        ("temperature", True), ("temperature", "1"), ("top_p", 0), ("top_p", 1.01), ("top_k", -1),
        ("top_k", 1.0), ("top_k", True), ("min_p", -1e-9), ("min_p", 2), ("seed", -1),
        ("seed", 2**64), ("seed", 1.5), ("stop", ""), ("stop", [""]), ("stop", [1]),
        ("stop", "\ud800"), ("stop_token_ids", [-1]), ("stop_token_ids", "5"),
        ("stop_token_ids", [True]), ("ignore_eos", 1), ("max_tokens", -1), ("max_tokens", 2.0),
        ("max_tokens", True), ("max_tokens", 10**40), ("min_tokens", -1), ("min_tokens", 1.5),
        ("min_tokens", 17), ("presence_penalty", 2.1), ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1), ("frequency_penalty", "1"), ("repetition_penalty", 0),
        ("repetition_penalty", math.inf), ("repetition_penalty", 101), ("logit_bias", [1]),
        ("logit_bias", {-1: 1.0}), ("logit_bias", {"1": 1.0}), ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: math.nan}), ("logit_bias", {1: -math.inf}), ("logit_bias", {1: None}),
        ("allowed_token_ids", []), ("allowed_token_ids", "1"), ("allowed_token_ids", [-1]),
        ("allowed_token_ids", [1.0]), ("bad_words", [""]), ("bad_words", [" "]), ("bad_words", [1]),
        ("bad_words", {"a": 1}), ("bad_words", ["\ud800"]), ("skip_special_tokens", 1),
        ("logprobs", -2), ("logprobs", 1.0), ("logprobs", True), ("prompt_logprobs", -2),
        ("prompt_logprobs", "1"),
        ("include_stop_str_in_output", 0), ("include_stop_str_in_output", None),
    ],
)  # fmt: skip
def test_a_sampling_value_that_cannot_be_raises(field, value):
    refused(SamplingParams, [field.split("_ids")[0]], **{field: value})


def test_sampling_values_at_their_ends_are_taken():
    params = SamplingParams(
        max_tokens=5, min_tokens=5, presence_penalty=-2, frequency_penalty=2,
        repetition_penalty=0.01, logit_bias={3: -100, 4: 100}, bad_words="x y",
    )  # fmt: skip
    assert params.logit_bias == {3: -100.0, 4: 100.0}
    assert params.bad_words == ("x y",)
    assert SamplingParams(max_tokens=None, min_tokens=1000).min_tokens == 1000


def test_a_number_too_long_to_print_is_refused():
    refused(SamplingParams, ["max_tokens"], max_tokens=10**5000)


def test_numbers_of_other_libraries_are_numbers():
    numpy = pytest.importorskip("numpy")
    params = SamplingParams(
        temperature=numpy.float32(0.5), top_k=numpy.int64(3), stop_token_ids=numpy.array([1, 2])
    )
    assert (params.temperature, params.top_k, params.stop_token_ids) == (0.5, 3, (1, 2))
    assert type(params.top_k) is int


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "tpu"), ("device", "cuda:x"),
    ],
)  # fmt: skip
def test_an_engine_field_that_is_not_built_raises(field, value):
    refused(EngineConfig, [field, "not built yet"], model="x", **{field: value})


def test_a_device_takes_one_sequence_at_a_time_unless_asked_for_more():
    assert EngineConfig("x", device="cuda").max_num_seqs == 1
    assert EngineConfig("x", device="cuda", max_num_seqs=64).seats == 64
    refused(EngineConfig, ["max_num_seqs", "65"], model="x", device="cuda", max_num_seqs=65)


def test_a_device_reuses_prefixes_if_asked():
    assert EngineConfig("x").enable_prefix_caching is True
    assert EngineConfig("x", device="cuda").enable_prefix_caching is False
    given = {"model": "x", "device": "cuda", "enable_prefix_caching": True}
    for backend in ("auto", "triton"):
        assert EngineConfig(attention_backend=backend, **given).enable_prefix_caching is True
    refused(EngineConfig, ["attention_backend", "auto or triton", "flash-attn"],
            attention_backend="flash-attn", **given)  # fmt: skip


def test_pieces_of_a_prompt_leave_room_for_those_that_run():
    assert EngineConfig("x").piece == 64
    assert EngineConfig("x", max_num_seqs=4, max_num_batched_tokens=4).piece == 1
    assert EngineConfig("x", max_num_seqs=4, max_num_batched_tokens=20).piece == 17
    assert EngineConfig("x", max_num_seqs=4, max_num_batched_tokens=2048).piece == 64


def test_only_a_device_has_graphs_to_go_without():
    refused(EngineConfig, ["enforce_eager", "CUDA device", "cpu"], model="x", device="cpu",
            enforce_eager=True)  # fmt: skip
    assert EngineConfig("x", device="cuda", enforce_eager=True).enforce_eager


def test_only_a_device_launches_kernels():
    refused(EngineConfig, ["programmatic_launch", "CUDA device", "cpu"], model="x", device="cpu",
            programmatic_launch=True)  # fmt: skip
    refused(EngineConfig, ["programmatic_launch", "True or False", "1"], model="x", device="cuda",
            programmatic_launch=1)  # fmt: skip
    assert EngineConfig("x", device="cuda", programmatic_launch=True).programmatic_launch


@pytest.mark.parametrize("given", ["float32", "int8"])
def test_activations_on_a_device_are_of_its_dtype(given):
    refused(EngineConfig, ["activation_dtype", "auto", "cuda:1", given], model="x",
            device="cuda:1", activation_dtype=given)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention_backend", "flash-attn"), ("attention_backend", 3),
        ("model", ""), ("model", 3), ("model", "a\0b"), ("tokenizer", b"x"), ("dtype", "int3"),
        ("activation_dtype", "bfloat16"), ("activation_dtype", None),
        ("dtype", None), ("max_model_len", 0), ("max_model_len", True), ("seed", -1),
        ("num_threads", 0), ("num_threads", 1.0), ("draft_threads", 0),
        ("skip_tokenizer_init", 1), ("speculative", "specbranch"), ("max_num_seqs", 0),
        ("max_num_seqs", 65), ("max_num_batched_tokens", 7), ("max_num_batched_tokens", True),
        ("nvtx", 1), ("trace", "yes"), ("profile_dir", ""), ("profile_dir", 3),
    ],
)  # fmt: skip
def test_an_engine_value_that_cannot_be_raises(field, value):
    refused(EngineConfig, [field], **({"model": "x"} | {field: value}))


def test_the_draft_may_not_take_every_thread():
    assert EngineConfig("x", num_threads=1).threads() == (1, 1)
    assert EngineConfig("x", num_threads=2).threads() == (2, 1)
    assert EngineConfig("x", num_threads=16).threads() == (16, 4)
    refused(EngineConfig, ["draft_threads"], model="x", num_threads=4, draft_threads=4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("synthetic_acceptance_rates", [0.5]), ("device", "tpu"), ("device", "cuda:x"),
    ],
)  # fmt: skip
def test_a_speculative_field_that_is_not_built_raises(field, value):
    refused(SpeculativeConfig, [field, "not built yet"], **{field: value})


@pytest.mark.parametrize(
    "given",
    [
        {"method": "pearl", "num_branches": 4},
        {"method": "none", "num_speculative_tokens": 4},
        {"method": "draft_model", "confidence_threshold": 0.5},
    ],
)
def test_a_field_the_method_has_no_use_for_raises(given):
    refused(SpeculativeConfig, [given["method"], list(given)[1]], **given)


def test_fields_reach_the_policy():
    config = SpeculativeConfig(
        method="specbranch",
        num_speculative_tokens=6,
        num_branches=3,
        confidence_threshold=0.5,
        model="d",
    )
    policy = config.resolve().policy()
    assert (policy.gamma, policy.branches, policy.ranking, policy.on_miss) == (6, 3, ADAPTIVE, 0)
    assert policy.epsilon == pytest.approx(0.5)


FIRST, ADAPTIVE, LIKELY = range(3)  # enum Ranking in csrc/state/policy.h
CONTINUE, BURST, LOOKUP = range(3)  # enum OnMiss


def knobs(text, **fields):
    p = parse(text, **fields).policy()
    return p.gamma, p.branches, p.ranking, round(p.epsilon, 6), p.on_miss, p.burst, p.burst_width


def test_presets_are_knobs_of_one_round():
    assert knobs("none")[:5] == (0, 0, FIRST, 0, CONTINUE)
    assert knobs("draft_model") == (0, 0, FIRST, 0, BURST, 4, 1)
    assert knobs("adaedl") == (0, 0, FIRST, 0, BURST, 4, 1)
    assert knobs("tree:gamma=3,width=5") == (0, 0, FIRST, 0, BURST, 3, 5)
    assert knobs("lookup:gamma=9")[:6] == (0, 0, FIRST, 0, LOOKUP, 9)
    assert knobs("pearl")[:5] == (4, 1, FIRST, 0, CONTINUE)
    assert knobs("specbranch")[:5] == (4, 8, ADAPTIVE, 0.1, CONTINUE)
    assert knobs("specbranch:on_miss=serial") == (4, 8, ADAPTIVE, 0.1, BURST, 4, 1)
    assert knobs("hedge:F=16,burst=3") == (4, 16, LIKELY, 0, BURST, 3, 16)
    assert parse("hedge:tree=0").policy().width == 1
    assert parse("hedge:tree=0").policy().lookup == 0
    assert parse("hedge:tree=4").policy().width == 4


@pytest.mark.parametrize("name", ["specbranch", "tree", "hedge"])
def test_look_ups_in_the_round_are_an_option_shown_where_it_is_on(name):
    plain, looking = parse(name), parse(f"{name}:lookup=1")
    assert looking.policy().lookup == 1
    assert looking.options == plain.options | {"lookup": 1}
    assert parse(f"{name}:lookup=0").options == plain.options
    assert min(63, plain.policy().most_nodes + 16) == looking.policy().most_nodes
    refused(SpeculativeConfig, [name, "lookup", "0", "1", "2"], method=f"{name}:lookup=2")


def test_acceptance_is_an_option_of_every_method_and_shown_where_it_is_not_the_default():
    for name in METHODS:
        assert "acceptance" not in parse(name).options
        assert not parse(f"{name}:acceptance=coupled", acceptance="rejection").rejection
        method = parse(f"{name}:acceptance=rejection")
        assert method.options == parse(name).options | {"acceptance": "rejection"}
        assert method.rejection == method.drafts  # a method without drafts rejects nothing
        assert parse(name, acceptance="rejection").rejection == method.drafts
    assert SpeculativeConfig(acceptance="rejection").resolve().rejection
    known = ["coupled", "rejection", "exact"]
    refused(SpeculativeConfig, ["acceptance", *known], acceptance="exact")
    refused(SpeculativeConfig, ["pearl", "acceptance", *known], method="pearl:acceptance=exact")


def test_options_win_over_fields():
    given = "specbranch:gamma=7,k_max=2,epsilon=0,hrad=off"
    assert knobs(given, gamma=5)[:4] == (7, 2, ADAPTIVE, 0)
    assert knobs("pearl", gamma=5)[:2] == (5, 1)
    assert parse("pearl:gamma=3").text == "pearl:gamma=3"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("specbrunch", ["specbrunch", *METHODS]),
        ("", ["''"]),
        ("none:gamma=4", ["none", "gamma"]),
        ("pearl:k_max=4", ["pearl", "k_max", "gamma"]),
        ("pearl:", ["key=value"]),
        ("pearl:gamma", ["key=value"]),
        ("pearl:gamma=", ["key=value"]),
        ("pearl:gamma=1,gamma=2", ["twice"]),
        ("pearl:gamma=0", ["gamma"]),
        ("pearl:gamma=64", ["63"]),
        ("pearl:gamma=x", ["'x'"]),
        ("specbranch:k_max=17", ["16"]),
        ("specbranch:epsilon=nan", ["epsilon"]),
        ("specbranch:epsilon=1.5", ["epsilon"]),
    ],
)
def test_a_preset_that_cannot_be_raises(text, names):
    refused(parse, names, text=text)


def test_lists_of_presets():
    assert parse_list("none,pearl:gamma=2,specbranch:k_max=1,hrad=off,none") == [
        "none",
        "pearl:gamma=2",
        "specbranch:k_max=1,hrad=off",
        "none",
    ]


def test_unknown_keywords_are_named():
    from sbrt import Engine

    with pytest.raises(InvalidInputError, match="gpu_memory_utilization"):
        Engine.from_pretrained("x", gpu_memory_utilization=0.9)
    with pytest.raises(InvalidInputError, match="num_spec_tokens"):
        Engine.from_pretrained("x", "y", speculative={"num_spec_tokens": 3})
    with pytest.raises(InvalidInputError, match="draft: given twice"):
        Engine.from_pretrained("x", "y", speculative=SpeculativeConfig(model="z"))


# --- names ---


def test_an_engine_knows_the_names_of_the_commands(tmp_path, monkeypatch):
    params = SamplingParams(temperature=0, max_tokens=12)
    with Engine.from_pretrained(demo_pair.demo_folder("target"), num_threads=1) as engine:
        want = engine.generate("def area(", params)[0].outputs[0].token_ids
    (tmp_path / "demo").mkdir()
    # This folder has a subfolder "demo", which the engine must ignore.
    monkeypatch.chdir(tmp_path)
    pearl = {"method": "pearl"}  # `auto` would spend a second on measurements
    for draft, given, own in (
        ("demo", None, "auto"), ("demo-poor", pearl, "pearl"), ("random", pearl, "pearl"),
        ("none", None, "none"), (None, None, "none"),
    ):  # fmt: skip
        with Engine.from_pretrained("demo", draft, speculative=given, num_threads=1) as engine:
            assert engine.method.name == own
            assert (engine.pair.draft is None) == (draft in ("none", None))
            assert engine.generate("def area(", params)[0].outputs[0].token_ids == want
            folders = [engine.config.model, engine.config.draft()]
            assert folders[0] == demo_pair.demo_folder("target")
    given = {"model": "demo", "method": "pearl"}
    with Engine.from_pretrained("demo", speculative=given, num_threads=1) as engine:
        assert engine.config.draft() == demo_pair.demo_folder("draft")
        assert engine.generate("def area(", params)[0].outputs[0].token_ids == want


@pytest.mark.parametrize("folder", [Path("demo"), "./demo"])
def test_a_path_is_a_folder_whatever_its_name(tmp_path, monkeypatch, folder, one_sentence):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    one_sentence(lambda: Engine.from_pretrained(folder), "config.json")
    one_sentence(lambda: Engine.from_pretrained("demo", draft=folder), "config.json")


def test_a_draft_may_have_a_device_of_its_own():
    spec = {"model": "d", "device": "cuda:2"}
    apart = EngineConfig("x", device="cuda", speculative=spec)
    assert (apart.device_index, apart.draft_index, apart.is_apart) == (0, 2, True)
    same = EngineConfig("x", device="cuda:2", speculative=spec)
    assert (same.draft_index, same.is_apart) == (2, False)
    assert not EngineConfig("x", device="cuda", speculative={"device": "cuda:2"}).is_apart
    refused(EngineConfig, ["SpeculativeConfig.device", "cuda:2"], model="x", speculative=spec)
