"""Contract under test: operations are append, fork, adopt, drop, commit and rollback. After any
sequence of them the live K/V equals a naive list cache bit for bit. This holds with the smallest
capacity, W + S - 1 (window W, S in-flight slots), and with positions past 2^31 and 2^32. With one
slot less the comparison fails. Dropped slots are NaN, and bad shapes are refused."""

import json
import subprocess
from collections import Counter

import pytest


@pytest.fixture(scope="module")
def build(programs):
    """build(name) compiles a program of this folder and returns its path."""
    return lambda name: programs.build(name, ["core", "ring"])


@pytest.fixture
def run_fuzz(build, run_all):
    """Return run(operations, seed, shares). It divides the operations among `shares` processes with
    different seeds, and returns the sum of their counters."""

    def run(operations, seed, shares=2):
        command = [build("fuzz_ring"), "fuzz", -(-operations // shares)]
        outputs = run_all([*command, seed + i] for i in range(shares))
        return sum((Counter(json.loads(out)) for out in outputs), Counter())

    return run


def check_seen(seen, operations):
    """Check that the random operations covered all cases. seen: the counters of the fuzzer."""
    assert seen["operations"] >= operations
    for name in ("append", "fork", "adopt", "drop", "commit", "rollback", "refused", "moved"):
        assert seen[name] > operations // 1000, name
    assert 0 < seen["full"] < seen["worlds"]
    assert 0 < seen["debug"] < seen["worlds"]
    assert seen["wraps"] > operations // 1000
    assert seen["past_2_32"] > 0


def test_a_share_equals_a_naive_list(run_fuzz):
    check_seen(run_fuzz(400_000, seed=1), 400_000)


@pytest.mark.exact
def test_ten_million_operations_equal_a_naive_list(run_fuzz, capsys):
    seen = run_fuzz(10_000_000, seed=100, shares=16)
    with capsys.disabled():
        print(f"\n{dict(seen)}")
    check_seen(seen, 10_000_000)


@pytest.mark.parametrize("seed", range(8))
def test_one_slot_below_the_bound_fails(build, seed):
    done = subprocess.run(
        [build("fuzz_ring"), "short", "100000", str(seed)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is not what was written" in done.stdout


def test_shapes_that_cannot_be_are_refused(build):
    out = subprocess.run([build("refuse_ring")], capture_output=True, text=True, check=True)
    said = dict(line.split(": ", 1) for line in out.stdout.splitlines())
    assert said.pop("exactly the dist") == "accepted"
    assert said.pop("size beyond memory").startswith("Error: memory: cannot reserve ")
    assert len(said) == 17
    for name, text in said.items():
        assert text.startswith("InvalidInput: "), name
    assert "C >= W + S - 1 = 73" in said["one below the dist"]
    assert "capacity 72" in said["one below the dist"]
