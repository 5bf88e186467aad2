"""Contract under test: every form of Gemma 3's config.json means the same as in transformers. If
only some layers have a window, the ring holds all positions, and the text may be longer than the
window. Every method gives the tokens of plain decoding."""

import json

import pytest

from sbrt import Engine, EngineConfig, SamplingParams, _core, _probe
from sbrt.methods import METHODS
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.config import read_config
from sbrt.model.gemma import DEFAULTS
from sbrt.model.rope import Rope

GEMMA, LLAMA = "Gemma3ForCausalLM", "LlamaForCausalLM"
LOCAL, GLOBAL = "sliding_attention", "full_attention"
WINDOW = 24
# A model of two layers; the first has a window of 24 positions. The model's ring holds all
# positions.
SMALL = {
    "architectures": [GEMMA], "head_dim": 8, "sliding_window": WINDOW, "rope_theta": 1e6,
    "layer_types": [LOCAL, GLOBAL], "max_position_embeddings": 512, "query_pre_attn_scalar": 20,
}  # fmt: skip


def read(make, folder, **changes):
    config = {k: v for k, v in make.config(**(SMALL | changes)).items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(folder)


# --- config.json ---


@pytest.mark.parametrize(
    ("changes", "local", "window"),
    [
        ({}, (True, False), WINDOW),
        ({"layer_types": [GLOBAL, LOCAL]}, (False, True), WINDOW),
        ({"layer_types": [LOCAL] * 2}, (True, True), WINDOW),
        ({"layer_types": [GLOBAL] * 2, "sliding_window": None}, (), 0),
        ({"layer_types": [LOCAL, GLOBAL], "sliding_window_pattern": 1}, (True, False), WINDOW),
        ({"layer_types": "absent", "sliding_window_pattern": 2}, (True, False), WINDOW),
        ({"layer_types": "absent", "sliding_window_pattern": 1}, (), 0),
        ({"layer_types": "absent", "sliding_window_pattern": 3}, (True, True), WINDOW),
        ({"layer_types": None, "num_hidden_layers": 7}, (*[True] * 5, False, True), WINDOW),
        ({"sliding_window": "absent"}, (True, False), DEFAULTS["sliding_window"]),
    ],
)
def test_which_layers_have_a_window(make, tmp_path, changes, local, window):
    config = read(make, tmp_path, **changes)
    assert (config.local, config.window) == (local, window)
    config.core()


def test_what_a_missing_field_means(make, tmp_path):
    """Missing fields must get the defaults of transformers, which are the sizes of the 4B model's
    text part."""
    missing = dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_theta",
         "max_position_embeddings", "tie_word_embeddings", "query_pre_attn_scalar"), "absent",
    )  # fmt: skip
    config = read(make, tmp_path, **missing)
    assert (config.heads, config.kv_heads, config.head_dim, config.vocab) == (8, 4, 256, 262208)
    assert (config.max_positions, config.tied, config.query_scalar) == (131072, True, 256)
    assert (config.rope_theta, config.local_theta) == (1e6, 1e4)


def test_both_ways_to_write_ropes(make, tmp_path):
    linear = {"rope_type": "linear", "factor": 8.0}
    old = read(make, tmp_path, rope_theta=5e5, rope_local_base_freq=300.0, rope_scaling=linear)
    assert (old.rope_theta, old.rope) == (5e5, Rope("linear", 8.0))
    assert (old.local_theta, old.local_rope) == (300.0, Rope())
    assert old.max_positions == 512  # max_positions counts stretched positions
    kinds = {GLOBAL: linear | {"rope_theta": 5e5}, LOCAL: {"rope_theta": 300.0}}
    assert read(make, tmp_path, rope_theta="absent", rope_parameters=kinds) == old
    kinds = {GLOBAL: linear, LOCAL: None}
    new = read(make, tmp_path, rope_theta=5e5, rope_local_base_freq=300.0, rope_parameters=kinds)
    assert new == old
    scaled = {LOCAL: linear}
    new = read(make, tmp_path, rope_parameters=scaled)
    assert (new.rope, new.local_rope) == (Rope(), Rope("linear", 8.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"final_logit_softcapping": 30.0}, ["final_logit_softcapping", "30"]),
        ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping", "50"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ({"hidden_activation": "silu"}, ["hidden_activation", "gelu_pytorch_tanh", "silu"]),
        ({"mlp_bias": True}, ["mlp_bias", GEMMA]),
        ({"layer_types": [LOCAL]}, ["layer_types", "2 names"]),
        ({"layer_types": [LOCAL, "chunked_attention"]}, ["layer_types[1]", "chunked_attention"]),
        ({"layer_types": [LOCAL, 5]}, ["layer_types[1]", "5"]),
        ({"layer_types": LOCAL}, ["layer_types", LOCAL]),
        ({"layer_types": None, "sliding_window_pattern": 0}, ["sliding_window_pattern", "0"]),
        ({"layer_types": None, "sliding_window_pattern": None}, ["sliding_window_pattern"]),
        ({"sliding_window": None}, ["sliding_window", "None"]),
        ({"sliding_window": 0}, ["sliding_window", "0"]),
        ({"query_pre_attn_scalar": 0}, ["query_pre_attn_scalar", "0"]),
        ({"query_pre_attn_scalar": "256"}, ["query_pre_attn_scalar", "'256'"]),
        ({"rope_local_base_freq": 0.5}, ["rope_local_base_freq", "0.5"]),
        ({"rope_local_base_freq": None}, ["rope_local_base_freq", "None"]),
        ({"rope_theta": None}, ["rope_theta", "None"]),
        ({"attn_logit_softcapping": 0}, ["attn_logit_softcapping", "0"]),
        ({"rope_parameters": {"rope_type": "default"}}, ["rope_parameters", GLOBAL, LOCAL]),
        ({"rope_parameters": {GLOBAL: [1]}}, [f"rope_parameters.{GLOBAL}", "[1]"]),
        ({"rope_parameters": {LOCAL: {"rope_type": "linear"}}}, [f"{LOCAL}.factor", "none"]),
        ({"rope_parameters": {GLOBAL: {}}, "rope_scaling": {"type": "linear", "factor": 2.0}},
         ["rope_scaling", GLOBAL]),
        ({"architectures": ["Gemma2ForCausalLM"]}, ["Gemma2ForCausalLM", GEMMA]),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, ["text_config", "None"]),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(make, tmp_path, one_sentence, changes, words):
    one_sentence(lambda: read(make, tmp_path, **changes), "config.json", *words)


