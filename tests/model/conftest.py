"""Small random decoders for the tests in this folder."""

from types import SimpleNamespace

import numpy as np
import pytest

from sbrt import _core, _probe

SIZES = {
    "hidden": 40, "inner": 72, "layers": 2, "heads": 6, "kv_heads": 2, "head_dim": 10, "vocab": 67,
    "max_positions": 4096, "rms_eps": 1e-5, "rope_theta": 1e4, "tied": False,
}  # fmt: skip


def shapes_of(sizes):
    """Return {name: shape} of a decoder's tensors."""
    off = dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias", "head_norms", "post_norms"), False)
    c = SimpleNamespace(**(off | sizes))
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    shapes = {"model.embed_tokens.weight": (c.vocab, c.hidden), "model.norm.weight": (c.hidden,)}
    for i in range(c.layers):
        layer = {
            "input_layernorm": (c.hidden,), "post_attention_layernorm": (c.hidden,),
            "self_attn.q_proj": (q, c.hidden), "self_attn.k_proj": (kv, c.hidden),
            "self_attn.v_proj": (kv, c.hidden), "self_attn.o_proj": (c.hidden, q),
            "mlp.gate_proj": (c.inner, c.hidden), "mlp.up_proj": (c.inner, c.hidden),
            "mlp.down_proj": (c.hidden, c.inner),
        }  # fmt: skip
        if c.post_norms:
            layer |= dict.fromkeys(("pre_feedforward_layernorm", "post_feedforward_layernorm"),
                                   (c.hidden,))  # fmt: skip
        if c.head_norms:
            layer |= {"self_attn.q_norm": (c.head_dim,), "self_attn.k_norm": (c.head_dim,)}
        shapes |= {f"model.layers.{i}.{name}.weight": s for name, s in layer.items()}
        biased = {"self_attn.o_proj": c.o_bias}
        biased |= dict.fromkeys((f"self_attn.{x}_proj" for x in "qkv"), c.qkv_bias)
        biased |= dict.fromkeys((f"mlp.{x}_proj" for x in ("gate", "up", "down")), c.mlp_bias)
        shapes |= {f"model.layers.{i}.{n}.bias": layer[n][:1] for n, on in biased.items() if on}
    if not c.tied:
        shapes["lm_head.weight"] = (c.vocab, c.hidden)
    return shapes


def random_decoder(
    seed=0, storage="float32", isa="auto", nan_token=None, activations="float32", **changes
):
    sizes = SIZES | changes
    rng = np.random.default_rng(seed)
    decoder = _core.Decoder(_core.DecoderConfig(**sizes), storage, isa, activations)
    for name, shape in shapes_of(sizes).items():
        data = rng.standard_normal(shape, np.float32) * 0.3
        if "norm" in name:
            data = 1 + data
        if "embed" in name and nan_token is not None:
            data[nan_token] = np.nan
        decoder.load(name, "F32", shape, data.astype(np.float32).view(np.uint8))
    decoder.finish()
    return decoder


class Sequence:
    """A lane that processes one sequence. `chunk` and `alone` return logits, [rows, vocab]."""

    def __init__(self, decoder, max_len=96, threads=1, debug=False, branches=0, tail_slots=0):
        self.probe = _probe.LaneProbe(
            decoder, max_len, 64, branches, tail_slots, threads, debug=debug
        )
        self.head = 0

    def chunk(self, tokens, width=1, logits=True):
        """Process all tokens as one path, `width` rows at a time. The tokens become part of the
        trunk."""
        rows = [self.row(t, j, (2 << j) - 1) for j, t in enumerate(tokens)]
        out = self.probe.forward(self.head, rows, width, logits)
        self.head += len(tokens)
        return out

    def alone(self, tokens):
        return np.concatenate([self.chunk([t]) for t in tokens])

    def row(self, token, j, chain, depth=None):
        """Return a row of a forward. Its KV goes to the in-flight slot of position head + j."""
        position = self.head + (j if depth is None else depth)
        return (token, position, self.probe.slot(self.head + j), -1, chain, 0)


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        random_decoder=random_decoder, Sequence=Sequence, SIZES=SIZES, shapes_of=shapes_of
    )
