"""Renders the table that `sbrt compare` prints, with an explanation of its columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from ..outputs import ratio
from . import advice
from .costs import SECOND
from .measure import Report, Tally

COLUMNS = (
    *("method", "tokens/s", "speedup", "tokens/pass"),
    *("accepted", "rollback", "hits", "overlap", "same"),
)
NEXT_TO = ("method", "speedup", "by the clock", "tokens/pass", "overlap")

WIDTH = 100  # characters of a line
NAME = 26  # maximum characters of a method's name in a line; the rest continues below

SPEED = """\
tokens/s     tokens returned per second, prefill left out
speedup      tokens/s over that of none, plain decoding by the same engine
"""
SIMULATED = """\
tokens/t     tokens returned per time of a one-row draft forward, the unit of simulated time
speedup      tokens/t over that of none, plain decoding
"""
LEGEND = """\
tokens/pass  tokens per forward of the target; plain decoding has 1
accepted     share of the draft tokens that the target accepted
rollback     draft tokens rolled back, per token returned
hits         of the rounds with a prepared branch, the share whose outcome was prepared
overlap      share of the target's working time in which the draft worked too
same         yes if every token equals that of plain decoding"""


def render(report: Report) -> str:
    """Return header, rows, legend and conclusion, with at most 100 characters per line."""
    shown = report.shown()
    lines = [report.line(tally) for tally in shown]
    columns, speed = COLUMNS, SPEED
    if report.unit != SECOND:
        columns, speed = ("method", "tokens/t", *COLUMNS[2:]), SIMULATED
    rows = [columns]
    for line, tally in zip(lines, shown, strict=True):
        rows += _rows(_label(tally), _figures(line, tally))
    said = textwrap.wrap(advice.conclusion(report), WIDTH)
    return "\n".join([*_title(lines, report), "", *aligned(rows), "", speed + LEGEND, "", *said])


def render_next_to(clock: Report, simulated: Report) -> str:
    """Return a short table of the same methods in simulated time, and the reason why speedups
    differ between simulated and real time.

    Both reports must have the same methods in the same order. A line has at most 100 characters.
    """
    rows: list[tuple[str, ...]] = [NEXT_TO]
    for tally, earlier in zip(simulated.shown(), clock.shown(), strict=True):
        line = simulated.line(tally)
        by_the_clock = f"{clock.line(earlier)['speedup']:.2f}x"
        speedup, tokens_per_pass, overlap = (
            _figures(line, tally)[COLUMNS.index(name) - 1]
            for name in ("speedup", "tokens/pass", "overlap")
        )
        rows += _rows(_label(tally), (speedup, by_the_clock, tokens_per_pass, overlap))
    title, said = advice.premise(simulated), advice.difference(clock, simulated)
    return "\n".join(
        [*textwrap.wrap(title, WIDTH), "", *aligned(rows), "", *textwrap.wrap(said, WIDTH)]
    )


def render_many(reports: Sequence[Report]) -> str:
    """Return a table with a row for each method and a column for each number of sequences.

    All reports must have the same methods. A cell has the tokens of all sequences per unit of time,
    and the speedup over plain decoding with the same number of sequences. With up to five columns,
    a line has at most 100 characters.
    """
    first = reports[0]
    rows: list[tuple[str, ...]] = [("sequences", *(str(r.concurrency) for r in reports))]
    for at, tally in enumerate(first.shown()):
        cells = tuple(_many(report, report.shown()[at]) for report in reports)
        rows += _rows(tally.method.text, cells)
    text = first.simulated.text if first.simulated else ""
    unit = "second" if first.unit == SECOND else "time of a one-row draft forward"
    said = textwrap.wrap(
        f"tokens of all sequences per {unit}, in rounds in which all of them decode; then the "
        "speedup over none with the same number of sequences; NO: a token differs from plain "
        "decoding's",
        WIDTH,
    )
    return "\n".join([f"closed loop, simulated, {text}", "", *aligned(rows), "", *said])


def _many(report: Report, tally: Tally) -> str:
    wrong = " NO" if tally in report.wrong else ""
    return f"{_rate(tally.rate)} {ratio(tally.rate, report.plain.rate):.2f}x{wrong}"


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 10 else f"{rate:.3f}"


def counted(n: int, thing: str) -> str:
    """Return a number with its noun: `1 token`, `2 tokens`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _title(lines: Sequence[dict[str, Any]], report: Report) -> list[str]:
    how = f"simulated, {report.simulated.text}" if report.simulated else _threads(lines)
    if report.concurrency is not None:
        how += f", {counted(report.concurrency, 'sequence')} in flight"
    prompts, tokens = counted(lines[0]["prompts"], "prompt"), counted(lines[0]["tokens"], "token")
    said = f"{prompts}, {tokens} per method, {report.dtype} weights, {how}"
    return textwrap.wrap(said, WIDTH)


def _threads(lines: Sequence[dict[str, Any]]) -> str:
    widest = max(lines, key=lambda line: line["draft_threads"])
    total, draft = widest["threads"], widest["draft_threads"]
    threads = counted(total, "thread")
    if draft and total > 1:
        threads += f", {draft} the draft's while both models run"
    return threads


def _rows(label: str, figures: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return one row of the table, and further rows for the rest of a name that is too long for a
    line."""
    first, *others = _pieces(label)
    blank = ("",) * len(figures)
    return [(first, *figures), *((f"  {other}", *blank) for other in others)]


def _pieces(name: str) -> list[str]:
    """Split a method's name into pieces of at most NAME characters, after colons and commas."""
    pieces = [""]
    for part in re.findall("[^:,]*[:,]?", name):
        if pieces[-1] and len(pieces[-1]) + len(part) > NAME:
            pieces.append("")
        pieces[-1] += part
    return pieces


def _figures(line: dict[str, Any], tally: Tally) -> tuple[str, ...]:
    drafts = line["draft_tokens"] > 0
    rounds = line["branch_rounds"]
    # In a closed loop, the lanes' times belong to all sequences together.
    has_times = tally.method.drafts and tally.load is None
    return (
        _rate(line["tokens_per_second"]),
        f"{line['speedup']:.2f}x",
        f"{line['tokens_per_pass']:.2f}",
        f"{line['acceptance_rate']:.0%}" if drafts else "-",
        f"{line['rollback_rate']:.2f}" if drafts else "-",
        f"{line['branch_hits'] / rounds:.0%}" if rounds else "-",
        f"{ratio(tally.overlap_seconds, tally.verify_seconds):.0%}" if has_times else "-",
        "yes" if line["identical_to_none"] else "no" if tally.method.rejection else "NO",
    )


def _label(tally: Tally) -> str:
    """Return the method's preset, as a label. If options were swept, the label has their best
    values."""
    if not tally.sweep:
        return tally.method.text
    options = tally.method.options
    best = [f"{key} {options[key]}" for key in tally.sweep[0] if key in options]
    return f"{tally.method.text} ({', '.join(best)})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Its first row is the header, its first column is aligned to the
    left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
