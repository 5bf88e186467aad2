"""Steps of a check that may be killed: each with its own time limit, kept in a JSON file once it
has ended, and not run again there for the same source on the same device.

A step that ran out of time has not ended: it runs again. One that went wrong has, and stays so.
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

ROOT = Path(__file__).parents[1]
FOLDERS = ("csrc", "sbrt", "triton_kernels", "bench", "tests")
SUFFIXES = {".py", ".cc", ".cu", ".h", ".inc"}
TAIL = 60  # lines of what a step said
COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped)")


@dataclass(frozen=True)
class Outcome:
    """A command's end. code: None if it ran out of time."""

    code: int | None
    text: str
    seconds: float


Runner = Callable[[Sequence[str], float], Outcome]


@dataclass(frozen=True)
class Step:
    """A command, the seconds it may take, and who judges its end.

    judge: why an outcome is not right, "" if it is. figures: a JSON file that the command writes.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    judge: Callable[[Outcome], str]
    figures: Path | None = None


def some_passed(outcome: Outcome) -> str:
    """Of pytest: some passed, none failed."""
    found = counts(outcome.text)
    if outcome.code != 0:
        return f"pytest ended with {outcome.code}"
    return "" if found.get("passed", 0) else "no test ran"


def counts(text: str) -> dict[str, int]:
    """What pytest's last line counts."""
    lines = text.splitlines()
    return {kind: int(n) for n, kind in COUNTS.findall(lines[-1] if lines else "")}


def succeeded(outcome: Outcome) -> str:
    """A command that ends with 0."""
    return "" if outcome.code == 0 else f"it ended with {outcome.code}"


class Record:
    """What is known of every part, in a file that is whole at any time."""

    def __init__(self, path: Path, where: Mapping[str, Any]) -> None:
        """`where`: source and device; of another one nothing is kept."""
        self._path = path
        self._found: dict[str, Any] = {"where": dict(where), "parts": {}}
        before = _read(path)
        if before is not None and before.get("where") == self._found["where"]:
            self._found["parts"] = before.get("parts", {})

    def part(self, name: str) -> dict[str, Any]:
        """Of one part: its steps by name, and what else is noted."""
        found: dict[str, Any] = self._found["parts"].setdefault(name, {"steps": {}})
        return found

    def forget(self, name: str) -> None:
        """Nothing of this part is kept."""
        self._found["parts"].pop(name, None)

    def write(self) -> None:
        """Raises OSError."""
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
    """Run the steps that have not ended, in order; whether all of them are right."""
    kept = record.part(part)["steps"]
    for stale in set(kept) - {step.name for step in steps}:
        del kept[stale]
    for step in steps:
        ended = kept.get(step.name)
        if ended is None or ended["code"] is None or ended["command"] != list(step.command):
            kept[step.name] = run_step(step, run)
            record.write()
            how = ""
        else:
            how = " (kept from an earlier run, FRESH=1 runs it again)"
        found = kept[step.name]
        verdict = "right" if found["right"] else f"NOT RIGHT: {found['why']}"
        say(f"{part}: {step.name}: {verdict}, {found['seconds']:.0f} s{how}")
    right = all(kept[step.name]["right"] for step in steps)
    record.part(part)["right"] = right
    record.write()
    return right


def run_step(step: Step, run: Runner) -> dict[str, Any]:
    """One step, as it stands in the file."""
    if step.figures is not None:
        step.figures.parent.mkdir(parents=True, exist_ok=True)
        step.figures.unlink(missing_ok=True)
    outcome = run(step.command, step.seconds)
    figures = _read(step.figures) if step.figures is not None else None
    if outcome.code is None:
        why = f"it did not end within {step.seconds:g} s"
    else:
        why = step.judge(outcome)
        if not why and step.figures is not None and figures is None:
            why = "it wrote no figures"
    lines = outcome.text.splitlines()
    found = {
        "command": list(step.command),
        "limit_seconds": step.seconds,
        "seconds": outcome.seconds,
        "code": outcome.code,
        "right": not why,
        "why": why,
        "counts": counts(outcome.text),
        "end": lines[-TAIL:],
    }
    return found if step.figures is None else found | {"figures": figures}


def run_command(command: Sequence[str], seconds: float) -> Outcome:
    """Run it in a process group of its own, which does not outlive its time or ours."""
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
    """The process and whatever it began."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def source_hash(root: Path = ROOT) -> str:
    """Of every source file: a change that is not committed is another source."""
    found = sha256()
    files = [p for folder in FOLDERS for p in (root / folder).rglob("*") if p.suffix in SUFFIXES]
    for path in sorted(p for p in files if p.is_file()):
        found.update(f"{path.relative_to(root)}\0".encode())
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def commit(root: Path = ROOT) -> str | None:
    """Of the checkout, if it is one."""
    try:
        done = subprocess.run(
            ("git", "rev-parse", "HEAD"), cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
