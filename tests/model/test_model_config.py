"""Contract under test: every family's config.json means the same as in transformers. Unsupported
features are refused; the error names the feature. Every method gives the tokens of plain
decoding."""

import json

import pytest

from sbrt import Engine, InvalidInputError, SamplingParams, _core, _probe
from sbrt.model.checkpoint import expected_shapes, open_checkpoint
from sbrt.model.config import read_config
from sbrt.model.rope import Rope

LLAMA, MISTRAL = "LlamaForCausalLM", "MistralForCausalLM"
QWEN2, QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"
METHODS = ("draft_model", "pearl", "specbranch", "specbranch:k_max=2,gamma=7")


def read(make, folder, name=LLAMA, **changes):
    config = make.config(architectures=[name], **changes)
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(folder)


def refused(call, *names):
    with pytest.raises(InvalidInputError) as caught:
        call()
    sentence = str(caught.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence


# --- switches ---


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (LLAMA, {}, {"window": 0, "qkv_bias": False, "head_norms": False, "head_dim": 8}),
        (LLAMA, {"attention_bias": True}, {"qkv_bias": True, "o_bias": True, "mlp_bias": False}),
        (LLAMA, {"mlp_bias": True}, {"qkv_bias": False, "o_bias": False, "mlp_bias": True}),
        (MISTRAL, {}, {"window": 4096, "qkv_bias": False}),
        (MISTRAL, {"sliding_window": None}, {"window": 0}),
        (MISTRAL, {"sliding_window": 7, "layer_types": ["sliding_attention"] * 2}, {"window": 7}),
        (QWEN2, {}, {"window": 0, "qkv_bias": True, "o_bias": False, "head_norms": False}),
        (QWEN2, {"sliding_window": 9, "use_sliding_window": False}, {"window": 0}),
        (QWEN2, {"max_window_layers": 1, "use_sliding_window": None}, {"window": 0}),
        (QWEN2, {"layer_types": ["full_attention"] * 2}, {"window": 0}),
        (QWEN3, {}, {"head_norms": True, "head_dim": 128, "qkv_bias": False}),
        (QWEN3, {"head_dim": 10}, {"head_dim": 10}),
        (QWEN3, {"attention_bias": True}, {"qkv_bias": True, "o_bias": True}),
    ],
)
def test_what_a_family_reads(make, tmp_path, name, changes, expected):
    config = read(make, tmp_path, name, **changes)
    assert {key: getattr(config, key) for key in expected} == expected
    config.core()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (QWEN2, {"use_sliding_window": True}, ["use_sliding_window", "not built"]),
        (QWEN3, {"use_sliding_window": True, "max_window_layers": 0}, ["not built"]),
        (QWEN3, {"use_sliding_window": "yes"}, ["use_sliding_window", "yes"]),
        (QWEN2, {"attention_bias": True}, ["attention_bias", QWEN2, "False"]),
        (QWEN3, {"mlp_bias": True}, ["mlp_bias", QWEN3, "False"]),
        (MISTRAL, {"attention_bias": True}, ["attention_bias", MISTRAL]),
        (MISTRAL, {"use_sliding_window": False, "sliding_window": 8}, ["use_sliding_window"]),
        (MISTRAL, {"sliding_window": 0}, ["sliding_window", "0"]),
        (MISTRAL, {"sliding_window": -4096}, ["sliding_window", "-4096"]),
        (MISTRAL, {"sliding_window": 8.0}, ["sliding_window", "8.0"]),
        (MISTRAL, {"sliding_window": True}, ["sliding_window", "True"]),
        (MISTRAL, {"sliding_window": 2**40}, ["sliding_window"]),
        (MISTRAL, {"layer_types": ["sliding_attention", "full_attention"]},
         ["layer_types[1]", "sliding_attention", "full_attention"]),
        (QWEN2, {"layer_types": ["full_attention"]}, ["layer_types", "2 names"]),
        (QWEN2, {"layer_types": "full_attention"}, ["layer_types", "2 names"]),
        (QWEN3, {"layer_types": ["full_attention", None]}, ["layer_types[1]", "None"]),
        (QWEN3, {"head_dim": 0}, ["head_dim", "0"]),
        (QWEN3, {"quantization_config": {"bits": 4}}, ["quantization_config"]),
    ],
)  # fmt: skip
def test_a_switch_that_cannot_be_is_refused(make, tmp_path, name, changes, words):
    refused(lambda: read(make, tmp_path, name, **changes), "config.json", *words)


