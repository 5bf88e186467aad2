"""Contract under test: a matmul computes y = x W^T in one fixed order of additions, for any number
of rows and threads."""

import numpy as np
import pytest

from sbrt import _core, _probe

STORAGES = ["float32", "bfloat16", "int8"]
GROUP = 64  # number of consecutive inputs that share a scale
ISAS = _core.instruction_sets()


def bf16(a):
    """Return `a` rounded to bfloat16, as float32."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


def quantised(w):
    """Return w as int8 stores it: (levels [outputs, inputs], scales [outputs, groups])."""
    outputs, inputs = w.shape
    wide = np.zeros((outputs, -(-inputs // GROUP) * GROUP), np.float32)
    wide[:, :inputs] = w
    groups = wide.reshape(outputs, -1, GROUP)
    scales = np.abs(groups).max(axis=2) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    parts = groups / safe[:, :, None]
    away = np.sign(parts) * np.floor(np.abs(parts) + np.float32(0.5))  # round half away from zero
    return away.reshape(outputs, -1)[:, :inputs], scales


def stored(w, storage):
    """Return the weights `w` as they are after packing, as float64."""
    if storage != "int8":
        return (bf16(w) if storage == "bfloat16" else w).astype(np.float64)
    parts, scales = quantised(w)
    kept = parts.astype(np.float32) * np.repeat(scales, GROUP, axis=1)[:, : w.shape[1]]
    return kept.astype(np.float64)


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
    kept = stored(w, storage)
    add = np.random.default_rng(1).standard_normal((rows, outputs), np.float32)
    bias = np.random.default_rng(2).standard_normal(outputs, np.float32)
    for width, added, biased in [(1, None, None), (3, add, None), (2, None, bias), (1, add, bias)]:
        y = _probe.matmul_probe(x, w, storage, isa, width, added, biased)
        wide = x.astype(np.float64) @ kept.T
        size = np.abs(x).astype(np.float64) @ np.abs(kept).T
        if added is not None:
            wide, size = wide + added, size + np.abs(added)
        if biased is not None:
            wide, size = wide + biased, size + np.abs(biased)
        text, error = worst(y, wide, (inputs + 2) * 2.0**-24 * size)
        assert error <= 1, text


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES[:2])
def test_every_sum_runs_over_k_from_zero_up(isa, storage):
    """A sum must add its products in ascending order of inputs, and round after each. The values
    have 8-bit mantissas, so every product, and every sum before rounding, is exact in float64."""
    x, w = (bf16(a) for a in case(7, 77, 70))
    expected = np.zeros((7, 70), np.float32)
    for k in range(77):
        product = x[:, k, None].astype(np.float64) * w[None, :, k]
        expected = (expected.astype(np.float64) + product).astype(np.float32)
    assert np.array_equal(_probe.matmul_probe(x, w, storage, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("inputs", [1, 63, 64, 65, 200])
def test_int8_weights_are_floats_in_a_float32_sum(isa, inputs):
    """The result must have the same bits as the product with float32 weights. These are level *
    scale, rounded to float32."""
    x, w = case(5, inputs, 37)
    parts, scales = quantised(w)
    kept = parts.astype(np.float32) * np.repeat(scales, GROUP, axis=1)[:, :inputs]
    expected = _probe.matmul_probe(x, kept, "float32", isa)
    assert np.array_equal(_probe.matmul_probe(x, w, "int8", isa), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_int8_groups_without_a_scale(isa):
    """For a group of zeros the output must be zero. A weight that is not finite must make its own
    output NaN in every row. Other outputs must stay finite."""
    x = np.ones((2, 70), np.float32)
    w = np.ones((3, 70), np.float32)
    w[0] = 0
    w[1, 69] = np.inf
    y = _probe.matmul_probe(x, w, "int8", isa)
    assert np.array_equal(y[:, 0], [0, 0])
    assert np.isnan(y[:, 1]).all()
    assert np.allclose(y[:, 2], 70)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_is_bitwise_the_row_alone(isa, storage):
    x, w = case(64, 45, 215)
    alone = np.concatenate([_probe.matmul_probe(x[i : i + 1], w, storage, isa) for i in range(64)])
    for rows in range(1, 65):
        for width in (1, 2, 3):
            y = _probe.matmul_probe(x[:rows], w, storage, isa, width)
            assert np.array_equal(y, alone[:rows]), (rows, width)


def test_a_panel_does_not_see_its_padding():
    x, w = case(2, 9, 5)
    x[0, 3] = np.inf
    y = _probe.matmul_probe(x, w)
    assert np.array_equal(y[1], _probe.matmul_probe(x[1:], w)[0])
    assert np.all(np.isinf(y[0]))


def test_unknown_instruction_set_is_named():
    x, w = case(1, 4, 4)
    with pytest.raises(_core.InvalidInputError, match=r"instruction set: .*portable but got mmx"):
        _probe.matmul_probe(x, w, "float32", "mmx")
