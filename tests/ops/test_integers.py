"""Contract under test: products with quantised weights have the same bits on every machine."""

import numpy as np
import pytest

from sbrt import _core, _probe
from tests.common.integers import (
    F32,
    FORMATS,
    Matrix,
    by_group,
    groups_of,
    rounded,
    rows,
)

SETS = _probe.integer_sets()
ISAS = _core.instruction_sets()
SHAPES = [(1, 1, 1), (1, 32, 16), (2, 33, 17), (3, 70, 5), (4, 128, 33), (5, 200, 16), (9, 96, 48),
          (17, 145, 31), (64, 40, 20)]  # fmt: skip


# --- rows as integers ---


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("inputs", [1, 16, 31, 32, 33, 100, 256])
def test_rows_are_rounded_by_groups(name, inputs):
    x = rows(5, inputs)
    x[1, : min(40, inputs)] = 0
    x[2] = np.rint(x[2] * 8) / 2 * F32(2**-20)
    x[3] *= F32(1e30)
    x[3, 0] = F32(1e34)
    found = groups_of(_probe.quantise_probe(x, name), 5)
    q, scales = rounded(x)
    assert np.array_equal(found["q"], q)
    assert np.array_equal(found["scale"], scales)
    sums = q.sum(axis=2)
    halves = q.reshape(5, -1, 2, 16).sum(axis=3)
    assert np.array_equal(found["moment"], scales * sums.astype(F32))
    assert np.array_equal(found["less_128"], -128 * sums)
    assert np.array_equal(found["less_8"], -8 * sums)
    assert np.array_equal(found["half_moment"], scales[:, :, None] * halves.astype(F32))
    assert np.array_equal(found["half_less_128"], -128 * halves)


