"""Contract under test: a model in a GGUF file gives the same answers as a folder with its
dequantised weights, in sbrt and in transformers. Unsupported models are refused; the error names
the feature."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.methods import METHODS
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.fingerprint import fingerprint
from sbrt.model.gguf.blocks import BLOCKS
from sbrt.serve import pair

BLOCK_TYPES = [block.name for block in BLOCKS.values()]
PROMPT = [70, 75, 80, 31, 42, 90, 200, 7]
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
GAP = 1e-4  # transformers may differ where its two largest logits are closer than this


def answer(target, draft=None, method=None, **fields):
    fields = {"num_threads": 1, "skip_tokenizer_init": True} | fields
    with Engine.from_pretrained(target, draft, **fields) as engine:
        return engine.generate(PROMPT, GREEDY, method=method)[0].outputs[0].token_ids


def compare_with_transformers(folder, answer, prompt=PROMPT, gap=GAP):
    """Check our greedy tokens: at each position, the largest logit of transformers must be that of
    our token. Stop at the first position where its two largest logits are nearly equal."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        rows = model(torch.tensor([[*prompt, *answer]])).logits[0].numpy()
    rows = rows[len(prompt) - 1 : -1]
    for i in np.flatnonzero(rows.argmax(1) != answer):
        low, high = np.sort(rows[i])[-2:]
        assert high - low < gap, f"token {i}: gap {high - low:.2e}"
        break  # after a near-tie the two texts may differ


@pytest.mark.parametrize(
    ("arch", "kind"),
    [("llama", "F16"), ("qwen2", "Q4_0"), ("qwen3", "Q6_K"), ("gemma3", "Q4_K")],
)
def test_a_family(files, tmp_path, arch, kind):
    path = files.write(tmp_path / "m.gguf", arch=arch, kind=kind, tied=arch != "qwen2")
    folder = files.folder(tmp_path / "folder", [path])
    found = answer(path, dtype="float32")
    assert found == answer(folder, dtype="float32")
    compare_with_transformers(folder, found)


def mixed(name):
    """Return the type of a tensor. The type depends on the tensor's role, as in published files."""
    types = {"token_embd": "Q6_K", "attn_v": "Q5_K", "ffn_down": "Q3_K", "attn_q": "Q5_0"}
    return next((kind for part, kind in types.items() if part in name), "Q4_K")


def test_drafts_of_other_formats_change_no_token(files, tmp_path):
    """Drafts must not change the answer. The first draft is the target in another format, so its
    tokens are often accepted. The second draft is unrelated to the target."""
    target = files.write(tmp_path / "t.gguf", kind=mixed)
    folder = files.folder(tmp_path / "folder", [target])
    plain = answer(target)
    for draft in (folder, files.write(tmp_path / "d.gguf", kind="Q8_0", layers=1, seed=3)):
        config = EngineConfig(
            target, num_threads=1, skip_tokenizer_init=True, speculative={"model": draft}
        )
        with Engine(config, methods=METHODS) as engine:
            for method in METHODS:
                found = engine.generate(PROMPT, GREEDY, method=method)[0].outputs[0]
                assert found.token_ids == plain, (draft, method)


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_every_type_at_once(files, tmp_path, activations):
    """The matrices of a layer and the embedding have different types."""
    types = itertools.cycle(BLOCK_TYPES)
    path = files.write(tmp_path / "m.gguf", kind=lambda name: next(types), layers=4)
    found = answer(path, activation_dtype=activations)
    if activations == "float32":
        compare_with_transformers(files.folder(tmp_path / "folder", [path]), found)
    method = {"method": "draft_model"}
    assert found == answer(path, path, activation_dtype=activations, speculative=method)


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_int8_activations_are_the_targets(files, tmp_path, refused, kind):
    """int8 activations need quantised weights. A draft without quantised weights computes in
    float32. A target without quantised weights is refused."""
    target = files.write(tmp_path / "t.gguf", kind="Q4_1")
    draft = files.write(tmp_path / "d.gguf", kind=kind, layers=1, seed=3)
    fields = {"activation_dtype": "int8", "speculative": {"method": "draft_model"}}
    assert answer(target, draft, **fields) == answer(target, activation_dtype="int8")
    if kind == "BF16":
        refused(lambda: answer(draft, target, **fields), "activation_dtype", "int8")


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, ("Q4_1", "int8")), ({"device": "cuda"}, ("Q4_1", "int8")),
        ({"device": "cuda", "dtype": "int8"}, ("int8", "int8")),
        ({"device": "cuda", "dtype": "float16"}, ("float16", "float16")),
    ],
)  # fmt: skip
def test_a_device_gets_the_same_weights_and_says_so(files, tmp_path, monkeypatch, fields, kept):
    path = files.write(tmp_path / "m.gguf", kind="Q4_1")
    config = EngineConfig(path, skip_tokenizer_init=True, **fields)
    monkeypatch.setattr(pair, "_model", lambda *given: SimpleNamespace(vocab=300))
    found = pair.load_pair(config)
    assert (found.dtype, found.activation_dtype) == kept


