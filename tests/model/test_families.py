"""Contract under test: every model family with every rope gives the logits of transformers. The
error is at most 1e-5 of the largest logit. The greedy tokens are the same. transformers writes
random checkpoints, and sbrt reads them."""

import numpy as np
import pytest
import torch
import transformers

from sbrt import Engine, SamplingParams
from sbrt.model.checkpoint import open_checkpoint

TOLERANCE = 1e-5  # largest error, as a share of the largest logit
GAP = 1e-4  # tokens may differ where the two largest logits of transformers are closer than this
WINDOW = 24  # sliding window, in positions; the ring has 88 slots
SIZES = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 104, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "eos_token_id": None, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
FAMILIES = {
    "Llama": {"head_dim": 12, "tie_word_embeddings": True},
    "Mistral": {"head_dim": 12, "sliding_window": WINDOW},
    "Qwen2": {"use_sliding_window": False, "sliding_window": 16},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "Gemma3": {
        "head_dim": 12, "sliding_window": WINDOW, "query_pre_attn_scalar": 20,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}  # fmt: skip
LOCAL = {"rope_type": "default", "rope_theta": 500.0}  # rope of Gemma 3's sliding-window layers
# original_max_position_embeddings is 64. So each boundary of a scaling has rope frequencies on both
# sides.
ROPES = {
    "default": {"rope_theta": 5e5},
    "linear": {"rope_theta": 1e4, "factor": 2.5},
    "llama3": {
        "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
}  # fmt: skip
OTHERS = {
    "Llama, attention biases": ("Llama", {"attention_bias": True}, {}),
    "Llama, MLP biases": ("Llama", {"mlp_bias": True, "tie_word_embeddings": False}, {}),
    "Qwen3, attention biases": ("Qwen3", {"attention_bias": True}, {}),
    "Mistral, no window": ("Mistral", {"sliding_window": None}, {}),
    "Mistral, wide window": ("Mistral", {"sliding_window": 4096}, {}),
    "Mistral, window of one": ("Mistral", {"sliding_window": 1}, {}),
    "Mistral, past its positions": ("Mistral", {"max_position_embeddings": 64}, {}),
    "Gemma3, biases": ("Gemma3", {"attention_bias": True, "tie_word_embeddings": False}, {}),
    "Gemma3, local layers alone": ("Gemma3", {"layer_types": ["sliding_attention"] * 3}, {}),
    "Gemma3, global layers alone": ("Gemma3", {"layer_types": ["full_attention"] * 3}, {}),
    "Gemma3, a global layer first": (
        "Gemma3",
        {"layer_types": ["full_attention", *["sliding_attention"] * 2]},
        {},
    ),
    "Gemma3, a window of one": ("Gemma3", {"sliding_window": 1}, {}),
    "Gemma3, a window beyond the text": ("Gemma3", {"sliding_window": 4096}, {}),
    "Gemma3, yarn": ("Gemma3", {}, {"mscale": 0.7}),
    "yarn, mscale": ("Qwen3", {}, {"mscale": 1.0, "mscale_all_dim": 0.7}),
    "yarn, one mscale": ("Qwen3", {}, {"mscale": 0.7}),
    "yarn, attention factor": ("Llama", {}, {"attention_factor": 0.8, "mscale": 0.7}),
    "yarn, a factor by another name": ("Qwen3", {}, {"attn_factor": 0.5}),
    "yarn, betas": ("Qwen2", {}, {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}),
    "yarn, from the model's positions": ("Llama", {}, {"original_max_position_embeddings": None}),
}


def write(folder, family, changes, rope):
    """Write a random checkpoint. Its weights are so large that logits differ clearly. Return the
    model in transformers."""
    torch.manual_seed(5)
    is_gemma = family == "Gemma3"
    kind = getattr(transformers, f"{family}{'Text' * is_gemma}Config")
    if is_gemma:
        rope = {"full_attention": rope, "sliding_attention": LOCAL}
    config = kind(**(SIZES | FAMILIES[family] | changes), rope_parameters=rope)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name and not is_gemma else 0.0, 0.2)
    model.save_pretrained(folder)
    return model


def tokens_of(n, seed):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], n).tolist()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def compare_logits(tools, folder, model):
    decoder = open_checkpoint(folder).decoder("float32")
    assert decoder.parameters == sum(p.numel() for p in model.parameters())
    tokens = tokens_of(200, seed=1)
    expected = logits_of(model, tokens)
    lane = tools.Sequence(decoder, max_len=256, threads=2, debug=True)
    pieces = [(0, 64), (64, 128), (128, 190), (190, 191), (191, 200)]
    given = np.concatenate([lane.chunk(tokens[a:b], 2) for a, b in pieces])
    error = np.abs(given - expected) / np.abs(expected).max()
    at = np.unravel_index(np.argmax(error), error.shape)
    assert error[at] < TOLERANCE, f"worst at {at}: {given[at]} for {expected[at]}, {error[at]:.2e}"


def compare_greedy(folder, model):
    """Check that our greedy tokens are those of transformers, up to the first near-tie."""
    prompt = tokens_of(40, seed=2)
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    with Engine.from_pretrained(
        folder, skip_tokenizer_init=True, num_threads=2, max_model_len=128
    ) as engine:
        given = list(engine.generate(prompt, params)[0].outputs[0].token_ids)
    assert len(given) == 64
    rows = logits_of(model, prompt + given)[len(prompt) - 1 : -1]
    best = rows.argmax(1)
    different = np.flatnonzero(best != given)
    if len(different):
        i = different[0]
        low, high = np.sort(rows[i])[-2:]
        assert high - low < GAP, f"token {i}: {given[i]} for {best[i]}, gap {high - low:.2e}"


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_a_rope(tools, tmp_path, family, rope):
    model = write(tmp_path, family, {}, {"rope_type": rope} | ROPES[rope])
    compare_logits(tools, tmp_path, model)
    compare_greedy(tmp_path, model)


@pytest.mark.parametrize("case", OTHERS)
def test_a_setting(tools, tmp_path, case):
    family, changes, yarn = OTHERS[case]
    rope = {"rope_type": "default"} | ROPES["default"]
    if yarn:
        rope = {"rope_type": "yarn"} | ROPES["yarn"] | yarn
        rope = {key: value for key, value in rope.items() if value is not None}
    model = write(tmp_path, family, changes, rope)
    compare_logits(tools, tmp_path, model)
    compare_greedy(tmp_path, model)


@pytest.mark.parametrize("family", ["Qwen3", "Gemma3"])
def test_bfloat16_weights_with_biases_and_norms(tools, tmp_path, family):
    """The logits must be those of transformers with weights rounded to bfloat16, including biases
    and norm weights. Activations are not rounded."""
    model = write(tmp_path, family, {"attention_bias": True}, {"rope_type": "default"})
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    decoder = open_checkpoint(tmp_path).decoder("auto")
    tokens = tokens_of(60, seed=3)
    expected = logits_of(model, tokens)
    given = tools.Sequence(decoder).chunk(tokens)
    assert np.abs(given - expected).max() / np.abs(expected).max() < TOLERANCE
