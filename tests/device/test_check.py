"""Contract under test: a part of the GPU check that was killed resumes where it stopped. Results
are kept for the same source and device only. Each step has a time limit, and a part has eight
minutes. A failure gives its reason in a sentence. After a failure the other steps still run, unless
they need the failed step."""

import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.device import check, steps
from tests.device.steps import (
    Outcome,
    Record,
    Step,
    none_failed,
    run_steps,
    some_passed,
    succeeded,
)

ROOT = Path(__file__).parents[2]
HERE = {"source": "a", "device": {"name": "one"}}
STEPS = tuple(Step(name, (name,), 10.0, succeeded) for name in ("first", "second", "third"))


class Fake:
    """A stand-in for run_command: records its calls, and has an outcome for each command."""

    def __init__(self, **answers):
        self.answers, self.ran = answers, []

    def __call__(self, command, seconds):
        self.ran.append((command[0], seconds))
        answer = self.answers.get(command[0], 0)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Outcome) else Outcome(answer, f"{command[0]} said", 1.0)

    @property
    def names(self):
        return [name for name, _ in self.ran]


def run(path, fake, where=HERE, steps=STEPS, said=None):
    return run_steps(
        Record(path, where), "part", steps, fake, ([] if said is None else said).append
    )


def kept(path):
    return json.loads(path.read_text())["parts"]["part"]["steps"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "check.json"


def test_every_step_runs_once_with_its_own_limit(path):
    fake = Fake()
    assert run(path, fake)
    assert fake.ran == [("first", 10.0), ("second", 10.0), ("third", 10.0)]
    step = kept(path)["second"]
    assert (step["code"], step["end"], step["right"]) == (0, ["second said"], True)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_part_that_was_killed_goes_on_where_it_stopped(path, end):
    with pytest.raises(type(end)):
        run(path, Fake(second=end))
    assert list(kept(path)) == ["first"]
    again, said = Fake(), []
    assert run(path, again, said=said)
    assert again.names == ["second", "third"]
    assert "kept" in said[0]
    assert "kept" not in said[1]


@pytest.mark.parametrize(
    "other",
    [{**HERE, "source": "b"}, {**HERE, "device": {"name": "two"}}],
    ids=["source", "device"],
)
def test_of_another_source_or_device_nothing_is_kept(path, other):
    run(path, Fake())
    fake = Fake()
    run(path, fake, where=other)
    assert fake.names == ["first", "second", "third"]


def test_what_went_wrong_stays_wrong(path):
    assert not run(path, Fake(second=3))
    again, said = Fake(), []
    assert not run(path, again, said=said)
    assert again.names == []
    assert "NOT RIGHT: it ended with 3: second said" in said[1]
    assert kept(path)["third"]["right"]  # later steps still run


@pytest.mark.parametrize(
    ("ends", "right", "tries"), [((0,), True, 1), ((66, 0), True, 2), ((66, 66), False, 2)]
)
def test_a_step_may_have_another_try(path, ends, right, tries):
    """A tool may report faults that do not exist. Tries share the step's time."""
    left, limits = list(ends), []

    def answer(command, seconds):
        limits.append(seconds)
        return Outcome(left.pop(0), "said", 4.0)

    step = Step("first", ("first",), 10.0, succeeded, tries=2)
    assert run(path, answer, steps=(step,)) == right
    assert limits == [10.0, 6.0][:tries]
    assert (kept(path)["first"]["right"], kept(path)["first"]["tries"]) == (right, tries)


def test_a_try_that_took_all_the_time_is_the_last(path):
    step = Step("first", ("first",), 3.0, succeeded, tries=2)
    fake = Fake(first=Outcome(66, "said", 3.0))
    assert not run(path, fake, steps=(step,))
    assert fake.names == ["first"]


NEEDED = (Step("first", ("first",), 10.0, succeeded, is_needed=True), *STEPS[1:])


def test_without_what_is_needed_nothing_else_runs(path):
    fake, said = Fake(first=2), []
    assert not run(path, fake, steps=NEEDED, said=said)
    assert fake.names == ["first"]
    assert said[-1] == "part: without first no other step can go right: none was run"
    again = Fake()
    assert run(path, again, steps=NEEDED)
    assert again.names == ["first", "second", "third"]  # running out of time is not a failure
    assert run(path, Fake(), steps=NEEDED)


def test_a_step_that_wants_another_turn_keeps_what_it_has_done(path, tmp_path):
    out = tmp_path / "build" / "figures.json"
    turns = []

    def work(command, seconds):
        before = json.loads(out.read_text())["done"] if out.exists() else 0
        turns.append(before)
        out.write_text(json.dumps({"done": before + 60}))
        return Outcome(0 if before + 60 >= 100 else steps.UNFINISHED, "60 done", 1.0)

    step = (Step("long", ("long",), 5.0, succeeded, out, keeps=True),)
    assert not run(path, work, steps=step)
    assert kept(path)["long"]["why"] == "it has not ended, run this part again: 60 done"
    assert run(path, work, steps=step)
    assert turns == [0, 60]
    assert kept(path)["long"]["figures"] == {"done": 120}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("one\n\ntwo  words\n\n", "two words"),
        ("warming up\nsbrt: error: memory: expected at most 1 GiB, got 2 GiB\nbye",
         "sbrt: error: memory: expected at most 1 GiB, got 2 GiB"),
        ("E       assert 3 == 4\nE       RuntimeError: no kernel image\n1 failed",
         "RuntimeError: no kernel image"),
        ("E       assert 3 == 4\nFAILED a.py::b\n1 failed", "assert 3 == 4"),
        ("a.cu(3): error: no such thing\nninja: build stopped", "a.cu(3): error: no such thing"),
        ("Traceback (most recent call last):\n  File x\nModuleNotFoundError: No module named 'y'",
         "ModuleNotFoundError: No module named 'y'"),
        ("pearl: fine\nWRONG: pearl, prompt 3\n4 of 5 prompts", "WRONG: pearl, prompt 3"),
        ("x" * 1000, "x" * 300),
    ],
    ids=["nothing", "last", "ours", "pytest", "assertion", "compiler", "python", "wrong", "long"],
)  # fmt: skip
def test_the_cause_is_one_line_of_what_was_said(text, said):
    assert steps.cause(text) == said


