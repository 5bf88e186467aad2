"""Contract under test: Gemma 3 on a device, as target and as draft, on the stand-in. Every method
has the tokens of plain decoding, alone and among other sequences, and those of the CPU's engine.
The draft may be of another family. Quantised weights have the CPU's tokens, too. bfloat16 is
rounded where transformers rounds it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sbrt import Engine, SamplingParams, _probe
from sbrt.gpu import decoder, fused, integer
from sbrt.triton_kernels import state
from tests.gpu.test_on_device import METHODS
from tests.gpu.test_same_tokens import cpu_logits, logits_of

GEMMA, LLAMA = "Gemma3", "Llama"
HEDGE = METHODS[-1]
SOME = ("draft_model", "specbranch:k_max=3", HEDGE)
GREEDY = SamplingParams(temperature=0, max_tokens=8)
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=8)
KINDS = (GREEDY, SAMPLED)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# The window is 24. So the prompts are longer, and the global layer sees more than the local one.
LENGTHS = (33, 9, 70, 26, 40, 12, 5, 18)


def answers(engine, prompts, method):
    """Return the token ids of all prompts, greedy and then sampled. Prompts share rounds."""
    return [
        out.outputs[0].token_ids
        for params in KINDS
        for out in engine.generate(prompts, params, method=method)
    ]


def config_of(tool, tools, folders, device, seats=1, dtype="float32"):
    config = tool.config_of(folders, device, max_model_len=tools.max_len, max_num_seqs=seats)
    return replace(config, dtype=dtype)


def check(tools, tool, folders, methods, seats=1, dtype="float32"):
    """Compare methods on the device with plain decoding there and on the CPU. Return the number of
    drafted tokens that were accepted."""
    prompts = [tools.prompt(LENGTHS[i], seed=i) for i in range(seats)]
    with Engine(config_of(tool, tools, folders, "cpu", seats, dtype)) as engine:
        want = answers(engine, prompts, "none")
    with Engine(config_of(tool, tools, folders, "cuda", seats, dtype), methods=METHODS) as engine:
        for method in ("none", *methods):
            assert answers(engine, prompts, method) == want, method
        [out] = engine.generate(prompts[:1], GREEDY, method=HEDGE)
        return out.outputs[0].spec_decode_metrics["num_accepted_draft_tokens"]


exact = pytest.mark.exact


@pytest.mark.parametrize(
    ("target", "draft", "seats", "methods"),
    [
        (GEMMA, GEMMA, 1, SOME),
        (GEMMA, LLAMA, 3, SOME[1:2]),
        *(
            pytest.param(target, draft, seats, METHODS[1:], marks=exact)
            for target, draft in ((GEMMA, GEMMA), (GEMMA, LLAMA), (LLAMA, GEMMA))
            for seats in (1, 8)
        ),
    ],
)
def test_every_method_answers_like_the_cpus_engine(
    tools, tool, stand_in, checkpoints, target, draft, seats, methods
):
    folders = [checkpoints[target][0].folder, checkpoints[draft][1].folder]
    accepted = check(tools, tool, folders, methods, seats)
    assert target != draft or accepted > 0


@pytest.mark.parametrize(
    ("dtype", "seats", "methods"),
    [
        ("int8", 1, SOME[1:2]),
        pytest.param("int8", 8, METHODS[1:], marks=exact),
        pytest.param("int4", 1, METHODS[1:], marks=exact),
        pytest.param("int4", 8, SOME, marks=exact),
    ],
)
def test_quantised_weights_have_the_cpus_tokens(
    tools, tool, stand_in, checkpoints, dtype, seats, methods
):
    folders = [checkpoint.folder for checkpoint in checkpoints[GEMMA]]
    assert check(tools, tool, folders, methods, seats, dtype) > 0


@exact
@pytest.mark.parametrize("layers", [[LOCAL] * 2, [GLOBAL] * 2, [GLOBAL, LOCAL]], ids=str)
def test_layers_of_one_kind_and_in_another_order(tools, tool, stand_in, tmp_path, layers):
    pair = [
        tools.write(tmp_path / name, GEMMA, noise, layer_types=layers).folder
        for name, noise in (("t", 0.0), ("d", 0.03))
    ]
    assert check(tools, tool, pair, METHODS[1:]) > 0


@pytest.mark.parametrize("products", ["fused", "cublas"])
def test_a_ring_that_wraps(tools, tmp_path, products):
    """If all layers are local, the ring has 88 slots, and 120 tokens wrap it. The first layer's
    rope is the local one, without the scaling of global layers."""
    more = {"layer_types": [LOCAL] * 2, "tie_word_embeddings": True}
    checkpoint = tools.write(tmp_path / "m", GEMMA, **more)
    tokens, lanes = tools.prompt(120, seed=3), []
    want = cpu_logits(checkpoint, tokens, tools.max_len)
    model = tools.recorded(checkpoint, lanes, products=products)
    got = logits_of(_probe.LaneProbe(model, tools.max_len, 64, 0, 0, 1), tokens)
    assert lanes[0].capacity == 88
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def calls_of_a_layer(tools, folder, model, head_dim):
    """Return the number of calls that one more layer adds to a forward."""
    counts = []
    for layers in (2, 3):
        kinds = [GLOBAL] * layers
        checkpoint = tools.write(
            *(folder / str(layers), GEMMA),
            **{"num_hidden_layers": layers, "layer_types": kinds, "head_dim": head_dim},
        )
        lanes = []
        _probe.LaneProbe(model(checkpoint, lanes), 64, 64, 0, 0, 1)
        counts.append(lanes[0].forward(state.words(state.Batch()).data_ptr(), True)[0].nodes)
    return counts[1] - counts[0]


@pytest.mark.parametrize(
    ("given", "head_dim", "expected"),
    [
        ({"products": "fused"}, 16, fused.POST_NORM_NODES),
        ({"products": "cublas"}, 16, decoder.LAYER_NODES),
        ({"dtype": "int8"}, 32, integer.LAYER_NODES + 1),  # one for rope
        ({"dtype": "int8"}, 16, integer.LAYER_NODES + 2),  # one more for the rounding of attention
    ],
    ids=str,
)
def test_nodes_of_a_layer(tools, tmp_path, given, head_dim, expected):
    def model(checkpoint, lanes):
        return tools.recorded(checkpoint, lanes, **given)

    assert calls_of_a_layer(tools, tmp_path, model, head_dim) == expected


@pytest.mark.parametrize(
    ("family", "given"), [(GEMMA, {}), (GEMMA, {"dtype": "int8"}), (LLAMA, {"dtype": "int8"})]
)
def test_features_are_those_of_the_cpus_engine(tools, tmp_path, family, given):
    more = {"layer_types": [LOCAL, GLOBAL] * 3} if family == GEMMA else {}
    more["tie_word_embeddings"] = True
    checkpoint = tools.write(tmp_path / "m", family, num_hidden_layers=6, **more)
    found = []
    for model in (
        checkpoint.decoder(given.get("dtype", "float32")),
        tools.recorded(checkpoint, **given),
    ):
        play = tools.Play(model, None, keep_features=True)
        tokens, _ = play.answer(tools.prompt(30), "none", 0.0, 4)
        found.append((tokens, np.array(play.core.seat(0).features())))
        play.close()
    (want, rows), (tokens, mine) = found
    assert tokens == want
    assert np.abs(mine - rows).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4"])
def test_norms_multiply_by_one_more_than_the_file_has(tools, tmp_path, dtype):
    """1 + w has more digits than w, so norms are float32. w is first rounded to the dtype."""
    checkpoint, lanes = tools.write(tmp_path / "m", GEMMA), []
    _probe.LaneProbe(tools.recorded(checkpoint, lanes, dtype=dtype), 64, 64, 0, 0, 1)
    weights, stored = lanes[0].weights, load_file(checkpoint.folder / "model.safetensors")
    layer, at = weights.layers[1], "model.layers.1."
    for name, norm in {
        "model.norm": weights.norm,
        f"{at}input_layernorm": layer.attention_norm,
        f"{at}post_attention_layernorm": layer.attention_after,
        f"{at}pre_feedforward_layernorm": layer.mlp_norm,
        f"{at}post_feedforward_layernorm": layer.mlp_after,
        f"{at}self_attn.q_norm": layer.q_norm,
        f"{at}self_attn.k_norm": layer.k_norm,
    }.items():
        own = torch.from_numpy(stored[f"{name}.weight"])
        assert torch.equal(norm, 1 + (own.bfloat16().float() if dtype == "bfloat16" else own)), name


@exact
@pytest.mark.parametrize("products", ["fused", "cublas"])
def test_bfloat16_is_as_near_to_float32_as_in_transformers(tools, tmp_path, products):
    """transformers rounds at more places, for example the weights of attention."""
    import transformers

    more = {"layer_types": [LOCAL, GLOBAL] * 2, "num_hidden_layers": 4}
    checkpoint = tools.write(tmp_path / "m", GEMMA, model_type="gemma3_text", **more)
    tokens = tools.prompt(100, seed=3)

    def theirs(dtype):
        kind = transformers.Gemma3ForCausalLM
        model = kind.from_pretrained(checkpoint.folder, dtype=dtype, attn_implementation="eager")
        with torch.no_grad():
            return model.eval()(torch.tensor([tokens])).logits[0].float().numpy()

    right, rounded = theirs(torch.float32), theirs(torch.bfloat16)
    model = tools.recorded(checkpoint, dtype="bfloat16", products=products)
    mine = logits_of(_probe.LaneProbe(model, tools.max_len, 64, 0, 0, 1), tokens)
    error = np.abs(mine - right).mean()
    assert error < np.abs(rounded - right).mean()
    assert np.abs(mine - rounded).mean() < 1.2 * error  # 1.4 times, if roundings were unrelated


@exact
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers_like_its_own_plain_decoding(tools, checkpoints, dtype):
    play = tools.Play(*(tools.recorded(c, dtype=dtype) for c in checkpoints[GEMMA]))
    want = play.answer(tools.prompt(40), "none", 0.8, 24)
    for method in tools.methods:
        assert play.answer(tools.prompt(40), method, 0.8, 24) == want, method
    play.close()
