"""Contract under test: bench.lanes computes the bytes of a forward from the model's sizes, prints a
line for each graph, and refuses bad input in one sentence."""

import pytest

lanes = pytest.importorskip("bench.lanes.__main__", reason="benches run from the checkout")


def test_bytes_of_a_forward():
    """The bytes of a forward of Llama 3.1 8B follow from its sizes. It has 8,030,261,248
    parameters. Of these, 525,336,576 are in the embedding and 266,240 in norms. The KV of a token
    has 2 x 8 x 128 values in each of 32 layers."""
    config = lanes.config_of("8b")
    weights = 8_030_261_248 - 525_336_576 - 266_240
    assert lanes.moved_bytes(config, 0, 2) == 2 * weights
    assert lanes.moved_bytes(config, 1000, 2) == 2 * (weights + 1000 * 32 * 2 * 8 * 128)


def test_the_products_are_those_of_a_lane():
    lane = pytest.importorskip("sbrt.gpu.lane")
    assert lanes.PRODUCTS == lane.PRODUCTS


def test_a_line():
    line = {"lane": "T", "rows": 16, "us": 4321.04, "spread": [4300.0, 4400.0], "gb_per_s": 3500.4,
            "share_of_roof": 0.7512, "us_overlapped": 5000.0, "us_overlapped_target_first": 4800.0,
            "nodes": 292, "nodes_per_layer": 9.125}  # fmt: skip
    wanted = "T | 16 | 4321.0 (4300.0-4400.0) | 3500 | 75 | 5000.0 | 4800.0 | 292 | 9.1"
    assert lanes.render(line) == wanted


def test_flops_of_a_prompt():
    """The operations of a prompt piece follow from the sizes of the 8B model. All 32 layers compute
    keys and values. The other ops run in 31 layers only. A layer has 218,103,808 weights, of which
    q, k and v have 25,165,824."""
    config = lanes.config_of("8b")
    weights = 31 * 218_103_808 + 25_165_824
    assert lanes.prefill_flops(config, 0, 1) == 2 * weights + 31 * 4 * 4096
    assert lanes.prefill_flops(config, 10, 2) == 4 * weights + 31 * 4 * 4096 * (11 + 12)


def test_a_line_of_a_prompt():
    line = {"lane": "T", "rows": 512, "us": 14000.04, "spread": [13900.0, 14100.0],
            "tokens_per_s": 36571.3, "tflop_per_s": 520.04, "share_of_products": 0.661}  # fmt: skip
    wanted = "T | 512 | 14000.0 (13900.0-14100.0) | 36571 | 520.0 | 66"
    assert lanes.render_feed(line) == wanted


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--models", "8b"], "--models: expected two of 8b, 1b, got 8b"),
        (["--models", "8b,70b"], "--models: expected two of 8b, 1b, got 8b,70b"),
        (["--context", "9000"], "--context: expected a number from 1 to 8064, got 9000"),
        (["--positions", "131073"], "--positions: expected a number from 256 to 131072"),
        (["--rows", "16,17"], "--rows: expected some of 1, 16, 32, 64, got 16,17"),
        (["--seconds", "0"], "--seconds: expected a number up to 600, got 0"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flags, said):
    assert lanes.main(flags) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