def test_what_ran_out_of_time_runs_again(path):
    assert not run(path, Fake(second=Outcome(None, "so far", 10.0)))
    found = kept(path)["second"]
    assert (found["why"], found["end"]) == ("it did not end within 10 s: so far", ["so far"])
    again = Fake()
    assert run(path, again)
    assert again.names == ["second"]


def test_a_step_that_changed_runs_again_and_one_that_has_gone_is_dropped(path):
    run(path, Fake())
    changed = (STEPS[0], Step("second", ("other",), 10.0, succeeded))
    fake = Fake()
    assert run(path, fake, steps=changed)
    assert fake.names == ["other"]
    assert list(kept(path)) == ["first", "second"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"where": 3}'], ids=["empty", "half", "list", "odd"]
)
def test_a_file_that_cannot_be_read_is_begun_anew(path, text):
    path.write_text(text)
    fake = Fake()
    assert run(path, fake)
    assert len(fake.ran) == 3


def test_the_end_of_what_was_said_is_kept_alone(path):
    lines = [f"line {i}" for i in range(1000)]
    run(path, Fake(first=Outcome(0, "\n".join(lines), 1.0)))
    assert kept(path)["first"]["end"] == lines[-steps.TAIL :]


def test_figures_must_be_there_and_are_kept(path, tmp_path):
    out = tmp_path / "build" / "figures.json"
    step = (Step("bench", ("bench",), 5.0, succeeded, out),)
    assert not run(path, Fake(), steps=step)
    assert kept(path)["bench"]["why"] == "it wrote no figures"

    def write(command, seconds):
        out.write_text('{"us": 3}')
        return Outcome(0, "", 1.0)

    path.unlink()
    assert run(path, write, steps=step)
    assert kept(path)["bench"]["figures"] == {"us": 3}


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("..\n3 passed, 1 skipped in 2.1s", 0, ""),
        ("2 skipped in 1s", 0, "no test ran"),
        ("1 failed, 3 passed in 2s", 1, "pytest ended with 1"),
        ("", 5, "pytest ended with 5"),
    ],
)
def test_of_tests_some_must_pass(text, code, why):
    assert some_passed(Outcome(code, text, 1.0)) == why


def test_tests_that_need_two_devices_may_all_be_skipped():
    assert none_failed(Outcome(0, "2 skipped in 0.1s", 1.0)) == ""
    assert none_failed(Outcome(0, "2 passed in 0.1s", 1.0)) == ""
    assert none_failed(Outcome(1, "1 failed, 1 skipped in 0.1s", 1.0)) == "pytest ended with 1"
    assert none_failed(Outcome(0, "no tests ran in 0.1s", 1.0)) == "no test ran"


@pytest.mark.parametrize("part", check.PARTS)
def test_a_part_stays_below_eight_minutes(part):
    steps = check.PARTS[part]()
    assert sum(step.seconds for step in steps) < check.LIMIT
    assert len({step.name for step in steps}) == len(steps)
    files = [step.figures for step in steps if step.figures]
    assert len(set(files)) == len(files)


