"""Writes sentences about a comparison of methods. The sentences name the fastest method, or say why
none was faster than plain decoding. They also say why simulated time differs from measured time."""

from __future__ import annotations

from ..methods import AUTO
from ..outputs import ratio
from .costs import SECOND, TARGET_ROWS
from .measure import Report, Tally

NOTHING = 0.02  # smaller relative differences count as no difference
BUSY = 0.25  # maximum share of a round without work of any lane; more is reported


def conclusion(report: Report) -> str:
    """Return one to three sentences about the fastest method, in this run on this machine."""
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


def premise(simulated: Report) -> str:
    """Return one sentence that says what a forward costs in simulated time."""
    model = simulated.simulated
    said = f"The same prompts and settings in simulated time, {model.text if model else ''}: "
    if model is None or simulated.unit == SECOND:
        return f"{said}a forward costs what it says."
    steps = "one draft step" if model.c == 1 else f"{model.c} draft steps"
    return f"{said}a target pass costs {steps} and each model has its own hardware."


def difference(clock: Report, simulated: Report) -> str:
    """Return two to four sentences: why speedups in simulated time differ from measured ones.

    Both reports have the same methods in the same order.
    """
    if simulated.wrong:
        return "Tokens differ from plain decoding's: that is a defect, whatever the speed."
    pairs = zip(simulated.shown(), clock.shown(), strict=True)
    others = [pair for pair in pairs if pair[0].method.name != "none" and pair[0].rate]
    if not others or not simulated.plain.rate or not clock.plain.rate:
        return "Nothing to compare: no method but plain decoding generated anything."
    # The two reports may have different choices of `auto`. So `auto` is used only if there is no
    # other method.
    alike = [pair for pair in others if pair[0].method.name != AUTO]
    best, earlier = max(alike or others, key=lambda pair: pair[0].rate)
    name, tokens, one = best.method.text, _tokens(earlier), "a pass of plain decoding"
    said = (
        f"Why they differ: by the clock a round of {name} commits {tokens:.1f} tokens and lasts "
        f"{_length(earlier, clock.plain):.1f} times {one}; in simulated time it commits "
        f"{_tokens(best):.1f} and lasts {_length(best, simulated.plain):.1f} times. "
        f"{_reason(earlier, simulated)}"
    )
    return said if alike == others else f"{said} auto chooses its methods by the costs it meets."


def _tokens(tally: Tally) -> float:
    """Return the mean number of tokens committed per round."""
    return ratio(tally.tokens, tally.passes)


def _length(tally: Tally, plain: Tally) -> float:
    """Return the mean time of a round divided by the time of a forward of plain decoding.

    The speedup is the number of tokens per round divided by this value.
    """
    return ratio(ratio(tally.seconds, tally.passes), ratio(plain.seconds, plain.passes))


def _reason(clock: Tally, simulated: Report) -> str:
    """Return one sentence about the costs of this machine that the cost model leaves out."""
    model = simulated.simulated
    if model is None or simulated.unit == SECOND:
        return "The clock measures this machine; simulated time counts only the costs of that file."
    threads = "one thread" if clock.threads == 1 else f"{clock.threads} threads"
    sharing = f"both models share {threads}, and " if clock.method.drafts else ""
    return (
        f"On this machine {sharing}every further row costs the target time. With {model.text} each "
        f"model has hardware of its own, and a pass costs the same up to {TARGET_ROWS} rows."
    )


def _why(best: Tally, plain: Tally) -> str:
    """Return a sentence about the best method: its tokens per round, the time of a round, and how
    that time divides."""
    one, length = ratio(plain.seconds, plain.passes), _length(best, plain)
    said = (
        f"Why: its round commits {_tokens(best):.1f} tokens but lasts "
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
