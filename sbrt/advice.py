"""What a comparison says in words: which method was fastest, or why none beat plain decoding."""

from __future__ import annotations

from .measure import Report, Tally
from .outputs import ratio

NOTHING = 0.02  # a smaller difference is called none
BUSY = 0.25  # share of a round in which no lane works that is worth a word


def conclusion(report: Report) -> str:
    """One to three sentences; the figures in them are of this run and this machine alone."""
    others = [tally for tally in report.tallies if tally.method.name != "none" and tally.rate]
    if not others or not report.plain.rate:
        return "Nothing to compare: no method but plain decoding generated anything."
    best = max(others, key=lambda tally: tally.rate)
    speedup = best.rate / report.plain.rate
    if report.wrong:
        return "Tokens differ from plain decoding's: that is a defect, whatever the speed."
    if speedup > 1 + NOTHING:
        return f"Fastest here: {best.method.text}, {speedup:.2f} times plain decoding."
    if speedup >= 1 - NOTHING:
        head = f"Nothing beat plain decoding here: {best.method.text} was as fast."
    else:
        head = f"Nothing beat plain decoding here; {best.method.text} came closest, {speedup:.2f}x."
    return f"{head} {_why(best, report.plain)}"


def _why(best: Tally, plain: Tally) -> str:
    """speedup = tokens per round / (time of a round / time of a pass of plain decoding)."""
    one = ratio(plain.seconds, plain.passes)
    length = ratio(best.seconds, best.passes) / one
    said = (
        f"Why: its round commits {ratio(best.tokens, best.passes):.1f} tokens but lasts "
        f"{length:.1f} times a pass of plain decoding"
    )
    verify = ratio(best.verify_seconds, best.passes) / one
    draft = ratio(best.draft_seconds, best.passes) / one
    if not verify or not draft:
        return f"{said}."
    how = "before it" if not best.method.overlaps else "at the same time"
    said += f"; verifying takes {verify:.1f} of these, drafting {how} {draft:.1f}."
    waiting = length - verify - draft + ratio(best.overlap_seconds, best.passes) / one
    if waiting > BUSY * length:
        said += f" For {waiting / length:.0%} of the time neither worked: is the machine busy?"
    return said
