"""Contract under test: a model folder is untrusted until every size, name and byte is checked.
Every fault raises an error of one sentence that names the fault. This happens before memory of a
claimed size is allocated."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams
from sbrt._core import Decoder
from sbrt.model.checkpoint import expected_shapes, open_checkpoint
from sbrt.model.config import read_config, read_eos
from sbrt.model.safetensors_file import open_file
from sbrt.serve.pair import load_pair

TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def refused(call, *names):
    with pytest.raises(InvalidInputError) as caught:
        call()
    sentence = str(caught.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence


# --- the header ---


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        ({"a": TENSOR}, b"x" * 23, None, ["24", "23"]),
        ({"a": TENSOR}, b"x" * 25, None, ["24", "25"]),
        ({"a": TENSOR}, b"x" * 24, 10**6, ["at most", "1000000"]),
        ({"a": TENSOR}, b"x" * 24, 2**63, ["at most"]),
        ({"a": TENSOR | {"dtype": "F31"}}, b"x" * 24, None, ["dtype", "F31"]),
        ({"a": TENSOR | {"dtype": ["F32"]}}, b"x" * 24, None, ["dtype"]),
        ({"a": TENSOR | {"shape": [2, 4]}}, b"x" * 24, None, ["32 bytes", "24"]),
        ({"a": TENSOR | {"shape": [-2, -3]}}, b"x" * 24, None, ["shape"]),
        ({"a": TENSOR | {"shape": [2, 3.0]}}, b"x" * 24, None, ["shape"]),
        ({"a": TENSOR | {"shape": [True, 6]}}, b"x" * 24, None, ["shape"]),
        ({"a": TENSOR | {"shape": [2**32, 2**32]}}, b"x" * 24, None, ["bytes"]),
        ({"a": TENSOR | {"shape": [2**62, 4]}}, b"x" * 24, None, ["bytes"]),
        ({"a": TENSOR | {"shape": [1] * 9}}, b"x" * 24, None, ["shape"]),
        ({"a": TENSOR | {"data_offsets": [24, 0]}}, b"x" * 24, None, ["bytes"]),
        ({"a": TENSOR | {"data_offsets": [0, 24, 48]}}, b"x" * 24, None, ["offsets"]),
        ({"a": TENSOR | {"data_offsets": [8, 32]}}, b"x" * 32, None, ["byte 0", "8"]),
        ({"a": TENSOR, "b": TENSOR}, b"x" * 24, None, ["byte 24"]),
        ({"a": TENSOR | {"more": 1}}, b"x" * 24, None, ["dtype, shape and data_offsets"]),
        ({"a": 5}, b"", None, ["'a'"]),
        (b'{"a": 1, "a": 2}', b"", None, ["twice"]),
        (b'{"a": NaN}', b"", None, ["NaN"]),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", None, ["JSON"]),
        (b"[" * 100_000, b"", None, ["begins with"]),
        (b'{"a": ' + b"[" * 100_000, b"", None, ["JSON"]),
        (b'{"a": "\xff"}', b"", None, ["JSON"]),
        (b"", b"", None, ["begins with"]),
    ],
)
def test_a_wrong_header_is_refused(make, tmp_path, header, data, length, words):
    path = tmp_path / "model.safetensors"
    make.write_file(path, header, data, length)
    refused(lambda: open_file(path), "model.safetensors", *words)


def test_a_file_shorter_than_its_length_field_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\1\0\0")
    refused(lambda: open_file(path), "8 bytes", "3")


def test_a_header_of_more_than_16_megabytes_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 17 * 2**20))
        file.truncate(18 * 2**20)
    refused(lambda: open_file(path), str(16 * 2**20))


def test_what_the_library_writes_is_read_back(tmp_path):
    save = pytest.importorskip("safetensors.numpy").save_file
    wanted = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, np.float16)}
    save(wanted, tmp_path / "x.safetensors", metadata={"format": "np"})
    found = {n: (e, d) for n, e, d in open_file(tmp_path / "x.safetensors").read()}
    assert found.keys() == wanted.keys()
    for name, (entry, data) in found.items():
        assert entry.shape == wanted[name].shape
        assert bytes(data) == wanted[name].tobytes()


# --- config.json ---

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "vocab_size", "max_position_embeddings")  # fmt: skip


def written(make, folder, **changes):
    config = make.config(**changes)
    (folder / "config.json").write_text(json.dumps(config))
    return lambda: read_config(folder)


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2.0, "32", True, None, [32], 2**31, 10**30], ids=str)
def test_a_hostile_size_is_refused(make, tmp_path, key, value):
    refused(written(make, tmp_path, **{key: value}), key)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_key_value_heads", 3, ["divisor"]),
        ("num_key_value_heads", 0, []),
        ("head_dim", 7, ["even"]),
        ("hidden_size", 34, ["multiple"]),
        ("rms_norm_eps", -1, []),
        ("rms_norm_eps", "0", []),
        ("rope_theta", 0, []),
        ("rope_theta", True, []),
        ("hidden_act", "gelu", ["silu"]),
        ("tie_word_embeddings", "false", []),
        ("attention_bias", 1, ["True or False"]),
        ("mlp_bias", "no", ["True or False"]),
        ("quantization_config", {}, ["quant_method"]),
        ("sliding_window", 128, ["expects null", "128"]),
        ("partial_rotary_factor", 0.5, ["expected 1", "0.5"]),
    ],
)
def test_a_config_that_cannot_be_is_refused(make, tmp_path, key, value, words):
    refused(written(make, tmp_path, **{key: value}), key, *words)


@pytest.mark.parametrize(
    "names",
    [None, [], "LlamaForCausalLM2", ["LlamaForCausalLM", "X"], 3, ["GPT2LMHeadModel"]],
)
def test_a_family_that_cannot_be_is_refused(make, tmp_path, names):
    refused(written(make, tmp_path, architectures=names), "architectures")


def test_sizes_with_a_default(make, tmp_path):
    assert written(make, tmp_path, num_key_value_heads=None)().kv_heads == 4
    assert written(make, tmp_path, head_dim=None)().head_dim == 8
    assert written(make, tmp_path, head_dim=16)().head_dim == 16


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a":Infinity}', b"\xff\xfe", b"{}" * 2])
def test_what_is_not_json_is_refused(tmp_path, raw):
    (tmp_path / "config.json").write_bytes(raw)
    refused(lambda: read_config(tmp_path), "config.json")


GENERATION, CONFIG = "generation_config.json", "config.json"


@pytest.mark.parametrize(
    ("config", "generation", "file", "ids"),
    [
        ([1, 2], {"eos_token_id": 3}, GENERATION, {3}),
        ([1, 2], {"eos_token_id": [3, 4, 3]}, GENERATION, {3, 4}),
        (320, {"eos_token_id": 0}, GENERATION, {0}),  # config.json is not read, so 320 is no error
        ([1, 2], {"eos_token_id": None}, CONFIG, {1, 2}),
        ([1, 2], {"eos_token_id": []}, CONFIG, {1, 2}),
        (7, {"temperature": 1.0}, CONFIG, {7}),
        (7, None, CONFIG, {7}),
        (None, None, CONFIG, set()),
    ],
)
def test_end_ids_are_those_of_one_file(make, tmp_path, config, generation, file, ids):
    written(make, tmp_path, eos_token_id=config)
    if generation is not None:
        (tmp_path / GENERATION).write_text(json.dumps(generation))
    assert read_eos(tmp_path, 320) == (tmp_path / file, ids)


@pytest.mark.parametrize("given", [320, -1, "2", True, 2.0, [[2]], [None], {"id": 2}])
@pytest.mark.parametrize("file", [GENERATION, CONFIG])
def test_end_ids_that_cannot_be_are_refused(make, tmp_path, given, file):
    written(make, tmp_path, eos_token_id=given if file == CONFIG else None)
    if file == GENERATION:
        (tmp_path / GENERATION).write_text(json.dumps({"eos_token_id": given}))
    refused(lambda: read_eos(tmp_path, 320), f"{file}, eos_token_id")


# --- names, shapes, shards ---


def test_no_folder_no_weights(make, tmp_path):
    refused(lambda: open_checkpoint(tmp_path / "none"), "none", "folder")
    written(make, tmp_path)
    refused(lambda: open_checkpoint(tmp_path), "model.safetensors")


@pytest.mark.parametrize("change", ["drop", "add", "shape", "dtype"])
def test_a_tensor_that_does_not_fit_is_named(make, tmp_path, change):
    weights = make.weights(make.config())
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "drop":
        del weights[name]
    elif change == "add":
        weights["model.layers.2.mlp.up_proj.weight"] = weights[name]
    elif change == "shape":
        weights[name] = weights[name].T.copy()
    folder = make.checkpoint(tmp_path / "m", weights=weights)
    if change == "dtype":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"dtype": "F32"', b'"dtype": "I32"'))
    refused(lambda: open_checkpoint(folder), "mlp.up_proj" if change != "dtype" else "I32")


def test_a_hostile_config_does_not_allocate(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m")
    written(make, folder, vocab_size=2**24, hidden_size=2**18)
    refused(lambda: Engine.from_pretrained(folder), "expected shape")


def test_a_tied_head_may_be_stored_again_but_not_differ(make, tmp_path):
    weights = make.weights(make.config())
    embed = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    weights["lm_head.weight"] = embed
    open_checkpoint(make.checkpoint(tmp_path / "same", weights=weights))
    weights["lm_head.weight"] = embed + 1
    folder = make.checkpoint(tmp_path / "other", weights=weights)
    refused(lambda: open_checkpoint(folder), "lm_head")


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors",
     "x.bin", "", None, 5, "missing.safetensors"],
    ids=str,
)  # fmt: skip
def test_a_shard_stays_in_the_folder(make, tmp_path, shard):
    folder = make.checkpoint(tmp_path / "m", shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = shard
    path.write_text(json.dumps(index))
    refused(lambda: open_checkpoint(folder), "safetensors")


def test_index_and_shards_name_the_same_tensors(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m", shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    refused(lambda: open_checkpoint(folder), "model.norm.weight", "shard only")


def test_expected_shapes_are_those_of_the_config(make, tmp_path):
    config = written(make, tmp_path, tie_word_embeddings=False)()
    assert expected_shapes(config)["lm_head.weight"] == (320, 32)
    assert len(expected_shapes(config)) == 3 + 9 * 2


# --- loaded weights ---


def answer(folder, **fields):
    with Engine.from_pretrained(folder, num_threads=1, **fields) as engine:
        params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
        return engine.generate("def quick(", params)[0].outputs[0].token_ids


def test_shards_and_storages_hold_the_same_model(make, tmp_path):
    weights = make.weights(make.config(), seed=5)
    # These values fit into the precision of bfloat16 and into the range of float16. So they are
    # exact in every dtype.
    exact = {
        n: np.round(w * 64).clip(-127, 127).astype(np.float32) / 64 for n, w in weights.items()
    }
    one = answer(make.checkpoint(tmp_path / "one", weights=exact))
    assert one == answer(make.checkpoint(tmp_path / "three", weights=exact, shards=3))
    assert one == answer(make.checkpoint(tmp_path / "f16", weights=exact, dtype="F16"))
    bf16 = make.checkpoint(tmp_path / "bf16", weights=exact, dtype="BF16")
    assert one == answer(bf16, dtype="float32")
    assert one == answer(bf16)
    assert one == answer(tmp_path / "one", dtype="bfloat16")


@pytest.mark.parametrize(
    ("dtype", "asked", "kept"),
    [
        ("BF16", "auto", "bfloat16"), ("F32", "auto", "float32"), ("F16", "auto", "float32"),
        ("BF16", "float32", "float32"), ("F32", "bfloat16", "bfloat16"),
        ("BF16", "int8", "int8"),
    ],
)  # fmt: skip
def test_auto_keeps_what_the_checkpoint_has(make, tmp_path, dtype, asked, kept):
    folder = make.checkpoint(tmp_path / "m", dtype=dtype)
    assert open_checkpoint(folder).storage(asked) == kept


@pytest.mark.parametrize(
    ("dtype", "asked", "kept"),
    [
        ("bfloat16", "auto", "float32"), ("float32", "float32", "float32"),
        ("int8", "auto", "int8"), ("int4", "auto", "int8"), ("int8", "float32", "float32"),
        ("int4", "int8", "int8"),
    ],
)  # fmt: skip
def test_activations_are_int8_next_to_quantised_weights(make, tmp_path, dtype, asked, kept):
    folder = make.checkpoint(tmp_path / "m", dtype="BF16")
    assert open_checkpoint(folder).activations(dtype, asked) == kept
    config = EngineConfig(folder, dtype=dtype, activation_dtype=asked)
    pair = load_pair(config)
    assert (pair.dtype, pair.activation_dtype) == (dtype, kept)


def test_int8_activations_next_to_floats_are_refused(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m", dtype="BF16")
    config = EngineConfig(folder, activation_dtype="int8")
    refused(lambda: load_pair(config), "activation_dtype", "bfloat16", "int8")


def test_int8_is_a_storage_and_no_dtype_of_a_tensor(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m", dtype="BF16")
    assert len(answer(folder, dtype="int8")) == len(answer(folder))
    decoder = Decoder(open_checkpoint(folder).config.core(), storage="int8")
    with pytest.raises(InvalidInputError, match=r"dtype: expected float32, .* but got int8"):
        decoder.load("model.norm.weight", "int8", (1,), b"1")


PEAK = """
import sys
from pathlib import Path
import numpy
from sbrt.model.checkpoint import open_checkpoint

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

