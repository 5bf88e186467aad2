"""Contract under test: bad sizes, names and tensors are refused in one sentence. Afterwards the
decoder can still be used."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sbrt import _core, _probe


def data_of(shape):
    return np.zeros(int(np.prod(shape)) * 4, np.uint8)


@pytest.fixture
def decoder(tools):
    return _core.Decoder(_core.DecoderConfig(**tools.SIZES))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden": 0}, "config: hidden: expected a value from 1 to .* but got 0"),
        ({"hidden": 2**62}, "config: hidden: "),
        ({"inner": -1}, "config: inner: .* but got -1"),
        ({"layers": 0}, "config: layers: "),
        ({"vocab": 0}, "config: vocab: "),
        ({"kv_heads": 4}, "config: kv_heads: expected a divisor of heads 6 but got 4"),
        ({"kv_heads": 12}, "config: kv_heads: "),
        ({"head_dim": 7}, "config: head_dim: expected an even number but got 7"),
        ({"max_positions": 0}, "config: max_positions: "),
        ({"rms_eps": float("nan")}, "config: rms_eps: "),
        ({"rope_theta": float("inf")}, "config: rope_theta: "),
        ({"window": -1}, "config: window: .* but got -1"),
    ],
)
def test_hostile_configs(tools, changes, match):
    with pytest.raises(_core.InvalidInputError, match=match):
        _core.DecoderConfig(**(tools.SIZES | changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "spiral"}, "rope kind: expected default, .* but got spiral"),
        ({"kind": "linear", "factor": 0.5}, "rope factor: .* but got 0.5"),
        ({"kind": "linear", "factor": float("nan")}, "rope factor: .* but got nan"),
        ({"kind": "llama3", "original_max": 0.0}, "rope original_max: .* but got 0"),
        ({"kind": "llama3", "low_freq": 4.0}, "rope high_freq: expected a number above 4"),
        ({"kind": "yarn", "beta_slow": 0.0}, "rope beta_slow: .* above 0 but got 0"),
        ({"kind": "yarn", "attention_factor": float("inf")}, "rope attention_factor: "),
        ({"divisors": [1.0] * 4}, "rope divisors: expected none or 5 but got 4"),
        ({"divisors": [1.0] * 4 + [0.0]}, "rope divisor: .* above 0 but got 0"),
        ({"divisors": [1.0] * 4 + [float("nan")]}, "rope divisor: .* but got nan"),
    ],
)
def test_hostile_ropes(tools, changes, match):
    with pytest.raises(_core.InvalidInputError, match=match):
        _core.DecoderConfig(**tools.SIZES, rope=_core.RopeScaling(**changes))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "match"),
    [
        ("model.norm.bias", "F32", (40,), "of this decoder but got model.norm.bias"),
        ("model.layers.2.mlp.up_proj.weight", "F32", (72, 40), "but got model.layers.2.mlp"),
        ("model.layers.0.self_attn.q_proj.bias", "F32", (60,), "but got model.layers.0.self"),
        ("model.norm.weight", "F32", (41,), r"model.norm.weight: expected \[40\] but got \[41\]"),
        ("model.norm.weight", "F32", (40, 1), r"expected \[40\] but got \[40, 1\]"),
        ("model.layers.1.self_attn.k_proj.weight", "F32", (40, 20),
         r"k_proj.weight: expected \[20, 40\] but got \[40, 20\]"),
        ("model.norm.weight", "F32", (4, 5, 2), "expected 1 or 2 but got 3"),
        ("model.norm.weight", "F32", (-40,), "expected a value from 1 to .* but got -40"),
        ("lm_head.weight", "F32", (2**40, 2**40), "overflows"),
        ("model.norm.weight", "I64", (40,), "float32, bfloat16 or float16 but got I64"),
    ],
)  # fmt: skip
def test_hostile_tensors(decoder, name, dtype, shape, match):
    size = (40,) if max(shape) > 1000 or min(shape) < 0 else shape
    with pytest.raises(_core.InvalidInputError, match=match):
        decoder.load(name, dtype, shape, data_of(size))


def test_bytes_and_strides_must_fit(decoder):
    with pytest.raises(_core.InvalidInputError, match=r"norm.weight: expected 160 but got 156"):
        decoder.load("model.norm.weight", "F32", (40,), np.zeros(156, np.uint8))
    with pytest.raises(_core.InvalidInputError, match="expected contiguous"):
        decoder.load("model.norm.weight", "F32", (40,), np.zeros(320, np.uint8)[::2])
    decoder.load("model.norm.weight", "F32", (40,), data_of((40,)))


def test_each_tensor_once_and_all_of_them(tools, decoder):
    names = list(tools.shapes_of(tools.SIZES).items())
    decoder.load("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (5,), data_of((5,)))
    for name, shape in names[:-2]:
        decoder.load(name, "F32", shape, data_of(shape))
    with pytest.raises(_core.InvalidInputError, match=f"but got {names[0][0]} twice"):
        decoder.load(names[0][0], "F32", names[0][1], data_of(names[0][1]))
    with pytest.raises(_core.InvalidInputError, match=f"expected {names[-2][0]} but it is missing"):
        decoder.finish()
    with pytest.raises(_core.InvalidInputError, match="expected finished weights"):
        _probe.LaneProbe(decoder, 8, 1, 0, 0, 1)
    for name, shape in names[-2:]:
        decoder.load(name, "F32", shape, data_of(shape))
    decoder.finish()
    with pytest.raises(_core.InvalidInputError, match="finished"):
        decoder.load(names[0][0], "F32", names[0][1], data_of(names[0][1]))
    assert (decoder.vocab, decoder.max_positions) == (67, 4096)


@pytest.mark.parametrize(
    ("shape", "match"),
    [((4097, 1, 0, 0, 1), "lane: max_len: .* 4096 but got 4097"), ((8, 513, 0, 0, 1), "max_rows"),
     ((8, 1, 65, 0, 1), "ring: branches"), ((8, 1, 1, 65, 1), "ring: tail slots"),
     ((8, 1, 0, 0, 0), "lane: threads")],
)  # fmt: skip
def test_lane_sizes(tools, shape, match):
    with pytest.raises(_core.InvalidInputError, match=match):
        _probe.LaneProbe(tools.random_decoder(), *shape)


def test_a_token_outside_the_vocabulary_is_an_error_and_the_lane_goes_on(tools):
    decoder = tools.random_decoder()
    lane = tools.Sequence(decoder, threads=2)
    with pytest.raises(_core.EngineError, match="expected a token from 0 to 66 but got 67"):
        lane.chunk([3, 67], 2)
    expected = tools.Sequence(decoder).alone([3, 4])
    assert np.array_equal(lane.chunk([3, 4], 2), expected)


@pytest.mark.parametrize(("storage", "tables"), [("float32", 1.0), ("bfloat16", 0.5)])
def test_a_tied_embedding_is_kept_once(tools, storage, tables):
    """The decoder must not take more resident memory than `tables` times the float32 embedding,
    plus 30 %. This embedding has 30 MB, far more than the rest of the decoder."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    values = np.ones((60_000, 128), np.float32)
    sizes = tools.SIZES | {"vocab": len(values), "hidden": 128, "tied": True, "layers": 1}
    before = resident()
    decoder = _core.Decoder(_core.DecoderConfig(**sizes), storage)
    decoder.load("model.embed_tokens.weight", "F32", values.shape, values.view(np.uint8))
    assert resident() - before < (tables + 0.3) * values.nbytes


ADVISED = """
import re, sys
from pathlib import Path
from sbrt import _core

def advised():
    areas = Path("/proc/self/smaps").read_text().split("VmFlags:")
    sizes = [int(re.search(r"Size: *(\\d+) kB", area)[1]) for area in areas[:-1]]
    return sum(size for size, rest in zip(sizes, areas[1:]) if " hg" in rest.splitlines()[0])

before = advised()
decoder = _core.Decoder(_core.DecoderConfig(
    hidden=256, inner=1024, layers=4, heads=4, kv_heads=4, head_dim=64, vocab=4096,
    max_positions=64, rms_eps=1e-5, rope_theta=1e4, tied=True), storage="bfloat16")
print(advised() - before, decoder.parameters)
"""


def test_weights_ask_for_large_pages():
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this system has no large pages")
    done = subprocess.run([sys.executable, "-c", ADVISED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    advised, parameters = map(int, done.stdout.split())
    assert advised * 1024 >= 2 * parameters