def test_tensors_of_a_family(make, tmp_path):
    for name, count in [(LLAMA, 9), (MISTRAL, 9), (QWEN2, 12), (QWEN3, 11)]:
        shapes = expected_shapes(read(make, tmp_path, name, head_dim=10))
        assert len(shapes) == 2 + 2 * count
        assert shapes == make.shapes(make.config(architectures=[name], head_dim=10))


@pytest.mark.parametrize(
    ("written", "said", "tensor"),
    [(QWEN2, LLAMA, "self_attn.q_proj.bias"), (LLAMA, QWEN2, "self_attn.q_proj.bias"),
     (QWEN3, LLAMA, "self_attn.q_norm"), (LLAMA, QWEN3, "self_attn.q_norm")],
)  # fmt: skip
def test_tensors_of_another_family_are_named(make, tmp_path, written, said, tensor):
    weights = make.weights(make.config(architectures=[written], head_dim=8))
    folder = make.checkpoint(tmp_path, weights=weights, architectures=[said], head_dim=8)
    refused(lambda: open_checkpoint(folder), tensor)


# --- rope ---

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Rope()),
        ({"rope_type": "default"}, Rope()),
        ({"rope_type": "linear", "factor": 2}, Rope("linear", 2.0)),
        (LLAMA3, Rope("llama3", 8.0, 64.0, 1.0, 4.0)),
        (LLAMA3 | {"original_max_position_embeddings": None}, Rope("llama3", 8.0, 256.0)),
        (YARN | {"attention_factor": 1.0, "truncate": False, "beta_fast": 8, "beta_slow": None},
         Rope("yarn", 4.0, 64.0, beta_fast=8.0, truncate=False)),
    ],
)  # fmt: skip
def test_both_ways_to_write_rope(make, tmp_path, given, expected):
    """Both forms of a rope must be read alike: `rope_parameters`, and `rope_theta` with
    `rope_scaling`. The kind is the field `rope_type` or `type`."""
    new = read(make, tmp_path, rope_theta=None, rope_parameters=given | {"rope_theta": 5e5})
    assert (new.rope_theta, new.rope) == (5e5, expected)
    assert read(make, tmp_path, rope_theta=5e5, rope_scaling=given or None) == new
    renamed = {"type" if key == "rope_type" else key: value for key, value in given.items()}
    assert read(make, tmp_path, rope_theta=5e5, rope_scaling=renamed or None) == new
    new.core()


@pytest.mark.parametrize(
    ("given", "positions"),
    [
        ({}, 256),
        ({"rope_type": "linear", "factor": 2.5}, 640),
        ({"rope_type": "linear", "factor": 1.001}, 256),
        (LLAMA3, 256),
        (LLAMA3 | {"factor": 100.0}, 256),
        (YARN, 256),
        (YARN | {"factor": 2.0}, 128),
        (YARN | {"factor": 16.0}, 1024),
        (YARN | {"original_max_position_embeddings": None}, 1024),
        (YARN | {"factor": 2.0**25}, None),
        ({"rope_type": "linear", "factor": 1e9}, None),
    ],
)
def test_the_context_that_a_rope_is_for(make, tmp_path, given, positions):
    """max_position_embeddings is 256 in this test. The expected values are vLLM's default
    max_model_len."""
    if positions is None:
        refused(lambda: read(make, tmp_path, rope_scaling=given), "rope factor", "positions")
        return
    assert read(make, tmp_path, rope_scaling=given or None).max_positions == positions


def test_a_stretched_context_is_used_to_its_end(make, tmp_path):
    """config.json has 64 positions, and yarn extends them to 256. All methods must give the same
    tokens up to the last position."""
    folders = pair(make, tmp_path, LLAMA, rope_scaling=YARN, max_position_embeddings=64)
    with Engine.from_pretrained(*folders) as engine:
        assert engine.max_model_len == 256
    check_methods(folders, list(range(40)), 216)
    refused(lambda: Engine.from_pretrained(*folders, max_model_len=257), "max_model_len", "256")