open_checkpoint(Path(sys.argv[1])).decoder(sys.argv[3])  # what python itself needs for it
checkpoint = open_checkpoint(Path(sys.argv[2]))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = resident("VmRSS")
decoder = checkpoint.decoder(sys.argv[3])
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize(("dtype", "bytes_of_a_weight"), [("int4", 0.625), ("bfloat16", 2)])
def test_loading_needs_no_second_copy(make, tmp_path, dtype, bytes_of_a_weight):
    """Loading must not need more memory than the sum of three sizes: 1.15 times the packed weights,
    the largest tensor, and 4 MiB of heap."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process its peak of memory")
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 5}
    weights = {
        name: np.resize(np.float32([0.5, -0.25, 1, 0.75]), shape)
        for name, shape in make.shapes(make.config(**sizes)).items()
    }
    large = make.checkpoint(tmp_path / "large", weights=weights, dtype="BF16", **sizes)
    small = make.checkpoint(tmp_path / "small", dtype="BF16")
    command = [sys.executable, "-c", PEAK, small, large, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    packed = sum(w.size for w in weights.values()) * bytes_of_a_weight
    largest = 2 * max(w.size for w in weights.values())
    assert int(done.stdout) <= 1.15 * packed + largest + 2**22


# --- the pair ---


def test_a_draft_with_other_tokens_is_refused(make, folders, tmp_path):
    folder = make.checkpoint(tmp_path / "d")
    make.write_tokenizer(folder, extra=["<|other|>"])
    refused(lambda: Engine.from_pretrained(folders[0], folder), "token 1", "<|other|>")


@pytest.mark.parametrize(("change", "swap"), [("rename", False), ("rename", True), ("add", False)])
def test_the_first_token_that_differs_is_named(make, folders, tmp_path, change, swap):
    """The error must name the first token that differs. The vocabularies have the same size but two
    different strings, or one of them has one more token."""
    other = make.checkpoint(tmp_path / "d")
    path = other / "tokenizer.json"
    given = json.loads(path.read_text())
    words = given["model"]["vocab"]
    if change == "rename":  # the last two tokens, which no merge needs
        for i, word in enumerate(sorted(words, key=words.get)[298:]):
            words[f"other {i}"] = words.pop(word)
        given["model"]["merges"] = given["model"]["merges"][:-2]
    else:
        words["other 0"] = 300
    path.write_text(json.dumps(given))
    pair = (other, folders[0]) if swap else (folders[0], other)
    token = "token 298" if change == "rename" else "token 300"
    refused(lambda: Engine.from_pretrained(*pair), token, "'other 0'")


@pytest.mark.parametrize(("target", "draft"), [(320, 336), (336, 320), (300, 512), (512, 300)])
@pytest.mark.parametrize("plain", [False, True])
def test_a_padded_vocabulary_is_cut_to_the_tokenizer(make, tmp_path, target, draft, plain):
    """The vocabulary must have the tokenizer's 300 ids. Without a tokenizer it must have the
    target's size."""
    sizes = {"target": target, "draft": draft}
    pair = [make.checkpoint(tmp_path / name, vocab_size=n) for name, n in sizes.items()]
    given = {"num_threads": 1, "speculative": {"method": "specbranch"}}
    with Engine.from_pretrained(*pair, **given, skip_tokenizer_init=plain) as engine:
        most = target if plain else 300
        assert engine.pair.vocab == most
        params = SamplingParams(max_tokens=60, temperature=50.0, seed=1, ignore_eos=True)
        given = [engine.generate([1, 2], params, method=m)[0] for m in ("none", "specbranch")]
        first, second = (output.outputs[0].token_ids for output in given)
        assert first == second
        assert max(first) < most
        refused(lambda: engine.generate([most], params), "token id", str(most))


