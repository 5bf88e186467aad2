"""The table of `sbrt compare`: it explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .costs import SECOND
from .measure import Report, Tally
from .outputs import ratio

COLUMNS = (
    *("method", "tokens/s", "speedup", "tokens/pass"),
    *("accepted", "rollback", "hits", "overlap", "same"),
)

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
accepted     share of the drafted tokens that the target let stand
rollback     drafted tokens taken back, per token returned
hits         rounds whose outcome had been prepared, of those with a prepared branch
overlap      share of the target's working time in which the draft worked too
same         whether every token equals plain decoding's"""


def render(report: Report) -> str:
    """Header, rows, legend; lines end without a newline at the end."""
    shown = report.shown()
    lines = [report.line(tally) for tally in shown]
    rows = [_row(line, tally) for line, tally in zip(lines, shown, strict=True)]
    columns, speed = COLUMNS, SPEED
    if report.unit != SECOND:
        columns, speed = ("method", "tokens/t", *COLUMNS[2:]), SIMULATED
    title = _title(lines, report)
    return "\n".join([title, "", *_aligned([columns, *rows]), "", speed + LEGEND])


def _title(lines: Sequence[dict[str, Any]], report: Report) -> str:
    how = f"simulated, {report.simulated.text}" if report.simulated else _threads(lines)
    return (
        f"{lines[0]['prompts']} prompts, {lines[0]['tokens']} tokens per method, "
        f"{report.dtype} weights, {how}"
    )


def _threads(lines: Sequence[dict[str, Any]]) -> str:
    widest = max(lines, key=lambda line: line["draft_threads"])
    total, draft = widest["threads"], widest["draft_threads"]
    threads = "1 thread" if total == 1 else f"{total} threads"
    if draft and total > 1:
        threads += f", {draft} of them the draft's while both models run"
    return threads


def _row(line: dict[str, Any], tally: Tally) -> tuple[str, ...]:
    drafts = line["draft_tokens"] > 0
    rounds = line["branch_rounds"]
    rate = line["tokens_per_second"]
    return (
        _label(tally),
        f"{rate:.1f}" if rate >= 10 else f"{rate:.3f}",
        f"{line['speedup']:.2f}x",
        f"{line['tokens_per_pass']:.2f}",
        f"{line['acceptance_rate']:.0%}" if drafts else "-",
        f"{line['rollback_rate']:.2f}" if drafts else "-",
        f"{line['branch_hits'] / rounds:.0%}" if rounds else "-",
        f"{ratio(tally.overlap_seconds, tally.verify_seconds):.0%}" if tally.method.drafts else "-",
        "yes" if line["identical_to_none"] else "NO",
    )


def _label(tally: Tally) -> str:
    """The preset and, after a sweep, the options that came out best."""
    if not tally.sweep:
        return tally.method.text
    options = tally.method.options
    best = [f"{key} {options[key]}" for key in tally.sweep[0] if key in options]
    return f"{tally.method.text} ({', '.join(best)})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]))
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
