"""Contract under test: sbrt reads folders of gptq, awq and compressed-tensors. The weights are w =
s (q - z), with scale s, level q and zero point z. Unsupported options are refused; the error names
the option."""

import json

import numpy as np
import pytest

from sbrt import Engine, SamplingParams
from sbrt.model import stored
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.draft import open_draft
from sbrt.model.safetensors_file import bfloat16, encode, widened
from sbrt.triton_kernels.packed import PackedMatrix
from tests.common.logits import check_device

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320,
}  # fmt: skip
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def packed(values, bits, order=None):
    """Pack values [..., n] of `bits` bits into int32 [..., n bits / 32], lowest bits first. order:
    for each field of an int32, the index of the value in this field."""
    fields = 32 // bits
    out = np.zeros((*values.shape[:-1], -(-values.shape[-1] // fields)), np.uint32)
    for at in range(values.shape[-1]):
        word, i = divmod(at, fields)
        place = i if order is None else order.index(i)
        out[..., word] |= values[..., at].astype(np.uint32) << np.uint32(bits * place)
    return out.view(np.int32)


def random_parts(rng, shape, bits, group):
    """Return random levels [out, in], zero points and scales [out, groups] of a matrix. Levels and
    zero points are unsigned."""
    groups = shape[1] // group
    q = rng.integers(0, 1 << bits, shape)
    z = rng.integers(1, 1 << bits, (shape[0], groups))
    s = (rng.uniform(0.5, 1.5, (shape[0], groups)) / (1 << bits)).astype(np.float16)
    return q, z, s


def dense(q, z, s, group):
    wide = np.repeat(s.astype(np.float32), group, 1)
    return wide * (q - np.repeat(z, group, 1)).astype(np.float32)


def gptq(name, q, z, s, bits, group, less=1):
    return {
        f"{name}.qweight": packed(q, bits).T.copy(),
        f"{name}.qzeros": packed((z - less).T.copy(), bits),
        f"{name}.scales": s.T.copy(),
        f"{name}.g_idx": (np.arange(q.shape[1]) // group).astype(np.int32),
    }


def awq(name, q, z, s, bits, group):
    return {
        f"{name}.qweight": packed(q.T.copy(), bits, AWQ_ORDER),
        f"{name}.qzeros": packed(z.T.copy(), bits, AWQ_ORDER),
        f"{name}.scales": s.T.copy(),
    }


def pack_quantized(name, q, z, s, bits, group):
    return {
        f"{name}.weight_packed": packed(q, bits),
        f"{name}.weight_scale": s,
        f"{name}.weight_shape": np.array(q.shape, np.int64),
        f"{name}.weight_zero_point": packed(z.T.copy(), bits).T.copy(),
    }


def int_quantized(name, q, z, s, bits, group):
    return {
        f"{name}.weight": (q - 128).astype(np.int8),
        f"{name}.weight_scale": s,
        f"{name}.weight_zero_point": (z - 128).astype(np.int8),
    }


def without_zeros(pack):
    """Return a function that packs symmetric weights by `pack`. All zero points are the middle
    level, and the packed tensors leave them out."""

    def symmetric(name, q, z, s, bits, group):
        z[:] = 1 << bits - 1
        parts = pack(name, q, z, s, bits, group)
        return {key: value for key, value in parts.items() if "zero_point" not in key}

    return symmetric


def compressed(layout, bits, group, symmetric):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False}
    weights |= {"strategy": "group" if group else "channel", "group_size": group}
    group_0 = {"weights": weights, "targets": ["Linear"], "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": layout,
        "config_groups": {"group_0": group_0}, "ignore": ["lm_head"],
    }  # fmt: skip


def gptq_config(bits, group, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False} | more


def awq_config(group, **more):
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"} | more


ROW = 0  # group size 0: one scale for each row
CASES = {
    "gptq, 4 bits": (gptq, 4, 32, gptq_config(4, 32)),
    "gptq, 8 bits": (gptq, 8, 64, gptq_config(8, 64, sym=False)),
    "gptq, a whole row": (gptq, 4, ROW, gptq_config(4, -1)),
    "gptq_v2": (
        lambda *parts: gptq(*parts, less=0), 4, 32, gptq_config(4, 32, checkpoint_format="gptq_v2"),
    ),
    "awq": (awq, 4, 32, awq_config(32)),
    "awq, its first names": (
        awq, 4, 64, {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"},
    ),
    "pack-quantized": (pack_quantized, 4, 32, compressed("pack-quantized", 4, 32, False)),
    "pack-quantized, symmetric": (
        without_zeros(pack_quantized), 4, 32, compressed("pack-quantized", 4, 32, True),
    ),
    "pack-quantized, 8 bits": (pack_quantized, 8, 64, compressed("pack-quantized", 8, 64, False)),
    "int-quantized": (int_quantized, 8, ROW, compressed("int-quantized", 8, None, False)),
    "int-quantized, symmetric": (
        without_zeros(int_quantized), 8, 32, compressed("int-quantized", 8, 32, True),
    ),
}  # fmt: skip


def write(make, folder, case, *, scales="F16", change=None, **more):
    """Write a folder with quantised projections. Return {name: weights as float32}."""
    pack, bits, group, config = CASES[case]
    rng = np.random.default_rng(4)
    tensors, expected = {}, {}
    raw = make.config(**SIZES)
    for name, values in make.weights(raw, seed=3).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = expected[name] = values
            continue
        columns = group or values.shape[1]
        q, z, s = random_parts(rng, values.shape, bits, columns)
        parts = pack(name.removesuffix(".weight"), q, z, s, bits, columns)
        if scales == "BF16":
            rounded = bfloat16(s.astype(np.float32))
            s = widened(rounded)
            parts = {k: bfloat16(v.astype(np.float32)) if "scale" in k else v
                     for k, v in parts.items()}  # fmt: skip
        expected[name] = dense(q, z, s, columns)
        tensors |= parts
    if change is not None:
        change(tensors)
    make.checkpoint(folder, **SIZES, quantization_config=config | more)
    (folder / "model.safetensors").write_bytes(encode(tensors, {}))
    return expected


def plain_folder(make, folder, expected):
    make.checkpoint(folder, **SIZES, weights=expected)
    return folder


def answer(folder, method="none", **fields):
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    with Engine.from_pretrained(folder, num_threads=1, **fields) as engine:
        return engine.generate("def quick(", params, method=method)[0].outputs[0].token_ids


@pytest.mark.parametrize("scales", ["F16", "BF16"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_formula(make, tmp_path, monkeypatch, case, scales):
    """The weights must be those of the formula, w = s (q - z). They are read in parts. A part ends
    inside an int32 that packs eight outputs."""
    monkeypatch.setattr(stored, "PIECE", 13 * 64)
    expected = write(make, tmp_path / "m", case, scales=scales)
    weights = open_checkpoint(tmp_path / "m").weights
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        dtype, data = weights[name].numbers()
        assert dtype == "F32"
        found = data.view(np.float32).reshape(values.shape)
        assert np.array_equal(found, values), name


@pytest.mark.parametrize("case", ["gptq, 4 bits", "awq", "pack-quantized", "int-quantized"])
def test_answers_are_those_of_the_plain_folder(make, tmp_path, case):
    expected = write(make, tmp_path / "m", case)
    plain = plain_folder(make, tmp_path / "plain", expected)
    assert answer(tmp_path / "m", dtype="float32") == answer(plain)


@pytest.mark.parametrize("case", CASES)
def test_arithmetic_has_these_weights(make, tmp_path, case):
    """The matrices of the decoder must have the same bits as the weights that were read. So the
    decoder does not quantise them again."""
    expected = write(make, tmp_path / "m", case)
    decoder = open_checkpoint(tmp_path / "m").decoder("auto")
    for name, values in expected.items():
        if name.endswith("_proj.weight"):
            found = np.stack([decoder.row(name, i) for i in range(len(values))])
            assert np.array_equal(found, values), name
    assert len(answer(tmp_path / "m")) == 24


def test_a_draft_of_some_ids(make, tmp_path):
    """The draft's LM head has rows for some ids and is quantised like its other matrices. d2t is a
    plain tensor."""
    ids = np.arange(3, 320, 5)
    q, z, s = random_parts(np.random.default_rng(5), (len(ids), 64), 4, 32)

    def trim(tensors):
        del tensors["model.embed_tokens.weight"]
        tensors.update(pack_quantized("lm_head", q, z, s, 4, 32))
        tensors["d2t"] = ids - np.arange(len(ids))

    target = make.checkpoint(tmp_path / "target", **SIZES)
    write(make, tmp_path / "m", "pack-quantized", change=trim)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "draft_vocab_size": len(ids)}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    draft = open_draft(tmp_path / "m", open_checkpoint(target))
    assert draft.head_ids == tuple(ids)
    decoder = draft.decoder("auto", target=open_checkpoint(target).decoder("auto"))
    found = np.stack([decoder.row("lm_head.weight", i) for i in range(len(ids))])
    assert np.array_equal(found, dense(q, z, s, 32))
    for dtype in ("auto", "int4"):
        given = {"dtype": dtype, "draft": tmp_path / "m"}
        assert answer(target, method="pearl", **given) == answer(target, dtype=dtype)


# --- unsupported folders ---


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["quant_method", "gptq, awq, compressed-tensors", "None"]),
        (5, ["quantization_config", "object"]),
        ({"quant_method": "bitsandbytes"}, ["'bitsandbytes'"]),
        ({"quant_method": "fp8"}, ["'fp8'"]),
        (gptq_config(3, 32), ["bits", "4, 8", "got 3"]),
        (gptq_config(True, 32), ["bits", "got True"]),
        (gptq_config(4, 32, desc_act=True), ["desc_act", "got True"]),
        (gptq_config(4, 0), ["group_size"]),
        (gptq_config(4, "32"), ["group_size", "'32'"]),
        (gptq_config(4, 2**70), ["group_size"]),
        (gptq_config(4, 32, checkpoint_format="marlin"), ["checkpoint_format", "'marlin'"]),
        (awq_config(32, bits=8), ["bits", "got 8"]),
        (awq_config(32, version="gemv"), ["version", "'gemv'"]),
        (awq_config(32, zero_point=False), ["zero_point", "False"]),
        (compressed("float-quantized", 8, 32, True), ["format", "'float-quantized'"]),
        (compressed("int-quantized", 4, 32, True), ["num_bits", "got 4"]),
        (compressed("pack-quantized", 2, 32, True), ["num_bits", "got 2"]),
        (compressed("pack-quantized", 4, 32, None), ["symmetric", "None"]),
        (compressed("pack-quantized", 4, 32, True) | {"config_groups": {}}, ["one group, got 0"]),
        (compressed("pack-quantized", 4, 32, True) | {"config_groups": []}, ["config_groups"]),
    ],
)
def test_a_scheme_that_is_not_supported_is_named(make, tmp_path, one_sentence, config, words):
    folder = make.checkpoint(tmp_path / "m", quantization_config=config)
    one_sentence(lambda: open_checkpoint(folder), "quantization_config", *words)


@pytest.mark.parametrize(
    ("key", "value"),
    [("type", "float"), ("dynamic", True), ("actorder", "weight"), ("strategy", "tensor"),
     ("group_size", 48.0), ("group_size", 16)],
)  # fmt: skip
def test_weights_that_are_not_supported_are_named(make, tmp_path, one_sentence, key, value):
    config = compressed("pack-quantized", 4, 32, True)
    config["config_groups"]["group_0"]["weights"][key] = value
    write(make, tmp_path / "m", "pack-quantized, symmetric", **config)
    word = "groups of 16" if value == 16 else key
    one_sentence(lambda: open_checkpoint(tmp_path / "m"), word)


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("case", "suffix", "value", "words"),
    [
        ("gptq, 4 bits", "qzeros", None, [f"{Q}.qzeros", "found none"]),
        ("gptq, 4 bits", "g_idx", None, [f"{Q}.g_idx", "found none"]),
        ("gptq, 4 bits", "qzeros", np.zeros((2, 7), np.int32), ["qzeros", "[2, 8]", "[2, 7]"]),
        ("gptq, 4 bits", "scales", np.zeros((2, 64), np.float32), ["scales", "F16", "F32"]),
        ("gptq, 4 bits", "qweight", np.zeros((8, 64, 1), np.int32), ["qweight", "matrix"]),
        ("gptq, 4 bits", "qweight", np.zeros((7, 64), np.int32), ["columns"]),
        ("awq", "qweight", np.zeros((64, 9), np.int32), ["qzeros", "[2, 9]", "[2, 8]"]),
        ("pack-quantized", "weight_zero_point", None, ["weight_zero_point", "found none"]),
        ("pack-quantized", "weight_scale", np.zeros((64, 1), np.float16), ["weight_scale"]),
        ("int-quantized", "weight", np.zeros((64, 64), np.uint8), ["weight", "I8", "U8"]),
    ],
)
def test_parts_that_do_not_fit_are_named(
    make, tmp_path, one_sentence, case, suffix, value, words
):  # fmt: skip
    def change(tensors):
        tensors[f"{Q}.{suffix}"] = value
        if value is None:
            del tensors[f"{Q}.{suffix}"]

    write(make, tmp_path / "m", case, change=change)
    one_sentence(lambda: open_checkpoint(tmp_path / "m"), *words)


@pytest.mark.parametrize(
    ("case", "suffix", "word"),
    [("gptq, 4 bits", "g_idx", "desc_act"), ("pack-quantized", "weight_shape", "[64, 64]")],
)
def test_numbers_that_do_not_fit_are_refused_as_they_are_read(
    make, tmp_path, one_sentence, case, suffix, word
):  # fmt: skip
    def change(tensors):
        tensors[f"{Q}.{suffix}"] = tensors[f"{Q}.{suffix}"][::-1] * 2

    write(make, tmp_path / "m", case, change=change)
    one_sentence(lambda: Engine.from_pretrained(tmp_path / "m", num_threads=1), suffix, word)


def test_a_folder_without_quantised_matrices_is_refused(make, tmp_path, one_sentence):
    folder = make.checkpoint(tmp_path / "m", quantization_config=gptq_config(4, 32))
    one_sentence(lambda: open_checkpoint(folder), "*.qweight")


def test_a_matrix_of_another_shape_is_refused(make, tmp_path, one_sentence):
    write(make, tmp_path / "m", "awq")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 256}))
    one_sentence(lambda: open_checkpoint(tmp_path / "m"), "gate_proj", "expected shape")


@pytest.mark.parametrize("case", ["gptq, 4 bits", "awq", "int-quantized"])
def test_a_device_has_the_cpus_logits(make, tmp_path, case):
    write(make, tmp_path / "m", case)
    weights = check_device(open_checkpoint(tmp_path / "m"))
    assert isinstance(weights.layers[0].down.weight, PackedMatrix)