@pytest.mark.parametrize("name", SETS)
def test_halves_round_to_even(name):
    x = np.zeros((1, 32), F32)
    x[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    found = groups_of(_probe.quantise_probe(x, name), 1)
    assert found["q"][0, 0, :6].tolist() == [127, 0, 2, 2, 0, -2]


@pytest.mark.parametrize("name", SETS)
def test_magnitudes_that_no_scale_divides_count_as_zeros(name):
    least = F32(127) * np.finfo(F32).tiny
    for value, scale in [(least, least / F32(127)), (np.nextafter(least, F32(0)), 0), (1e-44, 0)]:
        x = np.full((1, 32), value, F32)
        found = groups_of(_probe.quantise_probe(x, name), 1)
        assert found["scale"][0, 0] == scale
        assert found["q"][0, 0].tolist() == [127 if scale else 0] * 32


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_everywhere_and_its_neighbours_are_not(name, bad):
    for format_name in ("int8", "Q6_K", "Q4_0", "Q4_1"):
        matrix = Matrix(format_name, 20, 70)
        probe, x = matrix.packed(), rows(3, 70)
        clean = probe.run(x, integers=name)
        x[1, 69] = bad
        y = probe.run(x, integers=name)
        assert np.isnan(y[1]).all()
        assert np.array_equal(y[[0, 2]], clean[[0, 2]])


# --- products ---


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_products_are_those_of_the_rule(name, format_name):
    for n, inputs, outputs in SHAPES:
        matrix, x = Matrix(format_name, outputs, inputs), rows(n, inputs)
        probe, expected = matrix.packed(), matrix.product(x)
        assert np.array_equal(probe.run(x, integers=name), expected), (n, inputs, outputs)
        add, bias = rows(n, outputs, 1), rows(1, outputs, 2)[0]
        y = probe.run(x, integers=name, width=2, add=add, bias=bias)
        assert np.array_equal(y, add + (expected + bias)), (n, inputs, outputs)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_the_greatest_levels_do_not_saturate(name, format_name):
    low, high = (-128, 127) if FORMATS[format_name][0] == "int8" else (0, 15)
    for level in (low, high):
        matrix = Matrix(format_name, 16, 128)
        matrix.levels[:] = level
        for value in (1.0, -1.0):
            x = np.full((2, 128), value, F32)
            y = matrix.packed().run(x, integers=name)
            assert np.array_equal(y, matrix.product(x)), (level, value)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_row_is_bitwise_the_row_alone(name, format_name):
    probe, x = Matrix(format_name, 150, 75).packed(), rows(64, 75)
    alone = np.concatenate([probe.run(x[i : i + 1], integers=name) for i in range(64)])
    for n in range(1, 65):
        y = probe.run(x[:n], integers=name, width=n % 3 + 1)
        assert np.array_equal(y, alone[:n]), n


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_rows_in_float32_see_the_weights_in_float32(isa, format_name):
    """With float32 rows, the result must have the same bits as the product of the rows and the
    dequantised weights."""
    for n, inputs, outputs in SHAPES:
        matrix, x = Matrix(format_name, outputs, inputs), rows(n, inputs)
        expected = _probe.matmul_probe(x, matrix.weights(), "float32", isa)
        assert np.array_equal(matrix.packed().run(x, isa), expected), (n, inputs, outputs)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_row_of_the_matrix_is_the_dequantised_row(format_name):
    matrix = Matrix(format_name, 37, 150)
    probe = matrix.packed()
    assert np.array_equal([probe.row(i) for i in range(37)], matrix.weights())


@pytest.mark.parametrize("name", SETS)
def test_a_gate_makes_its_result_as_integers(name):
    for inner in (16, 32, 40, 150):
        gate, up = (Matrix("Q4_1", inner, 70, seed) for seed in (1, 2))
        probe = _probe.MatmulProbe([(gate.format, inner), (up.format, inner)], 70, gated=True)
        gate.pack(probe)
        up.pack(probe, inner)
        for n in (1, 3, 8, 20):
            x = rows(n, 70)
            y = probe.run(x, integers=name)
            plain = 1 / (1 + np.exp(-gate.product(x).astype(np.float64)))
            plain = plain * gate.product(x) * up.product(x)
            assert np.allclose(y, plain, rtol=1e-5, atol=1e-5)
            for width in (1, 2, 3):
                assert probe.made(x, integers=name, width=width) == _probe.quantise_probe(y, name)


# --- matrices of several formats ---


@pytest.mark.parametrize("name", SETS)
def test_parts_keep_their_formats(name):
    parts = [Matrix("Q4_K", 48, 96, 1), Matrix("Q4_K", 16, 96, 2), Matrix("Q6_K", 21, 96, 3)]
    probe = _probe.MatmulProbe([(p.format, len(p.levels)) for p in parts], 96)
    first = 0
    for part in parts:
        part.pack(probe, first)
        first += len(part.levels)
    assert probe.bytes == sum(part.packed().bytes for part in parts)
    x = rows(7, 96)
    expected = np.concatenate([part.product(x) for part in parts], axis=1)
    for width in (1, 2, 3):
        assert np.array_equal(probe.run(x, integers=name, width=width), expected)


@pytest.mark.parametrize("other", ["Q4_1", "Q4_0", "Q6_K", "Q8_0", "Q4_K", "int4 by 128"])
def test_parts_that_share_a_panel_share_a_format_that_holds_both(other):
    first, second = Matrix("Q4_0", 21, 96, 1), Matrix(other, 13, 96, 2)
    probe = _probe.MatmulProbe([(first.format, 21), (second.format, 13)], 96)
    first.pack(probe)
    second.pack(probe, 21)
    weights = np.concatenate([first.weights(), second.weights()])
    assert np.array_equal([probe.row(i) for i in range(34)], weights)


def test_a_part_of_floats_makes_floats_of_all():
    matrix, w = Matrix("Q6_K", 16, 40), rows(16, 40)
    probe = _probe.MatmulProbe([(matrix.format, 16), (_core.Format("float32"), 16)], 40)
    matrix.pack(probe)
    probe.pack(w, 16)
    assert np.array_equal([probe.row(i) for i in range(32)], [*matrix.weights(), *w])
    x = rows(3, 40)
    expected = _probe.matmul_probe(x, np.concatenate([matrix.weights(), w]))
    assert np.array_equal(probe.run(x, integers="auto"), expected)


# --- rounding floats ---


@pytest.mark.parametrize(
    ("given", "share"),
    [(("int4", 32, "float16", "float16"), 0.85), (("int4", 32, "float16", "none", 8), 0.95)],
)
def test_int4_has_less_squared_error_than_the_range_of_a_group(given, share):
    w = np.random.default_rng(0).standard_t(5, (64, 96)).astype(F32)
    probe = _probe.MatmulProbe([(_core.Format(*given), 64)], 96)
    probe.pack(w)
    found = np.array([probe.row(i) for i in range(64)])
    groups = by_group(w, 32)
    if given[3] == "none":
        low = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)
        step, base = -low / 8, low
    else:
        base = groups.min(axis=2, keepdims=True)
        step = (groups.max(axis=2, keepdims=True) - base) / 15
    plain = base + step * np.rint((groups - base) / step).clip(0, 15)
    errors = [((by_group(a, 32) - groups) ** 2).sum() for a in (found, plain.reshape(64, -1))]
    assert errors[0] < share * errors[1]