@pytest.mark.parametrize(
    ("given", "factor"),
    [
        ({}, 1.1386294361), ({"mscale": 2.0}, 1.1386294361),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, 1.2772588722 / 1.1386294361),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0), ({"factor": 1.0}, 1.0),
        ({"attention_factor": 0.5, "mscale": 2.0, "mscale_all_dim": 1.0}, 0.5),
        ({"attn_factor": 0.5}, 1.1386294361), ({"attention_factor": 2, "attn_factor": 0.5}, 2.0),
    ],
)  # fmt: skip
def test_the_attention_factor_of_yarn(make, tmp_path, given, factor):
    """The default factor is 1 + 0.1 mscale ln(4), and 0.1 ln(4) = 0.13862943611."""
    rope = read(make, tmp_path, rope_scaling=YARN | given).rope
    assert rope.attention_factor == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["rope type", "yarn", "dynamic"]),
        ({"rope_scaling": {"rope_type": "longrope"}}, ["rope type", "longrope"]),
        ({"rope_parameters": {"rope_type": "spiral"}}, ["rope type", "spiral"]),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, ["rope type", "['yarn']"]),
        ({"rope_parameters": {"rope_type": None}}, ["rope type", "None"]),
        ({"rope_parameters": "default"}, ["rope_parameters", "default"]),
        ({"rope_scaling": [1]}, ["rope_scaling", "[1]"]),
        ({"rope_parameters": {"full_attention": {}}}, ["full_attention"]),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, ["default", "factor"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1}}, ["beta_fast"]),
        ({"rope_scaling": {"type": "linear"}}, ["rope_scaling.factor", "none"]),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, ["rope_scaling.factor", "'2'"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["rope_scaling.factor", "0"]),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, ["rope_scaling.factor", "0.5"]),
        ({"rope_scaling": {"type": "linear", "factor": 1e300}}, ["rope_scaling.factor"]),
        ({"rope_scaling": {"type": "linear", "factor": 10**400}}, ["rope_scaling.factor"]),
        ({"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}},
         ["low_freq_factor", "none"]),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, ["high_freq_factor", "1"]),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 0}}, ["low_freq_factor", "0"]),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}}, ["original_max"]),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": "64"}, ["original_max"]),
        ({"rope_scaling": YARN | {"attention_factor": 0}}, ["attention_factor", "0"]),
        ({"rope_scaling": YARN | {"beta_fast": -1}}, ["beta_fast", "-1"]),
        ({"rope_scaling": YARN | {"truncate": 1}}, ["truncate", "1"]),
        ({"rope_scaling": YARN, "rope_theta": 1}, ["yarn", "rope_theta"]),
        ({"rope_scaling": YARN | {"finetuned": True}}, ["yarn", "finetuned"]),
        ({"rope_scaling": YARN, "rope_parameters": LLAMA3}, ["rope_scaling", "both"]),
        ({"rope_theta": 0.5}, ["rope_theta", "0.5"]),
        ({"rope_parameters": {"rope_theta": True}}, ["rope_theta", "True"]),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ({"partial_rotary_factor": "half"}, ["partial_rotary_factor", "half"]),
    ],
)  # fmt: skip
def test_a_rope_that_cannot_be_is_refused(make, tmp_path, rope, words):
    refused(lambda: read(make, tmp_path, **rope), "config.json", *words)


# --- every method ---


def pair(make, folder, name, **changes):
    changes |= {"architectures": [name], "head_dim": 8}
    weights = make.weights(make.config(**changes), seed=1)
    target = make.checkpoint(folder / "target", weights=weights, **changes)
    noisy = make.noisy(weights, 0.01, seed=2)
    return target, make.checkpoint(folder / "draft", weights=noisy, **changes)


def check_methods(folders, prompt, tokens, least_accepted=20, **fields):
    """Check that every method gives the tokens of `none`, and that enough drafted tokens are
    accepted.

    Returns the number of rounds in which the draft's context limit was reached.
    """
    speculative = {"method": "specbranch", "num_speculative_tokens": 7}
    with Engine.from_pretrained(
        *folders, num_threads=1, speculative=speculative, **fields
    ) as engine:
        accepted = limited = 0
        for temperature in (0.0, 0.8):
            params = SamplingParams(
                temperature=temperature, seed=3, max_tokens=tokens, ignore_eos=True
            )
            [plain] = engine.generate(prompt, params, method="none")
            assert len(plain.outputs[0].token_ids) == tokens
            for method in METHODS:
                [given] = engine.generate(prompt, params, method=method)
                assert given.outputs[0].token_ids == plain.outputs[0].token_ids, method
                metrics = given.outputs[0].spec_decode_metrics
                accepted += metrics["num_accepted_draft_tokens"]
                limited += metrics["num_draft_limit_rounds"]
        assert accepted > least_accepted * 2 * len(METHODS)
        return limited


