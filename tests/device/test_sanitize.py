"""Contract under test: the part of the GPU check with compute-sanitizer. A clean run of a tool
counts only if the tool has reported the known fault of the canary program. Without the tool the
part fails with a sentence."""

import json
import re
from pathlib import Path

import pytest

from tests.device import check, sanitize
from tests.device.steps import Outcome, Record

ROOT = Path(__file__).parents[2]
HERE = {"source": "a", "device": {"name": "one"}}
RIGHT = "16 tokens by specbranch: right\n"
REPORT = "========= Invalid __global__ write of size 4 bytes\n========= ERROR SUMMARY: 1 error"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "check.json"


def test_the_canary_comes_first_for_every_tool():
    names = [step.name for step in sanitize.steps("tool")]
    assert names[0] == "build the canary"
    for kind in sanitize.SAYS:
        assert names.index(f"{kind}: canary") < names.index(f"{kind}: decode")


def test_only_racecheck_has_a_second_try():
    tries = {step.name: step.tries for step in sanitize.steps("tool")}
    assert {name for name, n in tries.items() if n > 1} == {"racecheck: decode"}


@pytest.mark.parametrize(
    ("outcome", "right"),
    [
        (Outcome(66, REPORT, 1.0), True),
        (Outcome(0, "========= ERROR SUMMARY: 0 errors", 1.0), False),  # the tool reports nothing
        (Outcome(66, "========= ERROR SUMMARY: 1 error", 1.0), False),  # another report
        (Outcome(1, REPORT, 1.0), False),
        (Outcome(255, "could not attach", 1.0), False),
    ],
    ids=["reported", "silent", "another report", "another code", "did not run"],
)
def test_a_canary_must_be_reported(outcome, right):
    why = sanitize.must_report("Invalid __global__ write")(outcome)
    assert (why == "") is right
    assert right or "expected a report of the canary" in why


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Outcome(0, f"{RIGHT}========= ERROR SUMMARY: 0 errors\n", 1.0), ""),
        (
            Outcome(0, f"{RIGHT}RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 1),
            "",
        ),
        (Outcome(0, "========= ERROR SUMMARY: 0 errors\n", 1.0), "expected a decode to say"),
        (Outcome(66, REPORT, 1.0), "the tool reported something"),
        (Outcome(1, "========= ERROR SUMMARY: 0 errors", 1.0), "it ended with 1"),
        (Outcome(0, RIGHT, 1.0), "expected a summary without errors"),
        (Outcome(0, f"{RIGHT}ERROR SUMMARY: 10 errors", 1.0), "expected a summary without errors"),
    ],
    ids=[
        "memcheck",
        "racecheck",
        "nothing ran",
        "a report",
        "a wrong token",
        "no tool",
        "ten errors",
    ],
)
def test_a_decode_must_be_clean(outcome, why):
    found = sanitize.is_clean(outcome)
    assert found.startswith(why)
    assert bool(found) is bool(why)


def test_without_the_tool_the_part_says_so_and_fails(path, monkeypatch, capsys):
    monkeypatch.setattr(sanitize, "find_tool", lambda: None)
    ran = []
    assert not check.check(path, HERE, "sanitize", lambda *asked: ran.append(asked))
    assert ran == []
    found = json.loads(path.read_text())["parts"]["sanitize"]
    assert found["refused"].startswith("compute-sanitizer: expected it on PATH")
    assert (found["right"], found["steps"]) == (False, {})
    assert capsys.readouterr().err == found["refused"] + "\n"


def test_a_tool_that_does_not_run_is_no_tool(tmp_path, monkeypatch):
    for name, text in {"nvcc": "exit 0", "compute-sanitizer": "exit 9"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = sanitize.find_tool()
    assert tool == str(tmp_path / "compute-sanitizer")
    assert "it ended with 9: nothing was sanitized" in sanitize.why_not(tool)
    Path(tool).write_text("#!/bin/sh\nexit 0\n")
    assert sanitize.why_not(tool) == ""
    (tmp_path / "nvcc").unlink()
    assert "expected nvcc to compile its canary" in sanitize.why_not(tool)


def test_a_part_is_all_right_or_it_is_not(path, monkeypatch):
    monkeypatch.setattr(sanitize, "why_not", lambda tool: "")
    clean = Outcome(0, f"{RIGHT}========= ERROR SUMMARY: 0 errors", 1.0)

    def run(command, seconds):
        if str(sanitize.CANARY) not in command:
            return clean
        kind = command[-1]
        return Outcome(66, sanitize.SAYS[kind], 1.0) if kind in sanitize.SAYS else clean

    assert check.check(path, HERE, "sanitize", run)
    blind = Record(path, HERE).part("sanitize")
    assert blind["right"]
    assert blind["seconds"] >= 0
    assert not check.check(path, HERE, "sanitize", lambda *_: clean, fresh=True)
    steps = Record(path, HERE).part("sanitize")["steps"]
    assert [name for name, step in steps.items() if not step["right"]] == [
        f"{kind}: canary" for kind in sanitize.SAYS
    ]


def test_the_canary_knows_every_tool():
    text = (ROOT / "tests" / "device" / "canary.cu").read_text()
    assert set(re.findall(r'strcmp\(kind, "(\w+)"\)', text)) == set(sanitize.SAYS)
