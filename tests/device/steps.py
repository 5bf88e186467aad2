"""Runs the steps of a check. The check may be killed and resumed. Each step has its own time limit.
The result of a step is stored in a JSON file. The step is not run again for the same source and
device.

A step that ran out of time, or that exits with UNFINISHED, has not ended: it runs again. A step
that failed has ended, and does not run again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sbrt.files import write_file

ROOT = Path(__file__).parents[2]
FOLDERS = ("csrc", "sbrt", "triton_kernels", "bench", "tests")
SUFFIXES = {".py", ".cc", ".cu", ".h", ".inc"}
TAIL = 60  # number of lines of a step's output that are kept
COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped)")
UNFINISHED = 75  # exit code of a command that stores its results and must run again
# Patterns for the cause of a failure. The first pattern that matches the output wins. They find: an
# error sentence of sbrt, the first failure of pytest, a compiler's error, the end of a traceback.
CAUSES = (
    re.compile(r"^\S+: error: .+", re.MULTILINE),
    re.compile(r"^E   +(?!assert\b)\S.+", re.MULTILINE),
    re.compile(r"^E   +\S.+", re.MULTILINE),
    re.compile(r"^.*\b(?:fatal error|error): .+", re.MULTILINE),
    re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", re.MULTILINE),
    re.compile(r"^(?:FAILED|WRONG|MISSED)\b.*", re.MULTILINE),
)
LONGEST_CAUSE = 300  # number of characters


@dataclass(frozen=True)
class Outcome:
    """The result of a command. code: the exit code, or None if the command ran out of time. text:
    the output."""

    code: int | None
    text: str
    seconds: float


Runner = Callable[[Sequence[str], float], Outcome]


@dataclass(frozen=True)
class Step:
    """A command, its time limit in seconds, and the function that judges its outcome.

    judge: returns the reason why an outcome is not right, "" if it is. figures: a JSON file that
    the command writes. keeps: a later run of the command resumes with the figures of an earlier
    run. is_needed: if the step fails, no later step is run. tries: the largest number of runs until
    a run is right; all runs share `seconds`.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    judge: Callable[[Outcome], str]
    figures: Path | None = None
    keeps: bool = False
    is_needed: bool = False
    tries: int = 1


def some_passed(outcome: Outcome) -> str:
    """Return the reason why a run of pytest is not right, or "". At least one test must pass, and
    none may fail."""
    found = counts(outcome.text)
    if outcome.code != 0:
        return f"pytest ended with {outcome.code}"
    return "" if found.get("passed", 0) else "no test ran"


def none_failed(outcome: Outcome) -> str:
    """Judge a run of pytest like some_passed, except that all tests may be skipped, because there
    may be too few devices."""
    if outcome.code == 0 and counts(outcome.text).get("skipped", 0):
        return ""
    return some_passed(outcome)


def cause(text: str) -> str:
    """Return the line of a command's output that best explains a failure; "" without output."""
    for pattern in CAUSES:
        found = pattern.search(text)
        if found:
            return " ".join(found.group().removeprefix("E ").split())[:LONGEST_CAUSE]
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:LONGEST_CAUSE] if lines else ""


def counts(text: str) -> dict[str, int]:
    """Return {"passed", "failed", ...: number of tests} from pytest's last line."""
    lines = text.splitlines()
    return {kind: int(n) for n, kind in COUNTS.findall(lines[-1] if lines else "")}


def succeeded(outcome: Outcome) -> str:
    """Return the reason why a command is not right, or "". The command must end with 0."""
    return "" if outcome.code == 0 else f"it ended with {outcome.code}"