@pytest.mark.parametrize("name", [LLAMA, QWEN2, QWEN3])
def test_every_method_equals_plain_decoding(make, tmp_path, name):
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    check_methods(pair(make, tmp_path, name, rope_scaling=rope), list(range(40)), 80)


@pytest.mark.parametrize("prompt", [1, 24, 87, 88, 150])
def test_past_the_window_and_round_the_ring(make, tmp_path, prompt):
    """Every method must give the tokens of plain decoding. With a window of 24 both rings have 88
    slots. The text has up to 270 positions."""
    folders = pair(make, tmp_path, MISTRAL, sliding_window=24, max_position_embeddings=512)
    check_methods(folders, [i * 7 % 300 for i in range(prompt)], 120)


@pytest.mark.parametrize("windows", [(24, None), (None, 24), (24, 9)], ids=str)
def test_windows_of_target_and_draft_may_differ(make, tmp_path, windows):
    changes = {"max_position_embeddings": 512}
    target, _ = pair(make, tmp_path / "a", MISTRAL, sliding_window=windows[0], **changes)
    _, draft = pair(make, tmp_path / "b", MISTRAL, sliding_window=windows[1], **changes)
    check_methods((target, draft), [5] * 100, 150, least_accepted=-1)


@pytest.mark.parametrize("window", [24, 100])
def test_a_window_goes_on_past_the_positions_of_the_config(make, tmp_path, window):
    """Every method must give the tokens of plain decoding. config.json has 64 positions, the ring
    has window + 64 slots, and the text has 350 positions."""
    folders = pair(make, tmp_path, MISTRAL, sliding_window=window, max_position_embeddings=64)
    with Engine.from_pretrained(*folders) as engine:
        assert engine.max_model_len == 64  # by default the number of positions in config.json
    assert check_methods(folders, [i * 7 % 300 for i in range(50)], 300, max_model_len=400) == 0


def test_full_attention_ends_where_its_positions_end(make, tmp_path):
    changes = {"sliding_window": None, "max_position_embeddings": 64}
    target, _ = pair(make, tmp_path, MISTRAL, **changes)
    refused(lambda: Engine.from_pretrained(target, max_model_len=65), "max_model_len", "64", "65")


@pytest.mark.parametrize("endless", ["target", "draft", "both"])
def test_past_the_limit_of_a_draft_the_chain_is_empty_and_counted(make, tmp_path, endless):
    """A model with a window has no limit of positions; a model with full attention has one.
    `endless` names the models without a limit. Beyond the draft's limit the chain must be empty,
    and such rounds must be counted."""
    window = {"sliding_window": 24, "max_position_embeddings": 64}
    full = {"sliding_window": None, "max_position_embeddings": 64}
    long = full | {"max_position_embeddings": 256}
    target, _ = pair(make, tmp_path / "a", MISTRAL, **(long if endless == "draft" else window))
    _, draft = pair(make, tmp_path / "b", MISTRAL, **(full if endless == "target" else window))
    limited = check_methods((target, draft), [5] * 30, 200, least_accepted=-1, max_model_len=256)
    assert (limited > 500) == (endless == "target")
    assert (limited == 0) == (endless != "target")


def test_nothing_outside_the_window_is_read(make, tmp_path):
    """The answers must be the same with a debug ring. That ring checks the position of every slot,
    and fills dropped slots with NaN."""
    folders = pair(make, tmp_path, MISTRAL, sliding_window=24, max_position_embeddings=512)
    target, draft = (open_checkpoint(folder).decoder("float32") for folder in folders)
    sampling = _core.Sampling(temperature=0.0)
    answers = []
    for debug in (False, True):
        for policy in (
            _probe.policy(0),
            _probe.policy(4, 8, adaptive=1),
            _probe.policy(4, 1, serial=1),
        ):
            core = _core.EngineCore(target, draft, max_model_len=400, num_threads=1, debug=debug)
            core.begin(list(range(100)), sampling, policy, 250)
            answers.append(core.run())
            assert core.seat(0).error is None
    assert len(answers[0]) == 250
    assert all(answer == answers[0] for answer in answers)
