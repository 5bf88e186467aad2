"""Contract under test: the logits are those of transformers in float32. The error is at most 1e-5
of the largest logit."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from sbrt import _core

TOLERANCE = 1e-5  # largest error, as a share of the largest logit
SIZES = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 104, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "attention_bias": False,
}  # fmt: skip
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_random(folder, kind, config, dtype, shard, spread=0.2):
    """Write a random checkpoint. Return the model in transformers in float32. The model has the
    rounded weights of the files."""
    torch.manual_seed(5)
    model = kind(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, spread)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def decoder_of(folder, config, storage, isa="auto"):
    decoder = _core.Decoder(
        _core.DecoderConfig(
            hidden=config.hidden_size, inner=config.intermediate_size,
            layers=config.num_hidden_layers, heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads, head_dim=config.head_dim,
            vocab=config.vocab_size, max_positions=config.max_position_embeddings,
            rms_eps=config.rms_norm_eps, rope_theta=10000.0, tied=config.tie_word_embeddings,
        ),
        storage,
        isa,
    )  # fmt: skip
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                t = tensors.get_tensor(name).contiguous()
                data = t.view(torch.uint8).numpy()
                decoder.load(name, NAMES[t.dtype], tuple(t.shape), data)
    decoder.finish()
    return decoder, len(files)


def compare(given, expected):
    scale = np.abs(expected).max()
    error = np.abs(given - expected) / scale
    at = np.unravel_index(np.argmax(error), error.shape)
    assert error[at] < TOLERANCE, f"worst at {at}: {given[at]} for {expected[at]}, {error[at]:.2e}"


@pytest.mark.parametrize("isa", _core.instruction_sets())
@pytest.mark.parametrize(
    ("tied", "heads", "kv_heads", "dtype", "shard"),
    [
        (False, 6, 2, torch.float32, "1GB"),
        (True, 6, 6, torch.float32, "30KB"),
        (False, 4, 1, torch.bfloat16, "20KB"),
        (True, 6, 3, torch.bfloat16, "1GB"),
        (False, 6, 2, torch.float16, "1GB"),
    ],
)
def test_llama(tools, tmp_path, isa, tied, heads, kv_heads, dtype, shard):
    changes = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
    }
    config = LlamaConfig(**(SIZES | changes))
    model = write_random(tmp_path, LlamaForCausalLM, config, dtype, shard)
    storage = "bfloat16" if dtype == torch.bfloat16 else "float32"
    decoder, files = decoder_of(tmp_path, config, storage, isa)
    assert (files > 1) == ("KB" in shard)
    assert decoder.parameters == sum(p.numel() for p in model.parameters())
    ids = torch.randint(0, config.vocab_size, (1, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    lane = tools.Sequence(decoder, max_len=256, threads=2)
    tokens = ids[0].tolist()
    parts = [lane.chunk(tokens[a:b], 2) for a, b in [(0, 64), (64, 128), (128, 190)]]
    compare(np.concatenate([*parts, lane.alone(tokens[190:])]), expected)


def test_saturated_softmax_and_gate(tools, tmp_path):
    """The logits must be those of transformers. Scores and gates of the layer reach hundreds, so
    exp underflows, but no sum overflows."""
    config = LlamaConfig(**(SIZES | {"num_hidden_layers": 1}), tie_word_embeddings=False)
    model = write_random(tmp_path, LlamaForCausalLM, config, torch.float32, "1GB", spread=2.5)
    ids = torch.randint(0, config.vocab_size, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    for isa in _core.instruction_sets():
        lane = tools.Sequence(decoder_of(tmp_path, config, "float32", isa)[0])
        compare(lane.chunk(ids[0].tolist()), expected)


def test_a_window_that_slides_past_the_wrap(tools, tmp_path):
    """The logits must be those of transformers. Mistral is Llama with a window, here of 32
    positions. The ring has 96 slots."""
    config = MistralConfig(**SIZES, sliding_window=32, tie_word_embeddings=False)
    config._attn_implementation = "eager"
    model = write_random(tmp_path, MistralForCausalLM, config, torch.float32, "1GB")
    decoder, _ = decoder_of(tmp_path, config, "float32")
    ids = torch.randint(0, config.vocab_size, (1, 250), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    lane = tools.Sequence(decoder, max_len=32, debug=True)
    tokens = ids[0].tolist()
    given = [lane.chunk(tokens[at : at + 29]) for at in range(0, 250, 29)]
    compare(np.concatenate(given), expected)


def test_rope_angles_of_far_positions(tools, tmp_path):
    """The keys of the first layer must be those of transformers, rotated by the expected angles.
    The layer's input is only the embedding. Below position 2^24 the expected angles are computed as
    in transformers, beyond it in float64."""
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    model = write_random(tmp_path, LlamaForCausalLM, config, torch.float32, "1GB")
    decoder, _ = decoder_of(tmp_path, config, "float32")
    lane = tools.Sequence(decoder)
    for position in (0, 1000, 2**24 - 1, 2**31 - 10, 2**40 + 3):
        lane.head = position
        lane.chunk([17])
        with torch.no_grad():
            layer = model.model.layers[0]
            k = layer.self_attn.k_proj(layer.input_layernorm(model.model.embed_tokens.weight[17]))
            k = k.view(2, 2, 6).double()  # [kv_heads, halves, head_dim / 2]
            inv_freq = model.model.rotary_emb.inv_freq
            near = position < 2**24
            angle = (inv_freq * float(position)) if near else inv_freq.double() * position
            cos, sin = angle.double().cos(), angle.double().sin()
        expected = torch.cat([k[:, 0] * cos - k[:, 1] * sin, k[:, 1] * cos + k[:, 0] * sin], -1)
        given = lane.probe.k(lane.probe.slot(position))[0]
        error = np.abs(given - expected.numpy()).max() / np.abs(expected.numpy()).max()
        # An inverse frequency of ours and of torch may differ by one unit in the last place. The
        # angle's error is then angle * 2^-24.
        assert error < 1e-6 + (0 if position < 2000 else angle.max().item() * 2.0**-24), position
