"""Contract under test: checkpoints of benches. A random checkpoint in a folder has the same weights
as the one in memory. An inflated checkpoint has more parameters and gives bitwise the same
logits."""

import numpy as np
import pytest

from sbrt import _probe
from sbrt.model import demo_pair
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.tokenizer import Tokenizer
from sbrt.tools.prompts import BUILT_IN

inflate = pytest.importorskip("bench.models.inflate", reason="benches run from the checkout")
from bench.models import checkpoints, sizes  # noqa: E402

TARGET = demo_pair.demo_folder(demo_pair.TARGET)
SMALL = 22_000_000  # number of parameters; layers are added and MLPs widened, but tests stay fast
TOKENS = 24


class Probe:
    """Computes a decoder's logits, and keeps the KV of the tokens it has read."""

    def __init__(self, decoder):
        self.lane = _probe.LaneProbe(decoder, 512, 64, 0, 0, 1, debug=False)
        self.head = 0

    def logits(self, tokens):
        """Feed at most 64 more tokens without branching. Return their logits, [tokens, vocab]."""
        rows = [
            (token, self.head + j, self.lane.slot(self.head + j), -1, (2 << j) - 1, 0)
            for j, token in enumerate(tokens)
        ]
        self.head += len(tokens)
        return self.lane.forward(self.head - len(tokens), rows, 1, True)


def greedy(decoder, prompt):
    """Decode TOKENS tokens greedily. Returns the logits at the prompt and at these tokens, and the
    tokens."""
    probe = Probe(decoder)
    found = [probe.logits(prompt[at : at + 64]) for at in range(0, len(prompt), 64)]
    tokens = []
    for _ in range(TOKENS):
        tokens.append(int(found[-1][-1].argmax()))
        found.append(probe.logits(tokens[-1:]))
    return np.concatenate(found), tokens


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    out = tmp_path_factory.mktemp("inflated") / "model"
    inflate.inflate(TARGET, SMALL, out)
    return open_checkpoint(out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_inflated_checkpoint_computes_bitwise_the_same(larger, dtype):
    tokenizer = Tokenizer(TARGET / "tokenizer.json")
    source, target = open_checkpoint(TARGET).decoder(dtype), larger.decoder(dtype)
    for text in BUILT_IN[:5] if dtype == "bfloat16" else BUILT_IN[:1]:
        prompt = tokenizer.encode(text, 400)
        (expected, tokens), (logits, same) = greedy(source, prompt), greedy(target, prompt)
        assert same == tokens
        assert np.array_equal(logits, expected)


def test_an_inflated_checkpoint_costs_what_was_asked_for(larger):
    assert larger.config.layers == inflate.MOST_LAYERS
    assert larger.decoder("bfloat16").parameters == inflate.count(larger.config)
    assert abs(inflate.count(larger.config) / SMALL - 1) <= 0.02
    big = inflate.larger(open_checkpoint(TARGET).config, 75_000_000)
    assert (big.layers, abs(inflate.count(big) / 75e6 - 1) <= 0.02) == (24, True)


def test_what_is_new_is_random_but_for_output_projections(larger):
    [file] = larger.files
    tensors = {name: data.view(np.uint16).reshape(e.shape) for name, e, data in file.read()}
    inner = open_checkpoint(TARGET).config.inner
    assert not tensors["model.layers.0.mlp.down_proj.weight"][:, inner:].any()
    assert tensors["model.layers.0.mlp.down_proj.weight"][:, :inner].any()
    assert (tensors["model.layers.0.mlp.up_proj.weight"][inner:] != 0).mean() > 0.99
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert not tensors[f"model.layers.23.{name}.weight"].any()
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"):
        assert (tensors[f"model.layers.23.{name}.weight"] != 0).mean() > 0.99


def test_a_random_checkpoint_holds_the_weights_of_the_one_in_memory(tmp_path):
    checkpoints.write_random("m2", tmp_path)
    written = open_checkpoint(tmp_path)
    assert written.config == sizes.config_of("m2")
    prompt = list(range(1, 40))
    expected, tokens = greedy(sizes.decoder_of("m2", "bfloat16"), prompt)
    logits, same = greedy(written.decoder("auto"), prompt)
    assert same == tokens
    assert np.array_equal(logits, expected)


def test_a_checkpoint_is_written_once_and_whole(tmp_path):
    given = checkpoints.given("m2", tmp_path)
    assert given.draft is None
    weights = given.target / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert checkpoints.given("m2", tmp_path) == given
    assert weights.stat().st_mtime_ns == before

    def fails(out):
        out.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.cached(tmp_path, "other", fails)
    assert not (tmp_path / "checkpoints" / "other").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--to", "75Q"], "--to: expected parameters as 75M, got '75Q'"),
        (["--to", "1M"], "--to: expected at least the 5770496 parameters there are, got 1000000"),
        (["--to", "5900000"], "--to: expected a size that whole neurons give, got 5900000"),
        (["--to", "75M", "--source", "nowhere"], "model: expected a folder with config.json"),
        ([], "the following arguments are required: --to"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, argv, said):
    assert inflate.main([*argv, str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(tmp_path, capsys):
    assert inflate.main(["--to", "75M", str(tmp_path)]) == 2
    assert "OUT: expected a folder that does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