@pytest.mark.parametrize("method", ["none", "draft_model", "pearl", "specbranch"])
def test_ids_that_no_token_has_never_come(make, tmp_path, method):
    """The vocabulary has holes: 100 ids have no token. These ids must never be sampled."""
    folders = [make.checkpoint(tmp_path / name) for name in ("target", "draft")]
    for folder in folders:
        path = folder / "tokenizer.json"
        raw = json.loads(path.read_text())
        merged = {part for merge in raw["model"]["merges"] for part in merge}
        words = raw["model"]["vocab"]
        gone = [w for w in words if len(w) == 1 and w not in merged][:100]
        holes = {words.pop(word) for word in gone}
        path.write_text(json.dumps(raw))
    assert len(holes) == 100
    given = {"num_threads": 1, "speculative": {"method": "specbranch"}}
    with Engine.from_pretrained(*folders, **given) as engine:
        assert set(engine.pair.holes) == holes
        assert engine.pair.vocab == 300  # largest id + 1, although some ids have no token
        params = SamplingParams(max_tokens=200, temperature=50.0, seed=1, ignore_eos=True)
        [plain] = engine.generate([1, 2], params, method="none")[0].outputs
        [found] = engine.generate([1, 2], params, method=method)[0].outputs
    assert len(set(found.token_ids)) > 80
    assert not set(found.token_ids) & holes
    assert found.token_ids == plain.token_ids


def test_a_tokenizer_that_is_none_is_refused(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    refused(lambda: Engine.from_pretrained(folder), "tokenizer.json")
    (folder / "tokenizer.json").unlink()
    refused(lambda: Engine.from_pretrained(folder), "tokenizer.json")
