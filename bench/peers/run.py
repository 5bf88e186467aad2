"""Measures the lines of one checkpoint: opens them, generates, times forwards, closes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.models.checkpoints import Given
from bench.peers import memory, ours
from bench.peers.lines import FLOATS, PLAIN, ROWS, Line, Unit, set_references
from bench.peers.settings import Peer
from sbrt import InvalidInputError, SamplingParams
from sbrt.tools.measure import WARM_TOKENS, fitting
from sbrt.tools.progress import Progress

CONTEXT = 64  # number of tokens of the trunk in the timed forwards
# Number of passes over all lines, and number of timed forwards of a line in each pass.
BURSTS, TIMES = 5, 8


@dataclass(frozen=True)
class Case:
    """The work of a run.

    peers: other engines. dtypes: measure only lines of these dtypes; None: all lines. methods: our
    methods in addition to `none`. threads: number of threads of each engine. concurrency: number of
    prompts to decode together, in an additional measurement; None: no such measurement.
    """

    peers: Sequence[Peer]
    dtypes: Sequence[str] | None
    methods: Sequence[str]
    threads: int
    max_tokens: int
    concurrency: int | None = None

    def keeps(self, dtype: str) -> bool:
        """True if lines of this dtype are measured."""
        return self.dtypes is None or dtype in self.dtypes

    def our_dtypes(self, given: Given) -> list[str]:
        """Return the dtypes of our lines. One of them is the dtype of the reference of other lines,
        even if the user did not name it."""
        known = ours.dtypes(given)
        found = [dtype for dtype in known if self.keeps(dtype)]
        if known == ours.FILE_DTYPES:
            return found if known[0] in found else [known[0], *found]
        return found if set(found) & set(FLOATS) else ["bfloat16", *found]


def measured(given: Given, case: Case, prompts: Sequence[str]) -> list[Line]:
    """Measure and return every line of a checkpoint.

    Raises InvalidInputError if no prompt fits the context, or our own engine does not fit in
    memory.
    """
    units = _units(given, case)
    lines = [line for unit in units for line in unit.lines]
    set_references(lines)
    room = memory.free()
    groups = memory.groups(units, room)
    if len(groups) > 1 and room is not None:
        total = memory.shown(sum(unit.needs for unit in units))
        print(
            f"{given.name}: all engines at once need {total} and {memory.shown(room)} are free: "
            "one after another",
            file=sys.stderr,
        )
    if refused := memory.shortage(units[0], room):
        raise InvalidInputError(f"{given.name}, {lines[0].name}: {refused}")
    ids: list[list[int]] | None = None
    for group in groups:
        try:
            _open(given.name, group)
            ids = ids or _fitting(lines[0], prompts, case)
            opened = [line for unit in group for line in unit.lines]
            _generate(opened, ids, case.max_tokens)
            if case.concurrency is not None:
                _generate_batches(opened, ids, case.max_tokens, case.concurrency)
            _time_forwards(opened)
        finally:
            for unit in group:
                unit.close()
    return lines


def _units(given: Given, case: Case) -> list[Unit]:
    """Return all engines to measure. Ours come first, because others are compared with ours."""
    dtypes, seats = case.our_dtypes(given), case.concurrency or 1
    found = list(ours.units(given, dtypes, case.methods, case.threads, seats))
    for peer in case.peers:
        if not peer.reads(given):
            print(f"{given.name}: {peer.name} reads no GGUF file: left out", file=sys.stderr)
        wanted = [dtype for dtype in peer.dtypes(given) if case.keeps(dtype)]
        found += peer.units(given, wanted, case.threads)
    return found


def _open(name: str, group: Sequence[Unit]) -> None:
    bar = Progress(f"{name}: opening")
    for done, unit in enumerate(group):
        bar.update(done, len(group))
        refused = memory.shortage(unit, memory.free())
        if refused is None:
            unit.open()
        for line in unit.lines if refused else ():
            line.fail(str(refused))
    bar.close()


def _fitting(line: Line, prompts: Sequence[str], case: Case) -> list[list[int]]:
    assert isinstance(line.source, ours.Ours)
    found = fitting(line.source.engine, prompts, SamplingParams(max_tokens=case.max_tokens))
    if len(found) < (case.concurrency or 1):
        raise InvalidInputError(
            f"--concurrency: expected at most one for each of {len(found)} prompts that fit, "
            f"got {case.concurrency}"
        )
    if len(found) < len(prompts):
        print(f"{len(prompts) - len(found)} prompts skipped: they do not fit", file=sys.stderr)
    return found


def _generate(lines: Sequence[Line], prompts: Sequence[list[int]], max_tokens: int) -> None:
    """Run every line on every prompt. The order of lines changes from prompt to prompt."""
    bar = Progress(f"{lines[0].checkpoint}: generating")
    for line in lines:
        line.ask("generate", prompts[0], min(WARM_TOKENS, max_tokens))
    for done, ids in enumerate(prompts):
        bar.update(done, len(prompts))
        at = done % len(lines)
        turns = [*lines[at:], *lines[:at]]
        for line in turns:
            line.answers.append(line.ask("generate", ids, max_tokens))
        for line in lines:
            answer, wanted = line.answers[done], (line.reference or line).answers[done]
            if answer is not None and wanted is not None:
                line.add(ids, answer, wanted.ids, max_tokens)
            elif answer is not None and line.reference is not None:
                line.fail(f"nothing to compare with: {line.reference.name} has no answer")
    bar.close()


def _generate_batches(
    lines: Sequence[Line], prompts: Sequence[list[int]], max_tokens: int, size: int
) -> None:
    """Run the lines with in_batches on every full batch of `size` prompts.

    The order of lines changes from batch to batch.
    """
    bar = Progress(f"{lines[0].checkpoint}: {size} at once")
    able = [line for line in lines if line.in_batches]
    for line in able:
        line.ask("generate_batch", prompts[:size], max_tokens)  # warms up
    starts = range(0, len(prompts) - size + 1, size)
    for done, begin in enumerate(starts):
        bar.update(done, len(starts))
        given = list(prompts[begin : begin + size])
        for at in range(len(able)):
            line = able[(at + done) % len(able)]
            alone = (line.reference or line).answers[begin : begin + size]
            batch = line.ask("generate_batch", given, max_tokens)
            if batch is not None and all(alone):
                wanted = [answer.ids for answer in alone if answer is not None]
                line.add_batch(given, batch, wanted, max_tokens)
    bar.close()


def _time_forwards(lines: Sequence[Line]) -> None:
    bar = Progress(f"{lines[0].checkpoint}: forwards")
    for burst in range(BURSTS):
        bar.update(burst, BURSTS)
        for line in lines:
            for rows in ROWS if line.mode in PLAIN else ():
                if line.us.get(rows) != []:  # the engine has not refused this number of rows
                    line.add_forwards(rows, line.ask("forward", rows, CONTEXT, TIMES))
    bar.close()
