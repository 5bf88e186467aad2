"""Contract under test: engine and reference agree on every token, finish reason and counter, and
every method on the tokens of plain decoding, unless they stand by chance; over random gamma, k,
draft quality, laws, stops, penalties, masks and lengths, on both bodies. fuzz.py says what is
drawn."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sbrt import reference

FUZZ = Path(__file__).with_name("fuzz.py")
PROCESSES = os.cpu_count() or 1
SHAPING = reference.Shaping._fields
METHODS = ("--methods", "3")  # of a sequence: none, and three of the eight others
ACCEPTING = ("draft_model", "pearl", "specbranch", "on_miss", "lookup", "adaedl", "tree", "hedge")
HITTING = ("pearl", "specbranch", "on_miss", "hedge")


def run_fuzz(sequences, seed, cpu, *more):
    """Worlds are dealt to processes of their own; returns the sum of what they saw."""
    each = ["--sequences", str(-(-sequences // PROCESSES)), "--seed", str(seed), "--cpu", str(cpu)]
    command = [sys.executable, str(FUZZ), "--step", str(PROCESSES), *each, *METHODS, *more]
    children = [
        subprocess.Popen([*command, "--first", str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(PROCESSES)
    ]
    outputs = [child.communicate()[0] for child in children]
    assert not any(child.returncode for child in children), "\n".join(outputs)
    return sum((Counter(json.loads(out.splitlines()[-1])) for out in outputs), Counter())


def check_seen(seen, sequences):
    """What was drawn reached the places that matter."""
    assert seen["sequences"] >= sequences
    assert seen["generations"] == 4 * seen["sequences"]
    assert seen["mismatches"] == 0
    for name in ("finish_stop", "finish_length", "finish_error", "abandoned", *SHAPING):
        assert seen[name] > 0, name
    for method in ACCEPTING:
        assert seen[f"accepted_{method}"] > seen[f"accepted_{method}_by_chance"] > 0, method
    for method in HITTING:
        assert seen[f"branch_hits_{method}"] > seen[f"branch_hits_{method}_by_chance"] > 0, method
    assert 0 < seen["branch_hits"] < seen["branch_rounds"] < seen["rounds"]
    assert 0 < seen["accepted"] < seen["draft_tokens"]
    assert seen["discarded_branch_tokens"] > 0
    assert seen["draft_limit_rounds"] > 0


def test_a_share_on_the_sim_body():
    check_seen(run_fuzz(600, seed=1, cpu=0.0), 600)


def test_a_share_on_the_cpu_body():
    check_seen(run_fuzz(200, seed=2, cpu=1.0), 200)


def test_drafts_that_know_fewer_tokens_than_the_target():
    """Some know two of sixty: the target says the others, and the draft goes on behind them."""
    check_seen(run_fuzz(200, 4, 0.1, "--small", "1"), 200)


@pytest.mark.exact
def test_two_hundred_thousand_sequences(capfd):
    with capfd.disabled():  # progress, and the figures at the end
        seen = run_fuzz(200_000, seed=3, cpu=0.02)
        print(f"\n{dict(seen)}")
    check_seen(seen, 200_000)
    assert seen["on_cpu"] > 5_000
