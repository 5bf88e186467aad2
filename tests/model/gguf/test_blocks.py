"""Contract under test: our weights of a GGUF file have the same bits as gguf.quants.dequantize."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from sbrt.model import stored
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.gguf.blocks import BLOCKS, NAMED, unpacked

QUANTISED = [block.name for block in BLOCKS.values() if block.unpack is not None]
LEVELS = {"int8": (-128, 127), "int4": (0, 15)}


@pytest.mark.parametrize("number", BLOCKS)
def test_numbers_names_and_sizes_are_those_of_the_package(number):
    block = BLOCKS[number]
    assert block.name == Type(number).name
    assert (block.elements, block.size) == gguf.GGML_QUANT_SIZES[Type(number)]


@pytest.mark.parametrize("name", QUANTISED)
def test_blocks_of_random_bytes(name):
    """The blocks contain every level and every small scale. Their float16 scales may be huge,
    infinite or NaN."""
    block, rng = NAMED[name], np.random.default_rng(7)
    data = rng.integers(0, 256, (512, 2, block.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data.reshape(512, -1), Type[name])
        found = unpacked(block, data.reshape(-1), 2 * block.elements)
        assert np.array_equal(found.dense(), expected, equal_nan=True)
        assert np.isfinite(expected).mean() > 0.9
    low, high = LEVELS[block.layout.element]
    levels = found.levels.astype(int)
    assert low <= levels.min() < levels.max() <= high
    assert found.scales.shape == (512, 2 * block.elements // block.layout.group)
    for kind, values in (
        (block.layout.scales, found.scales),
        (block.layout.minimums, found.minimums),
    ):
        if kind == "float16":  # values that float16 holds exactly
            assert np.array_equal(values.astype(np.float16).astype(np.float32), values, True)


@pytest.mark.parametrize("kind", [block.name for block in BLOCKS.values()])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_weights_of_a_model(files, tmp_path, monkeypatch, kind, arch):
    """Our rows of q and k must be in the order of Hugging Face's files. Weights are read several
    rows at a time, and the last part of a matrix has fewer rows."""
    monkeypatch.setattr(stored, "PIECE", 3000)
    path = files.write(tmp_path / "m.gguf", arch=arch, kind=kind, tied=False, layers=1)
    expected = files.dequantised([path])
    weights = open_checkpoint(path).weights
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        dtype, data = weights[name].numbers()
        assert np.array_equal(widened(dtype, data).reshape(values.shape), values), name


@pytest.mark.parametrize("kind", [block.name for block in BLOCKS.values()])
def test_arithmetic_has_these_weights(files, tmp_path, kind):
    """The matrices of the decoder must have the same bits as the weights that were read. So the
    decoder does not quantise them again."""
    path = files.write(tmp_path / "m.gguf", kind=kind, tied=kind == "Q4_1", layers=1)
    same_rows(open_checkpoint(path).decoder("auto"), files.dequantised([path]))


def same_rows(decoder, expected, step=1):
    for name, values in expected.items():
        if values.ndim == 2:
            for i in range(0, len(values), step):
                assert np.array_equal(decoder.row(name, i), values[i]), (name, i)


def widened(dtype, data):
    if dtype == "BF16":
        return (data.view("<u2").astype("<u4") << 16).view("<f4")
    return data.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def test_weights_of_the_real_file(files, real):
    expected = files.dequantised([real])
    same_rows(open_checkpoint(real).decoder("auto"), expected, step=97)
    weights = open_checkpoint(real).weights
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        dtype, data = weights[name].numbers()
        assert np.array_equal(widened(dtype, data).reshape(values.shape), values), name
