"""Contract under test: bench.auto compares `auto` with fixed methods. A ratio compares figures of
the same run. For bad input it prints an error message of one sentence, and no traceback."""

import json
from types import SimpleNamespace

import pytest

from bench import auto


def tally(name, rate):
    method = SimpleNamespace(text=name)
    return SimpleNamespace(method=method, rate=rate, chosen={}, is_identical=True)


def test_ratios_are_of_the_same_run_and_intervals_leave_out_the_extremes():
    runs = [(100, 200, 150), (10, 30, 40), (50, 100, 90), (20, 42, 30), (80, 80, 120)]
    reports = [
        SimpleNamespace(tallies=[tally("none", a), tally("auto", b), tally("pearl", c)])
        for a, b, c in runs
    ]
    none, found, pearl = auto.judged(reports)
    assert none["speedup"] == 1
    assert found["speedup"] == 2.0  # the median of 2, 3, 2, 2.1, 1
    assert found["interval"] == (2.0, 2.1)
    assert found["best"] == "pearl"  # the median of pearl is 90, the median of none is 50
    assert found["of_best"] == pytest.approx(100 / 90)
    assert pearl["of_best"] == 1


def test_from_half_way_on_prompts_repeat_themselves():
    assert auto.changing(["a", "b", "c"]) == ["a", "b", "ccc"]


def test_on_a_pair(folders, tmp_path):
    target, draft = map(str, folders)
    out = tmp_path / "out.json"
    words = ["--target", target, "--draft", draft, "--max-tokens", "8", "--limit", "1"]
    words += ["--threads", "1", "--runs", "3", "--methods", "pearl:gamma=2", "--json", str(out)]
    assert auto.main(words) == 0
    lines = json.loads(out.read_text())
    assert [line["method"] for line in lines] == ["none", "auto", "pearl:gamma=2"]
    assert all(line["identical_to_none"] and line["tokens_per_second"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "2"], "--runs: expected"),
        (["--methods", "auto,none"], "--methods: expected one other than auto and none"),
        (["--simulate", "c=8"], "unrecognized arguments: --simulate"),
        (["--then-simulate", "c=8"], "unrecognized arguments: --then-simulate"),
        (["--png", "x.png"], "unrecognized arguments: --png"),
        (["--trace", "x.json"], "unrecognized arguments: --trace"),
    ],
)
def test_bad_input_is_one_sentence(capsys, words, said):
    assert auto.main(words) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