def test_int4_holds_what_it_can_hold():
    matrix = Matrix("Q4_1", 40, 96)
    matrix.scales, matrix.minimums = np.abs(matrix.scales) + F32(2**-8), -np.abs(matrix.minimums)
    matrix.scales = np.exp2(np.rint(np.log2(matrix.scales)))
    matrix.minimums = np.rint(matrix.minimums * 64) / F32(64)
    matrix.levels[:, ::32], matrix.levels[:, 1::32] = 0, 15
    probe = _probe.MatmulProbe([(matrix.format, 40)], 96)
    probe.pack(matrix.weights())
    assert np.array_equal([probe.row(i) for i in range(40)], matrix.weights())


@pytest.mark.parametrize("format_name", ["Q4_1", "int8", "Q8_0"])
def test_a_weight_that_is_not_finite_is_not_hidden(format_name):
    for bad in (np.nan, np.inf, *([3e38] if format_name == "Q4_1" else [])):
        w = rows(3, 70)
        w[0] = 0
        w[1, 69] = bad
        probe = _probe.MatmulProbe([(_core.Format(*FORMATS[format_name]), 3)], 70)
        probe.pack(w)
        for integers in ["", *SETS]:
            y = probe.run(np.ones((2, 70), F32), integers=integers)
            assert np.array_equal(y[:, 0], [0, 0])
            assert np.isnan(y[:, 1]).all()
            assert np.isfinite(y[:, 2]).all()


@pytest.mark.parametrize("size", [1.0, 2.0**-14, 2.0**-22, 2.0**14])
def test_scales_in_float16_round_to_nearest(size):
    """Ties must round to even, also among the subnormal numbers of float16."""
    scales = np.arange(1, 4001, dtype=np.float64)[:, None] / 4096 * size
    scales[:3] = np.array([[1 + 2**-11], [1 + 3 * 2**-11], [1 + 2**-11 + 2**-20]]) * size
    w = np.zeros((4000, 32), F32)
    w[:, :1] = scales * 127
    probe = _probe.MatmulProbe([(_core.Format("int8", 32, "float16"), 4000)], 32)
    probe.pack(w)
    kept = (w[:, 0] / F32(127)).astype(np.float16).astype(F32)
    top = np.where(kept > 0, np.rint(w[:, 0] / np.where(kept > 0, kept, 1)).clip(0, 127), 0)
    assert np.array_equal([probe.row(i)[0] for i in range(4000)], kept * top.astype(F32))


# --- refusals ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("int4", 16, "float16"), "group: expected 32, 64, 128 but got 16"),
        (("int8", 48, "float16"), "group: expected 32, 64, 128 or 16 but got 48"),
        (("int8", 32, "none"), "expected scales but got none"),
        (("int8", 32, "float16", "none", 8), "zero: expected 0, or 8 in int4 without minimums"),
        (("int4", 32, "float16", "float16", 8), "zero: expected 0, or 8 in int4 without minimums"),
        (("float32", 32), "expected floats without group"),
        (("int3", 32), "expected float32, bfloat16, int8 or int4 but got int3"),
        (("int8", 32, "bfloat16"), "expected numbers none, float16 or float32 but got bfloat16"),
    ],
)
def test_formats_that_no_kernel_has_are_refused(given, said):
    with pytest.raises(_core.InvalidInputError, match=said):
        _core.Format(*given)


def test_rows_that_the_format_does_not_hold_are_refused():
    matrix = Matrix("Q4_1", 16, 64)
    probe = matrix.packed()
    levels, scales, minimums = matrix.levels.astype(np.uint8), matrix.scales, matrix.minimums
    for changed, said in [
        ((np.where(levels == 3, 16, levels), scales, minimums), "expected 0 to 15 but got 16"),
        ((levels, scales + F32(2**-20), minimums), "scale 0: expected a number that float16 holds"),
        ((levels, scales, minimums + F32(2**-20)), "minimum .*: expected a number that float16"),
        ((levels, scales, None), "expected minimums where the format has them"),
        ((levels[:, :63], scales, minimums), "columns: expected 64 but got 63"),
    ]:
        with pytest.raises(_core.InvalidInputError, match=said):
            probe.pack_levels(matrix.format, *changed)


def test_unknown_integer_products_are_named():
    with pytest.raises(_core.InvalidInputError, match=r"integer products: .*portable but got mmx"):
        _probe.quantise_probe(np.ones((1, 32), F32), "mmx")