def test_the_core_refuses_by_itself(make, tmp_path, one_sentence):
    config = read(make, tmp_path)
    for changes, words in (
        ({"local": (True,)}, ["local", "2"]),
        ({"window": 0}, ["window"]),
        ({"query_scalar": -1.0}, ["query_scalar"]),
        ({"local_theta": 0.0}, ["theta"]),
    ):
        changed = type(config)(**(vars(config) | changes))
        one_sentence(changed.core, *words)


# --- every method ---


def pair(make, folder, **changes):
    changes = SMALL | changes
    weights = make.weights(make.config(**changes), seed=1)
    target = make.checkpoint(folder / "target", weights=weights, **changes)
    noisy = make.noisy(weights, 0.01, seed=2)
    return target, make.checkpoint(folder / "draft", weights=noisy, **changes)


def check_methods(folders, prompt, tokens, least_accepted=20, **fields):
    """Check that every method gives the tokens of `none`, greedy and sampled. More than
    `least_accepted` drafted tokens must be accepted."""
    target, draft = folders
    config = EngineConfig(
        target, num_threads=1, max_model_len=512, speculative={"model": draft}, **fields
    )
    with Engine(config, methods=METHODS) as engine:
        for temperature in (0.0, 0.8):
            params = SamplingParams(
                temperature=temperature, seed=3, max_tokens=tokens, ignore_eos=True
            )
            [plain] = engine.generate(prompt, params, method="none")
            plain = plain.outputs[0].token_ids
            assert len(plain) == tokens
            accepted = 0
            for method in METHODS:
                [given] = engine.generate(prompt, params, method=method)
                assert given.outputs[0].token_ids == plain, method
                accepted += given.outputs[0].spec_decode_metrics["num_accepted_draft_tokens"]
            assert accepted > least_accepted


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (1, {}),
        (100, {}),
        (150, {"dtype": "bfloat16"}),
        (30, {"dtype": "int8"}),
        (100, {"dtype": "int4"}),
        (30, {"dtype": "int4", "activation_dtype": "float32"}),
    ],
    ids=str,
)
def test_every_method_equals_plain_decoding(make, tmp_path, prompt, fields):
    check_methods(pair(make, tmp_path), [i * 7 % 300 for i in range(prompt)], 80, **fields)


def test_local_layers_alone_wrap_and_go_on(make, tmp_path):
    """config.json has 64 positions and the ring has 88 slots. All layers have a window, so the text
    may be longer. Every method must give the tokens of plain decoding."""
    changes = {"layer_types": [LOCAL] * 2, "max_position_embeddings": 64}
    check_methods(pair(make, tmp_path, **changes), [i * 7 % 300 for i in range(50)], 150)


def test_a_global_layer_ends_where_its_positions_end(make, tmp_path, one_sentence):
    target, _ = pair(make, tmp_path, max_position_embeddings=64)
    one_sentence(lambda: Engine.from_pretrained(target, max_model_len=65), "max_model_len", 64, 65)


@pytest.mark.parametrize("target", [GEMMA, LLAMA])
def test_target_and_draft_of_two_families(make, tmp_path, target):
    llama = {"architectures": [LLAMA], "max_position_embeddings": 512, "head_dim": 8}
    folders = [
        make.checkpoint(tmp_path / "t", seed=1, **(SMALL if target == GEMMA else llama)),
        make.checkpoint(tmp_path / "d", seed=2, **(llama if target == GEMMA else SMALL)),
    ]
    check_methods(folders, [i * 7 % 300 for i in range(60)], 60, least_accepted=-1)


def test_a_random_draft(make, tmp_path):
    target, _ = pair(make, tmp_path)
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    with Engine.from_pretrained(target, "random", max_model_len=512, num_threads=1) as engine:
        [plain], [given] = (engine.generate([5] * 60, params, method=m) for m in ("none", None))
        assert given.outputs[0].token_ids == plain.outputs[0].token_ids


def test_nothing_outside_a_layers_window_is_read(make, tmp_path):
    """The answer must be the same with a debug ring. That ring checks the position of every slot,
    and fills dropped slots with NaN."""
    target, draft = (open_checkpoint(folder).decoder("float32") for folder in pair(make, tmp_path))
    answers = []
    for debug in (False, True):
        core = _core.EngineCore(target, draft, max_model_len=400, num_threads=1, debug=debug)
        core.begin(
            list(range(100)), _core.Sampling(temperature=0.0), _probe.policy(4, 8, adaptive=1), 250
        )
        answers.append(core.run())
        assert core.seat(0).error is None
    assert len(answers[0]) == 250
    assert answers[0] == answers[1]