def test_a_warning_of_a_torch_that_nobody_tried_fails_no_test():
    tests = [step.command for part in check.PARTS.values() for step in part()]
    tests = [command for command in tests if "pytest" in command]
    assert tests
    assert all(command[command.index("-W") + 1] == "default" for command in tests)


@pytest.mark.parametrize("part", check.PARTS)
def test_what_the_steps_of_a_part_run_is_there(part):
    """Every module that a step gives to `python -m`, and every test file that a step gives to
    pytest, exists."""
    for step in check.PARTS[part]():
        words = step.command
        if "-m" in words:
            assert find_spec(words[words.index("-m") + 1]), step.name
        files = [word.removeprefix("--ignore=") for word in words]
        files = [file for file in files if file.startswith("tests/") or file.endswith(".cu")]
        assert [file for file in files if not (ROOT / file).exists()] == [], step.name


@pytest.mark.parametrize("part", check.PARTS)
def test_a_part_looks_first_whether_anything_can_run(part):
    first, *others = check.PARTS[part]()
    assert first.name == "ready"
    assert first.is_needed
    assert not any(step.is_needed for step in others)


def test_every_test_that_needs_a_device_is_in_a_part():
    """Every test that needs a device is selected by a step, and every step selects at least one
    test. Without a test, pytest would end with exit code 5 after minutes. Steps select kernel tests
    by file: see test_the_steps_of_kernels_leave_no_test_and_no_op_out."""
    collect = ("-m", "pytest", "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, *collect, "tests/device"], cwd=ROOT, capture_output=True, text=True
    )
    tests = {line for line in done.stdout.splitlines() if "::" in line}
    assert len(tests) > 20, done.stdout + done.stderr
    steps = [step.command for part in check.PARTS for step in check.PARTS[part]()]
    found = [
        {test for test in tests if runs(command, test)}
        for command in steps
        if any(word.startswith("tests/device") for word in command)
    ]
    assert all(found)
    assert set.union(*found) == tests


def runs(command, test):
    """Return True if the pytest command of a step selects `test`, by the command's files and by the
    word after -k."""
    ignored = [word.removeprefix("--ignore=") for word in command if word.startswith("--ignore=")]
    files = [word for word in command if word.startswith("tests/")]
    chosen = any(test.startswith(file) for file in files)
    chosen = chosen and not any(test.startswith(file) for file in ignored)
    if "-k" not in command:
        return chosen
    word = command[command.index("-k") + 1]
    assert re.fullmatch(r"(not )?[a-z_]+", word)
    return chosen and (word.removeprefix("not ") in test.split("::")[1]) != word.startswith("not ")


def test_the_steps_of_kernels_leave_no_test_and_no_op_out():
    from bench.kernels.cases import MAKERS

    steps = [*check.PARTS["kernels"](), *check.PARTS["products"]()]
    words = [set(step.command) for step in steps]
    ignored = {w.removeprefix("--ignore=") for step in words for w in step if "--ignore=" in w}
    assert len(ignored) == 3
    assert all(any(path in step for step in words) for path in ignored)
    assert all((ROOT / path).exists() for path in ignored)
    only = [step.command[step.command.index("--only") + 1] for step in steps if step.figures]
    assert all(sum(name in ops for name in only) == 1 for ops in MAKERS)


# --- commands ---


def test_a_command_has_its_end_and_all_it_said():
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    outcome = steps.run_command((sys.executable, "-c", code), 60)
    assert outcome.code == 3
    assert sorted(outcome.text.split()) == ["err", "out"]


def test_a_command_that_takes_too_long_ends_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        f"import subprocess, sys, time; print('begun', flush=True); "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    outcome = steps.run_command((sys.executable, "-c", code), 5)
    assert (outcome.code, outcome.text) == (None, "begun\n")
    if pid.exists():  # on a very slow machine the child may not have begun
        assert _is_gone(int(pid.read_text()))


def _is_gone(pid):
    """True if the process ends or becomes a zombie within 5 s."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_source_is_what_the_files_say(tmp_path):
    (tmp_path / "csrc").mkdir()
    file = tmp_path / "csrc" / "a.cc"
    file.write_text("int a;")
    before = steps.source_hash(tmp_path)
    assert steps.source_hash(tmp_path) == before
    (tmp_path / "csrc" / "a.o").write_text("built")
    assert steps.source_hash(tmp_path) == before
    file.write_text("int b;")
    changed = steps.source_hash(tmp_path)
    file.rename(file.with_name("b.cc"))
    assert len({before, changed, steps.source_hash(tmp_path)}) == 3
