"""Contract under test: bench.kernels names every op of a forward, with its bytes and flops."""

import json

import pytest

kernels = pytest.importorskip("bench.kernels", reason="benches run from the checkout")

QUICK = ["--checkpoints", "m2", "--repeats", "1", "--threads", "2"]
LAYERS = 4


def lines_of(capsys, *argv):
    assert kernels.main([*QUICK, *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_op_of_a_forward(capsys):
    lines = lines_of(capsys, "--rows", "3", "--context", "40")
    assert [line["op"] for line in lines] == [
        "embed", "norm + matmul + rope + kv", "attention", "matmul + add", "norm + matmul + gate",
        "matmul + add", "norm + matmul", "choose", "choose + law", "forward",
    ]  # fmt: skip
    by_shape = {line["shape"]: line for line in lines}
    gate = by_shape["192 -> 1024"]
    assert (gate["calls"], gate["rows"], gate["context"]) == (LAYERS, 3, 40)
    flops = gate["gflop_per_second"] * gate["us"] * 1e3
    assert flops == pytest.approx(2 * 3 * 192 * 1024)
    moved = gate["gb_per_second"] * gate["us"] * 1e3
    assert moved == pytest.approx(192 * 1024 * 2 + 4 * 3 * (192 + 512))  # bf16; x and what is left
    assert all(line["best_us"] <= line["us"] for line in lines)
    assert all(line["share_of_roof"] >= 0 for line in lines)


def test_dtypes_and_rows_are_measured_beside_each_other(capsys):
    lines = lines_of(capsys, "--rows", "1,2", "--dtypes", "float32,int8", "--temperature", "0.8")
    whole = [(line["dtype"], line["rows"]) for line in lines if line["op"] == "forward"]
    assert whole == [("float32", 1), ("float32", 2), ("int8", 1), ("int8", 2)]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (["--rows", "0"], "--rows: expected numbers from 1 to 64, got '0'"),
        (["--checkpoints", "m1"], "checkpoint: expected one of m37, m2, got m1"),
        (["--dtypes", "int4"], "dtype: expected float32, bfloat16 or float16 but got int4"),
        (["--isa", "mmx"], "instruction set: expected one of auto,"),
        (["--threads", "0"], "threads: expected"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flag, said):
    assert kernels.main([*QUICK, *flag]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