MEASURE = """
import sys
import numpy
from pathlib import Path
from sbrt.model.checkpoint import open_checkpoint

def resident(what):
    text = Path("/proc/self/status").read_text()
    return int(text.split(what + ":")[1].split()[0]) * 1024

checkpoint = open_checkpoint(Path(sys.argv[1]))
before = resident("VmRSS")
decoder = checkpoint.decoder("auto")
print(resident("VmHWM") - before)
"""


def test_loading_takes_no_second_copy(files, tmp_path):
    """Loading must not need more memory than 1.15 times the size of the file, plus 4 MiB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("/proc/self/status: expected it to measure memory, found none")
    path = files.write(
        tmp_path / "m.gguf", kind="Q4_1", hidden=1024, inner=4096, layers=3, heads=16, kv_heads=4
    )
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size = path.stat().st_size
    assert size > 25e6
    assert int(done.stdout) < 1.15 * size + 4 * 2**20


def test_a_tokenizer_of_one_file_and_a_draft_of_another(files, tmp_path, refused):
    """Tokens of target and draft are compared even if their files have different kinds. The end
    token is the one in the target's file."""
    target = files.write(tmp_path / "t.gguf")
    draft = files.write(tmp_path / "d.gguf", kind="Q8_0", layers=1, seed=3)
    other = files.write(tmp_path / "o.gguf", words="scores")
    speculative = {"method": "draft_model"}
    with Engine.from_pretrained(target, draft, num_threads=1, speculative=speculative) as engine:
        assert engine.pair.eos == {299}
        assert engine.generate("def quick(", GREEDY)[0].outputs[0].text
    refused(lambda: Engine.from_pretrained(target, other), "token 0")


def test_a_split_file_is_the_whole_one(files, tmp_path):
    (tmp_path / "parts").mkdir()
    whole = files.write(tmp_path / "m.gguf", kind="Q4_1")
    files.write(tmp_path / "parts" / "m.gguf", kind="Q4_1", split=5)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 3
    assert answer(parts[0]) == answer(whole)


# --- the meaning of the metadata ---


def with_entries(**entries):
    def more(writer):
        for key, value in entries.items():
            name = f"llama.{key.replace('__', '.')}"
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add[type(value)](name, value)

    return more


def config_with(files, tmp_path, **entries):
    path = files.write(tmp_path / "m.gguf", layers=1, more=with_entries(**entries))
    return open_checkpoint(path).config


def test_sizes(files, tmp_path):
    config = open_checkpoint(files.write(tmp_path / "m.gguf", arch="qwen3")).config
    assert (config.architecture, config.hidden, config.layers) == ("Qwen3ForCausalLM", 256, 2)
    assert (config.heads, config.kv_heads, config.head_dim) == (4, 2, 64)
    assert (config.vocab, config.max_positions, config.tied) == (300, 128, True)
    assert config.head_norms
    assert not config.qkv_bias


def test_a_window_makes_a_mistral(files, tmp_path):
    config = config_with(files, tmp_path, attention__sliding_window=24)
    assert (config.architecture, config.window) == ("MistralForCausalLM", 24)
    assert config_with(files, tmp_path, attention__sliding_window=0).window == 0


def test_ropes(files, tmp_path):
    rope = config_with(files, tmp_path, rope__scaling__type="none").rope
    assert rope.kind == "default"
    rope = config_with(
        files, tmp_path, rope__scaling__type="linear", rope__scaling__factor=4.0
    ).rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)
    config = config_with(
        files, tmp_path, rope__scaling__type="yarn", rope__scaling__factor=4.0,
        rope__scaling__original_context_length=32,
    )  # fmt: skip
    assert (config.rope.kind, config.rope.original_max) == ("yarn", 32)
    assert config.max_positions == 128