class Record:
    """The results of every part, in a file that is always replaced as a whole."""

    def __init__(self, path: Path, where: Mapping[str, Any]) -> None:
        """`where`: source and device. Results for another source or device are discarded."""
        self._path = path
        self._found: dict[str, Any] = {"where": dict(where), "parts": {}}
        before = _read(path)
        if before is not None and before.get("where") == self._found["where"]:
            self._found["parts"] = before.get("parts", {})

    def part(self, name: str) -> dict[str, Any]:
        """Return the results of one part: its steps by name, and notes."""
        found: dict[str, Any] = self._found["parts"].setdefault(name, {"steps": {}})
        return found

    def forget(self, name: str) -> None:
        """Discard the results of the part `name`."""
        self._found["parts"].pop(name, None)

    def write(self) -> None:
        """Write the file. Raises OSError."""
        write_file(self._path, (json.dumps(self._found, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def run_steps(
    record: Record, part: str, steps: Sequence[Step], run: Runner, say: Callable[[str], None]
) -> bool:
    """Run the steps that have not ended, in order. Return True if all steps are right."""
    kept = record.part(part)["steps"]
    for stale in set(kept) - {step.name for step in steps}:
        del kept[stale]
    for step in steps:
        how = " (kept from an earlier run, FRESH=1 runs it again)"
        if not _has_ended(kept.get(step.name), step):
            kept[step.name] = run_step(step, run)
            record.write()
            how = ""
        found = kept[step.name]
        verdict = "right" if found["right"] else f"NOT RIGHT: {found['why']}"
        say(f"{part}: {step.name}: {verdict}, {found['seconds']:.0f} s{how}")
        if step.is_needed and not found["right"]:
            say(f"{part}: without {step.name} no other step can go right: none was run")
            break
    right = all(step.name in kept and kept[step.name]["right"] for step in steps)
    record.part(part)["right"] = right
    record.write()
    return right


def _has_ended(found: Mapping[str, Any] | None, step: Step) -> bool:
    """True if an earlier run of the same command ended. But a step that others need (is_needed)
    runs again if it failed."""
    if found is None or found["command"] != list(step.command):
        return False
    return found["code"] not in (None, UNFINISHED) and not (step.is_needed and not found["right"])


def run_step(step: Step, run: Runner) -> dict[str, Any]:
    """Run a step until a try is right, at most step.tries times. Return the result of the last try.
    All tries share the step's seconds."""
    begun, left, found = 1, step.seconds, run_once(step, run, step.seconds)
    while not found["right"] and begun < step.tries:
        left -= found["seconds"]
        if left <= 0:
            break
        begun, found = begun + 1, run_once(step, run, left)
    return found | {"tries": begun}


def run_once(step: Step, run: Runner, seconds: float) -> dict[str, Any]:
    """Run one try of a step with the time limit `seconds`. Return the try's result for the JSON
    file."""
    if step.figures is not None:
        step.figures.parent.mkdir(parents=True, exist_ok=True)
        if not step.keeps:
            step.figures.unlink(missing_ok=True)
    outcome = run(step.command, seconds)
    figures = _read(step.figures) if step.figures is not None else None
    found = {
        "command": list(step.command),
        "limit_seconds": step.seconds,
        "seconds": outcome.seconds,
        "code": outcome.code,
        "right": False,
        "why": _why(step, outcome, figures),
        "counts": counts(outcome.text),
        "end": outcome.text.splitlines()[-TAIL:],
    }
    found["right"] = not found["why"]
    return found if step.figures is None else found | {"figures": figures}


def _why(step: Step, outcome: Outcome, figures: dict[str, Any] | None) -> str:
    """Return the reason why a step is not right, with the cause from its output, or ""."""
    if outcome.code is None:
        why = f"it did not end within {step.seconds:g} s"
    elif outcome.code == UNFINISHED:
        why = "it has not ended, run this part again"
    else:
        why = step.judge(outcome)
        if not why and step.figures is not None and figures is None:
            return "it wrote no figures"
    said = cause(outcome.text) if why else ""
    return f"{why}: {said}" if said else why


def run_command(command: Sequence[str], seconds: float) -> Outcome:
    """Run a command in its own process group. The group is killed at the time limit, or when this
    process is interrupted."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+b") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return Outcome(code, text, time.monotonic() - begun)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def source_hash(root: Path = ROOT) -> str:
    """Return a hash of all source files, including uncommitted changes."""
    found = sha256()
    files = [p for folder in FOLDERS for p in (root / folder).rglob("*") if p.suffix in SUFFIXES]
    for path in sorted(p for p in files if p.is_file()):
        found.update(f"{path.relative_to(root)}\0".encode())
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def commit(root: Path = ROOT) -> str | None:
    """Return the commit of the checkout; None if `root` is no git checkout."""
    try:
        done = subprocess.run(
            ("git", "rev-parse", "HEAD"), cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
