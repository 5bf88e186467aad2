"""Contract under test: bench.cohorts computes the times with and without cohorts from the same
costs."""

import json

import pytest

from bench import cohorts
from sbrt.tools.costs import cost_model, read_costs


def test_without_rows_that_cost_two_turns_never_beat_one():
    """If costs do not depend on rows, two cohorts are never faster. With a target time T and a
    draft time D, 2 max(T, D) >= T + D."""
    for text in ("c=2", "c=8", "c=20"):
        for sequences in cohorts.SEQUENCES:
            assert cohorts.line(read_costs(text), sequences, 0.8)["ratio"] <= 1.001


def test_rows_that_cost_their_share_are_won_back():
    """If costs are proportional to rows, half the sequences cost half as much. If both lanes need
    the same time, they work in parallel, and the rate doubles."""
    table = {"T": {"1": 10, "64": 640}, "t": {"1": 20, "64": 1280}, "devices": "separate"}
    model = cost_model("x", table)
    assert cohorts.serial(model, 8, 1) == pytest.approx(320e-6)
    assert cohorts.in_cohorts(model, 8, 1) == pytest.approx(160e-6)
    assert cohorts.tokens(0.5, 3) == 1.875


def test_the_command(capsys):
    assert cohorts.main(["--costs", "c=8", "--json", "-"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["sequences"] for line in lines] == [2, 4, 8, 16]
    assert cohorts.main(["--acceptance", "1"]) == 2
    assert "--acceptance: expected more than 0 and less than 1, got 1.0" in capsys.readouterr().err
