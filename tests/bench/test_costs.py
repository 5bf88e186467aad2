"""Contract under test: estimates for a device come from compiled kernels. One command makes all the
cost files of the package. Figures of bench.lanes give a file of the same form. Bad figures are
refused in one sentence."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sbrt.tools.costs import SHIPPED, read_costs, shipped

costs = pytest.importorskip("bench.gpu.costs", reason="benches run from the checkout")
cost_file = pytest.importorskip("bench.gpu.cost_file")
nodes = pytest.importorskip("bench.gpu.nodes")
from bench.gpu.launches import Binary, Launch  # noqa: E402
from bench.models.real import config_of, moved_bytes  # noqa: E402

ROOT = Path(__file__).parents[2]


def ran(*words):
    """Run the command in a process that can compile kernels, and return its stdout. Compiled
    kernels are cached."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(ROOT / "build" / "triton")
    command = [sys.executable, "-m", "bench.gpu.costs", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def same_compiler():
    """Skip the test if the installed Triton is not that of constraints.txt. The cost files count
    the instructions that its compiler makes."""
    [made_by] = re.findall(r"^triton==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if version("triton") != made_by:
        pytest.skip(f"triton: expected {made_by}, whose instructions the cost files count")


@pytest.mark.usefixtures("same_compiler")
def test_a_shipped_figure_is_that_of_the_kernels():
    """The estimate for the demo pair's draft step of one row must equal the time in the cost file.

    If a kernel has changed, run `python -m bench.gpu.costs --write`.
    """
    *_, total = ran("h200-demo", "--graph", "t1").splitlines()
    us = float(total.rpartition("|")[2])
    file = json.loads((SHIPPED / "h200-demo.json").read_text())
    assert f"{file['t']['1']:.1f}" == f"{us + cost_file.STEP_OPS:.1f}"


@pytest.mark.exact
@pytest.mark.usefixtures("same_compiler")
def test_the_command_makes_all_shipped_files(tmp_path):
    ran("--write", tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SHIPPED.iterdir()}


def test_every_pair_has_a_file():
    assert shipped() == sorted(costs.PAIRS)
    for name, pair in costs.PAIRS.items():
        model = read_costs(name)
        assert model.target(1) == model.target(16)  # 1 row and 16 rows run the same graph
        assert 0 < model.draft(1) <= model.draft(4) <= model.draft(16) < model.draft(512)
        # The demo pair is limited by latency, so its lanes do not slow each other down.
        if name == "h200-demo":
            assert model.target_overlapped(1) == model.target(1)
            continue
        assert model.target(16) < model.target(17) < model.target(64)
        assert (model.target_overlapped(1) > model.target(1)) == (pair.devices == 1)
        assert (model.draft_overlapped(1) > model.draft(1)) == (pair.devices == 1)


def test_rounds_of_an_8b_agree_with_an_earlier_estimate():
    """The shipped costs must agree with an estimate made by hand from figures of single kernels.

    That estimate was 9.1 ms for a serial round of gamma 4 and 7.0 to 7.6 ms for an overlapped
    round. Reading the bytes alone takes 6.5 ms. Since then attention and norms became faster, by a
    tenth at most.
    """
    model = read_costs("h200-8b-1b")
    serial = model.target(5) + 4 * model.draft(1) + model.round_cost + model.turns_cost
    assert 0.9 * 9.1e-3 <= serial <= 9.1e-3
    burst = 5 * model.draft_overlapped(1)
    both = max(model.target_overlapped(5), burst) + model.round_cost + model.side_by_side_cost
    assert 7.0e-3 <= both <= 7.6e-3
    moved = moved_bytes(config_of("8b"), 1024, 2) + 5 * moved_bytes(config_of("1b"), 1024, 2)
    assert moved / nodes.H200.memory == pytest.approx(6.5e-3, rel=0.01)


def launch(programs, instructions=100, warps=4, fit=4, **arguments):
    """Return a launch of the kernel `see`, which reads almost no bytes."""
    found = [("MOV", "")] * (instructions - 1) + [("BAR.SYNC", "")]
    return Launch("see", programs, arguments, Binary(warps, fit, 0, found, {}))


DEVICE = nodes.Device("d", 10, memory=1e12, l2=2e12, clock=1e9, gap=1e-6, early_gap=4e-7)
CHAIN = 3 * nodes.L2_ACCESS * 1e6  # us


def test_a_node_takes_the_longest_of_its_parts():
    """A node's time is the longest of several times. A single program takes the time of its own
    instructions. Many programs are limited by issue slots."""
    one = nodes.node_of(launch(1), DEVICE, 0)
    path = (nodes.CYCLES * 100 + nodes.BARRIER) / 1e3
    assert one.us == pytest.approx(1 + CHAIN + path)
    assert one.slots == 100 * 4
    many = nodes.node_of(launch(2000, warps=8, fit=50), DEVICE, 0)
    assert many.us == pytest.approx(1 + CHAIN + 200 * 100 * 8 / 4 / 1e3)
    waves = nodes.node_of(launch(81, fit=1, warps=1), DEVICE, 0)
    assert waves.us == pytest.approx(1 + CHAIN + 9 * path)


def test_a_gap_is_short_only_between_two_early_launches():
    usual, early = launch(1), launch(1, EARLY=True)
    found = [node.us for node in nodes.nodes_of([early, early, usual, early, early], DEVICE, 0)]
    whole = nodes.node_of(usual, DEVICE, 0).us
    assert found == pytest.approx([whole, whole - 0.6, whole, whole, whole - 0.6])


def forward(rows, us, busy, **more):
    return cost_file.Forward(rows, us, busy, memory=0.0, nodes=1, **more)


LANES = cost_file.Lanes(
    [forward(16, 100.0, 0.9), forward(32, 120.0, 0.8)],
    [forward(1, 15.0, 0.4), forward(64, 20.0, 0.2)],
)


def test_rows_are_those_of_the_smallest_graph_that_holds_them():
    assert [costs._graph_of([1, 4, 16, 64], rows) for rows in (1, 5, 64)] == [1, 16, 64]


def test_lanes_share_the_memory_of_one_device():
    file = cost_file.cost_file(LANES, 1, "x")
    assert file["T"] == {"1": 100.0, "16": 100.0, "17": 120.0, "32": 120.0}
    assert file["t"] == {"1": 20.0, "2": 25.0, "64": 25.0}  # us, with the ops after a draft step
    busy = 0.2 * 20 / 25  # share of time in which the draft's forward of 16 rows reads memory
    slower = (0.9 + busy) / cost_file.SHARING
    assert file["T_overlapped"]["1"] == round(100 * slower, 1)
    own = (0.9 + 0.4 * 15 / 20) / cost_file.SHARING  # four draft steps of 25 us last as long as T
    assert file["t_overlapped"]["1"] == round(20 * own, 1)
    assert file["devices"] == "shared"


def test_lanes_on_two_devices_pay_for_the_copies():
    shared, apart = (cost_file.cost_file(LANES, n, "x") for n in (1, 2))
    assert (apart["T"], apart["t"], apart["devices"]) == (shared["T"], shared["t"], "separate")
    assert "T_overlapped" not in apart
    assert apart["side_by_side_us"] == shared["side_by_side_us"] + cost_file.LINK
    assert apart["turns_us"] == shared["turns_us"] + 2 * cost_file.LINK


def line(lane, rows, us, beside, **other):
    return {"lane": lane, "rows": rows, "us": us, "us_overlapped": beside, "us_choice": 10} | other


MEASURED = [line("T", 1, 90, 95), line("T", 16, 100, 150), line("t", 4, 20, 30)]


def test_figures_of_a_device_make_a_cost_file(tmp_path):
    lanes, out = tmp_path / "lanes.json", tmp_path / "costs.json"
    lanes.write_text(json.dumps({"device": "x", "lines": MEASURED}))
    assert costs.main(["h200-8b-1b", "--lanes", str(lanes), "--out", str(out)]) == 0
    file = json.loads(out.read_text())
    assert (file["T"], file["T_overlapped"]) == ({"1": 110, "16": 110}, {"1": 160, "16": 160})
    ops = cost_file.STEP_OPS
    assert (file["t"]["4"], file["t_overlapped"]["4"]) == (30 + ops, 40 + ops)
    assert read_costs(str(out)).target_overlapped(1) == 160e-6


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ([], "expected lines of bench.lanes"),
        ({"lines": []}, "expected lines of bench.lanes"),
        ({"lines": [3]}, "expected objects as lines"),
        ({"lines": [{"lane": "x"}]}, "--lanes: lane: expected one of T, t"),
        ({"lines": [line("T", 0, 1, 1)]}, "rows: expected an integer from 1 to 512"),
        ({"lines": [line("T", 16, float("nan"), 1)]}, "us of T(16): expected a finite number"),
        ({"lines": [line("T", 16, 1, -1)]}, "us_overlapped of T(16): expected a finite number"),
        ({"lines": [line("T", 16, 1, 1, us_choice=None)]}, "us_choice of T(16)"),
        ({"lines": MEASURED[:2]}, "expected a line of lane t, got none"),
        ({"lines": [line("T", 16, 0, 1)]}, "us of T(16): expected a finite number"),
    ],
)
def test_figures_that_are_none_are_refused(capsys, tmp_path, report, said):
    lanes, out = tmp_path / "lanes.json", tmp_path / "costs.json"
    lanes.write_text(json.dumps(report))
    assert costs.main(["h200-8b-1b", "--lanes", str(lanes), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["h100"], "NAME: expected one of h200-8b-1b"),
        (["h200-demo", "--graph", "x16"], "--graph: expected T or t and rows"),
        (["h200-demo", "--graph", "T0"], "--graph: expected an integer from 1 to 512"),
        (["h200-demo", "--graph", "T100"], "--graph: expected up to 64 rows, got 100"),
        (["--graph", "T16"], "NAME: expected one of h200-8b-1b"),
        (["h200-demo", "h200-8b-1b", "--graph", "T16"], "got 2"),
        (["h200-demo", "--lanes", "x.json"], "--lanes: expected it with --out"),
        (["h200-8b-1b"], "costs: expected Triton's compiler, got TRITON_INTERPRET=1"),
    ],
)
def test_bad_input_is_one_sentence(capsys, words, said):
    assert costs.main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
