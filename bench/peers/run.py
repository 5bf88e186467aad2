"""Measures the lines of one checkpoint: opens them, generates, times forwards, closes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.checkpoints import Given
from bench.peers import ours
from bench.peers.lines import Line, set_references
from bench.peers.settings import Peer
from sbrt import SamplingParams
from sbrt.measure import WARM_TOKENS, fitting
from sbrt.progress import Progress

CONTEXT, ROWS = 64, (1, 8)  # of the forwards that are timed
BURSTS, TIMES = 5, 8  # rounds over all lines, forwards of a line in each


@dataclass(frozen=True)
class Case:
    """What to measure. methods: ours beside `none`. threads: of every engine."""

    peers: Sequence[Peer]
    dtypes: Sequence[str]
    methods: Sequence[str]
    threads: int
    max_tokens: int

    @property
    def our_dtypes(self) -> list[str]:
        """Ours among them, one that the others can be compared with always."""
        found = [dtype for dtype in ours.DTYPES if dtype in self.dtypes]
        return found if found not in ([], ["int8"]) else ["bfloat16", *found]


def measured(given: Given, case: Case, prompts: Sequence[str]) -> list[Line]:
    """Every line of a checkpoint. Raises InvalidInputError if no prompt fits."""
    lines: list[Line] = []
    try:
        lines += ours.lines(given, case.our_dtypes, case.methods, case.threads)
        ids = _fitting(lines[0], prompts, case.max_tokens)
        lines += _theirs(given, case)
        set_references(lines)
        _generate(lines, ids, case.max_tokens)
        _time_forwards(lines)
    finally:
        for line in lines:
            if line.source is not None:
                line.source.close()
    return lines


def _theirs(given: Given, case: Case) -> Iterator[Line]:
    found = [
        (peer, line)
        for peer in case.peers
        for line in peer.lines(given)
        if line.dtype in case.dtypes
    ]
    bar = Progress(f"{given.name}: opening")
    for done, (peer, line) in enumerate(found):
        bar.update(done, len(found))
        peer.open(line, given, case.threads)
        yield line
    bar.close()


def _fitting(line: Line, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
    assert isinstance(line.source, ours.Ours)
    found = fitting(line.source.engine, prompts, SamplingParams(max_tokens=max_tokens))
    if len(found) < len(prompts):
        print(f"{len(prompts) - len(found)} prompts skipped: they do not fit", file=sys.stderr)
    return found


def _generate(lines: Sequence[Line], prompts: Sequence[list[int]], max_tokens: int) -> None:
    """Every line on every prompt; who goes first changes from prompt to prompt."""
    bar = Progress(f"{lines[0].checkpoint}: generating")
    for line in lines:
        line.ask("generate", prompts[0], min(WARM_TOKENS, max_tokens))
    for done, ids in enumerate(prompts):
        bar.update(done, len(prompts))
        at = done % len(lines)
        turns = [*lines[at:], *lines[:at]]
        answers = {id(line): line.ask("generate", ids, max_tokens) for line in turns}
        for line in lines:
            answer, wanted = answers[id(line)], answers[id(line.reference or line)]
            if answer is not None and wanted is not None:
                line.add(ids, answer, wanted.ids, max_tokens)
            elif answer is not None and line.reference is not None:
                line.fail(f"nothing to compare with: {line.reference.name} has no answer")
    bar.close()


def _time_forwards(lines: Sequence[Line]) -> None:
    bar = Progress(f"{lines[0].checkpoint}: forwards")
    for burst in range(BURSTS):
        bar.update(burst, BURSTS)
        for line in lines:
            for rows in ROWS:
                if line.us.get(rows) != []:  # refused once
                    line.add_forwards(rows, line.ask("forward", rows, CONTEXT, TIMES))
    bar.close()