def test_frequencies_that_are_divided_are_those_of_llama3(files, tmp_path):
    """llama.cpp's converter stores llama3's rope scaling as divisors, which it computes in float64.
    The frequencies must be those of llama3."""
    dim, base, factor, low, high, original = 64, 10000.0, 8.0, 1.0, 4.0, 64
    frequencies = base ** -(np.arange(0, dim, 2) / dim)
    wavelengths = 2 * np.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelengths < original / high, 1.0, between)
    divisors = np.where(wavelengths > original / low, factor, divisors).astype(np.float32)
    path = files.write(
        tmp_path / "m.gguf",
        more=lambda writer: writer.add_tensor("rope_freqs.weight", divisors),
    )
    config = open_checkpoint(path).config
    assert config.rope.divisors == tuple(divisors.tolist())
    folder = files.folder(tmp_path / "folder", [path])
    plain = answer(folder)
    text = (folder / "config.json").read_text()
    scaling = (
        '"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, '
        '"high_freq_factor": 4.0, "original_max_position_embeddings": 64}, '
    )
    (folder / "config.json").write_text("{" + scaling + text[1:])
    assert answer(path) == answer(folder) != plain
    assert fingerprint(path) != fingerprint(folder)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"expert_count": 8}, ["llama.expert_count", "8"]),
        ({"logit_scale": 0.5}, ["llama.logit_scale", "0.5"]),
        ({"attention__clamp_kqv": 8.0}, ["clamp_kqv"]),
        ({"rope__scaling__type": "longrope"}, ["rope.scaling.type", "longrope"]),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 0.5}, ["factor"]),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": float("nan")}, ["factor"]),
    ],
)
def test_what_a_model_cannot_have_is_refused(files, tmp_path, refused, entries, words):
    refused(lambda: config_with(files, tmp_path, **entries), "m.gguf", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding_length": None}, ["llama.embedding_length", "None"]),
        ({"embedding_length": "256"}, ["llama.embedding_length", "'256'"]),
        ({"embedding_length": 2**40}, ["m.gguf"]),
        ({"block_count": 0}, ["llama.block_count"]),
        ({"block_count": 1000}, ["model.layers.2.input_layernorm.weight is missing"]),
        ({"attention.head_count": [4, 4]}, ["llama.attention.head_count"]),
        ({"attention.head_count_kv": 3}, ["divisor of 4 heads"]),
        ({"attention.value_length": 32}, ["attention.value_length", "expected 64"]),
        ({"rope.dimension_count": 32}, ["rope.dimension_count", "expected 64"]),
        ({"rope.freq_base": -1.0}, ["rope.freq_base"]),
        ({"attention.layer_norm_rms_epsilon": float("inf")}, ["epsilon"]),
    ],
)
def test_hostile_sizes_are_refused(files, tmp_path, refused, monkeypatch, change, words):
    from sbrt.model.gguf import parts

    opened = parts.open_gguf

    def changed(path):
        file = opened(path)
        for key, value in change.items():
            file.metadata[f"llama.{key}"] = value
            if value is None:
                del file.metadata[f"llama.{key}"]
        return file

    path = files.write(tmp_path / "m.gguf")
    monkeypatch.setattr(parts, "open_gguf", changed)
    refused(lambda: open_checkpoint(path), *words)


@pytest.mark.parametrize("name", ["mystery", 5, None, "llama4"])
def test_another_architecture_is_refused(files, tmp_path, refused, name):
    def more(writer):
        if isinstance(name, int):
            writer.add_uint32("general.architecture", name)
        elif name is not None:
            writer.add_string("general.architecture", name)

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].pop("general.architecture")
    more(writer)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    refused(lambda: open_checkpoint(path), "general.architecture")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("blk.0.attn_q.weight", np.zeros((8, 256), np.float32), ["attn_q", "expected shape"]),
        ("output_norm.weight", np.zeros(8, np.float32), ["output_norm", "expected shape"]),
    ],
)
def test_a_tensor_of_another_shape_is_refused(files, tmp_path, refused, name, values, words):
    path = files.write(tmp_path / "m.gguf", tensors={name: values})
    refused(lambda: open_checkpoint(path), *words)


def test_a_tensor_too_many_is_refused(files, tmp_path, refused):
    def more(writer):
        writer.add_tensor("blk.0.ffn_gate_inp.weight", np.zeros((8, 256), np.float32))

    path = files.write(tmp_path / "m.gguf", more=more)
    refused(lambda: open_checkpoint(path), "blk.0.ffn_gate_inp.weight", "expected no such tensor")


def test_a_norm_may_be_float16_and_not_quantised(files, tmp_path, refused):
    norm = {"output_norm.weight": np.zeros(256, np.float16)}
    path = files.write(tmp_path / "m.gguf", tensors=norm)
    assert open_checkpoint(path).weights["model.norm.weight"].dtype == "F16"
    blocks = files.blocks(Type.Q8_0, (1, 256), np.random.default_rng(0)).reshape(-1)
    path = files.write(tmp_path / "m.gguf", tensors={"output_norm.weight": (blocks, Type.Q8_0)})
    refused(lambda: open_checkpoint(path), "output_norm", "got Q8_0")


def test_a_missing_tensor_is_named(files, tmp_path, refused):
    path = files.write(tmp_path / "m.gguf")
    raw = path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_ux.weight")
    path.write_bytes(raw)
    refused(lambda: open_checkpoint(path), "model.layers.1.mlp.up_proj.weight is missing")


def test_progress_reaches_the_size_of_all_tensors(files, tmp_path):
    path = files.write(tmp_path / "m.gguf", kind="Q4_1")
    seen = []
    open_checkpoint(path).decoder("float32", lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
