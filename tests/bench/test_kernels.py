"""Contract under test: bench.kernels reports every op of a forward, with the right bytes and
operations."""

import json

import pytest

kernels = pytest.importorskip("bench.kernels.__main__", reason="benches run from the checkout")

QUICK = ["--checkpoints", "m2", "--repeats", "1", "--threads", "2"]
LAYERS = 4


def lines_of(capsys, *argv):
    assert kernels.main([*QUICK, *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_op_of_a_forward(capsys):
    lines = lines_of(capsys, "--rows", "3", "--context", "40")
    assert [line["op"] for line in lines] == [
        "embed", "norm + matmul + rope + kv", "attention", "matmul + add", "norm + matmul + gate",
        "matmul + add", "norm + matmul", "choose", "choose + dist", "forward",
    ]  # fmt: skip
    by_shape = {line["shape"]: line for line in lines}
    gate = by_shape["192 -> 1024"]
    assert (gate["calls"], gate["rows"], gate["context"]) == (LAYERS, 3, 40)
    flops = gate["gflop_per_second"] * gate["us"] * 1e3
    assert flops == pytest.approx(2 * 3 * 192 * 1024)
    moved = gate["gb_per_second"] * gate["us"] * 1e3
    # number of bytes of the bfloat16 weights, and of the float32 inputs and outputs
    assert moved == pytest.approx(192 * 1024 * 2 + 4 * 3 * (192 + 512))
    assert all(line["best_us"] <= line["us"] for line in lines)
    assert all(line["share_of_roof"] >= 0 for line in lines)


def test_dtypes_and_rows_are_measured_beside_each_other(capsys):
    lines = lines_of(capsys, "--rows", "1,2", "--dtypes", "float32,int8", "--temperature", "0.8")
    whole = [(line["dtype"], line["rows"]) for line in lines if line["op"] == "forward"]
    assert whole == [("float32", 1), ("float32", 2), ("int8", 1), ("int8", 2)]


def test_products_of_integers_have_a_roof_of_their_own(capsys):
    given = ["--rows", "2", "--dtypes", "int8,int4"]
    for activations in ("int8", "float32"):
        lines = lines_of(capsys, *given, "--activation-dtype", activations)
        products = [line for line in lines if "matmul" in line["op"]]
        assert {line["is_integer"] for line in products} == {activations == "int8"}
        assert {line["activation_dtype"] for line in lines} == {activations}
        assert all(line["integer_gop_per_second"] > 0 for line in lines)
        others = [line for line in lines if "matmul" not in line["op"]]
        assert not any(line["is_integer"] for line in others)


def test_the_choice_by_itself(capsys):
    lines = lines_of(capsys, "--choose", "--vocab", "4096,5000", "--rows", "1,2")
    shapes = {(line["vocab"], line["rows"]) for line in lines}
    assert shapes == {(4096, 1), (4096, 2), (5000, 1), (5000, 2)}
    for shape in shapes:
        of_shape = [line for line in lines if (line["vocab"], line["rows"]) == shape]
        named = [(line["logits"], line["sampling"]) for line in of_shape]
        assert named == [
            (kind, sampling)
            for kind in ("wide", "sharp")
            for sampling in kernels.choosing.SAMPLINGS
        ]
        for line in of_shape:
            moved = line["gb_per_second"] * line["us"] * 1e3
            assert moved == pytest.approx(4 * shape[0] * shape[1])
            assert line["best_us"] <= line["us"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (["--choose", "--vocab", "31"], "--vocab: expected numbers from 32 to 2^20, got '31'"),
        (["--choose", "--rows", "65"], "--rows: expected numbers from 1 to 64, got '65'"),
        (["--rows", "0"], "--rows: expected numbers from 1 to 64, got '0'"),
        (["--checkpoints", "m1"], "checkpoint: expected one of m37, m2, demo,"),
        (
            ["--dtypes", "int3"],
            "weight storage: expected float32, bfloat16, int8 or int4 but got int3",
        ),
        (["--isa", "mmx"], "instruction set: expected one of auto,"),
        (["--threads", "0"], "threads: expected"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flag, said):
    assert kernels.main([*QUICK, *flag]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_checkpoint_with_weights_of_its_own(capsys):
    given = ["--repeats", "1", "--threads", "1", "--rows", "2", "--json"]
    assert kernels.main([*given, "--checkpoints", "demo", "--dtypes", "auto,int4"]) == 0
    lines = json.loads(capsys.readouterr().out)
    found = {(line["dtype"], line["activation_dtype"]) for line in lines}
    assert found == {("auto", "float32"), ("int4", "int8")}
    assert kernels.main([*given, "--checkpoints", "demo", "--isa", "portable"]) == 2
    assert "--isa: expected auto for demo, got portable" in capsys.readouterr().err
