"""Contract under test: y = x W^T in one fixed order of additions, whatever rows and threads."""

import numpy as np
import pytest

from sbrt import _core

STORAGES = ["float32", "bfloat16"]
ISAS = _core.instruction_sets()


def bf16(a):
    """`a` rounded to bfloat16, as float32."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


def case(rows, inputs, outputs, seed=0):
    rng = np.random.default_rng([seed, rows, inputs, outputs])
    x = rng.standard_normal((rows, inputs), np.float32)
    w = rng.standard_normal((outputs, inputs), np.float32)
    return x, w


def worst(given, expected, allowed):
    error = np.abs(given - expected) / allowed
    at = np.unravel_index(np.argmax(error), error.shape)
    return f"worst at {at}: {given[at]} for {expected[at]}, allowed {allowed[at]}", error[at]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 1, 1), (1, 2, 16), (2, 3, 17), (3, 31, 15), (5, 64, 129), (6, 65, 100), (7, 33, 250),
     (8, 96, 33), (13, 7, 64), (31, 50, 48), (64, 129, 161)],
)  # fmt: skip
def test_matmul_agrees_with_float64(isa, storage, rows, inputs, outputs):
    x, w = case(rows, inputs, outputs)
    stored = bf16(w) if storage == "bfloat16" else w
    add = np.random.default_rng(1).standard_normal((rows, outputs), np.float32)
    bias = np.random.default_rng(2).standard_normal(outputs, np.float32)
    for width, added, biased in [(1, None, None), (3, add, None), (2, None, bias), (1, add, bias)]:
        y = _core.matmul_probe(x, w, storage, isa, width, added, biased)
        wide = x.astype(np.float64) @ stored.T.astype(np.float64)
        size = np.abs(x).astype(np.float64) @ np.abs(stored).T.astype(np.float64)
        if added is not None:
            wide, size = wide + added, size + np.abs(added)
        if biased is not None:
            wide, size = wide + biased, size + np.abs(biased)
        text, error = worst(y, wide, (inputs + 2) * 2.0**-24 * size)
        assert error <= 1, text


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES)
def test_every_sum_runs_over_k_from_zero_up(isa, storage):
    """With 8-bit mantissas every product and every sum before rounding is exact in float64."""
    x, w = (bf16(a) for a in case(7, 77, 70))
    expected = np.zeros((7, 70), np.float32)
    for k in range(77):
        product = x[:, k, None].astype(np.float64) * w[None, :, k]
        expected = (expected.astype(np.float64) + product).astype(np.float32)
    assert np.array_equal(_core.matmul_probe(x, w, storage, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_is_bitwise_the_row_alone(isa, storage):
    x, w = case(64, 45, 215)
    alone = np.concatenate([_core.matmul_probe(x[i : i + 1], w, storage, isa) for i in range(64)])
    for rows in range(1, 65):
        for width in (1, 2, 3):
            y = _core.matmul_probe(x[:rows], w, storage, isa, width)
            assert np.array_equal(y, alone[:rows]), (rows, width)


def test_a_panel_does_not_see_its_padding():
    x, w = case(2, 9, 5)
    x[0, 3] = np.inf
    y = _core.matmul_probe(x, w)
    assert np.array_equal(y[1], _core.matmul_probe(x[1:], w)[0])
    assert np.all(np.isinf(y[0]))


def test_unknown_instruction_set_is_named():
    x, w = case(1, 4, 4)
    with pytest.raises(_core.InvalidInputError, match=r"instruction set: .*portable but got mmx"):
        _core.matmul_probe(x, w, "float32", "mmx")
