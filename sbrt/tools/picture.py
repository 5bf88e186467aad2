"""Draws the work of both lanes over time, one strip of the picture per method. Needs matplotlib
(extra `plot`).

All strips begin at the same token of the same answer and cover the same time. So a method that has
more tokens at the right edge is faster.
"""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInputError
from ..files import write_file
from ..outputs import ratio
from ..trace.spans import DRAFT, TARGET, Span
from ..trace.timeline import TimedRound, lane_work, timed_rounds
from .costs import SECOND
from .measure import Report, Tally
from .table import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUNDS = 9  # number of rounds in the strip of the method with the longest rounds
MOST_ROUNDS = 18  # maximum number of rounds of a drafting method: more would be illegible
WIDTH, STRIP, PLAIN_STRIP, MARGIN = 14.0, 1.30, 0.85, 1.75  # inches
LEFT, RIGHT = 0.055, 0.885  # begin and end of the strips, divided by the picture's width
DPI = 120

# Colours that colour-blind people can tell apart (Okabe and Ito, 2008), even in a grey print.
VERIFY, STEP, CATCH_UP = "#0072B2", "#E69F00", "#8C510A"
HIT, MISS, STANDS, INK, FAINT = "#009E73", "#D55E00", "#56B4E9", "#222222", "#767676"
COLORS = {
    "verify": VERIFY, "step": STEP, "catch_up": CATCH_UP,
    "burst": STEP, "serial_burst": STEP,  # on a device one span covers all steps of a burst
}  # fmt: skip
LANES = {TARGET: 1.0, DRAFT: 2.0}  # y of the middle of each lane; y grows downwards
# Share of a strip's width. A narrower bar is drawn without an edge, and a narrower round without a
# line at its end.
NARROW = 0.004
HALF = 0.36  # half the height of a lane
# The y of a round's tokens; width of a token divided by the width of a strip.
TOKENS_Y, CELL = 0.22, 0.0062


@dataclass(frozen=True)
class Strip:
    """The part of one method's longest answer that is drawn. Times are in ms from the beginning of
    the strip."""

    tally: Tally
    rounds: list[TimedRound]
    begin_ns: int
    length_ms: float

    def ms(self, ns: int) -> float:
        """Return the time in ms from the beginning of the strip."""
        return (ns - self.begin_ns) / 1e6

    def shown(self) -> list[TimedRound]:
        """Return the rounds that lie within the strip."""
        return [
            r for r in self.rounds if r.begin_ns >= self.begin_ns and self.has(self.ms(r.end_ns))
        ]

    def has(self, ms: float) -> bool:
        """True if a time lies within the strip."""
        return 0 <= ms <= self.length_ms


def require() -> None:
    """Raise InvalidInputError if matplotlib is missing. Called before a run, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidInputError(
            "--png: expected matplotlib, found none; install it with pip install 'sbrt[plot]'"
        ) from None


def draw(path: Path, report: Report) -> None:
    """Write a PNG that shows the same stretch of the longest answer for every method. Raises
    OSError."""
    data = io.BytesIO()
    figure_of(report).savefig(data, dpi=DPI, format="png")
    write_file(path, data.getvalue())


def figure_of(report: Report) -> Figure:
    """Make the picture without writing it. No display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strips = strips_of(report.shown())
    heights = [STRIP if s.tally.method.drafts else PLAIN_STRIP for s in strips]
    tall = MARGIN + sum(heights)
    figure = Figure(figsize=(WIDTH, tall))
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(strips), 1, squeeze=False, gridspec_kw={"height_ratios": heights, "hspace": 0.28}
    )[:, 0]
    figure.subplots_adjust(left=LEFT, right=RIGHT, top=1 - 0.78 / tall, bottom=0.97 / tall)
    for axis, strip in zip(axes, strips, strict=True):
        _strip(axis, strip, report)
    axes[-1].tick_params(axis="x", labelbottom=True, length=3, colors=INK)
    name = "milliseconds"
    # Simulated time has another unit than seconds. One unit is one second of the trace.
    if report.unit != SECOND:
        name = f"{report.unit}s"
        axes[-1].xaxis.set_major_formatter(lambda ms, _: f"{ms / 1e3:g}")
    axes[-1].set_xlabel(name, fontsize=9, color=INK)
    _captions(figure, strips, tall)
    return figure


def strips_of(tallies: Sequence[Tally]) -> list[Strip]:
    """Return strips of equal length. All strips begin at the same token, or at the next round after
    it."""
    timed = [timed_rounds(tally.spans, tally.rounds) for tally in tallies]
    there = [rounds for rounds in timed if rounds]
    length = window_ms(there)
    first = first_token(there, length)
    return [
        Strip(tally, rounds, rounds[_first_round(rounds, first)].begin_ns if rounds else 0, length)
        for tally, rounds in zip(tallies, timed, strict=True)
    ]


def window_ms(methods: Sequence[Sequence[TimedRound]]) -> float:
    """Return the length of a strip in ms: the time of ROUNDS rounds of the slowest method.

    A strip is shorter if the longest answer is, or MOST_ROUNDS rounds of the fastest drafting
    method.
    """
    typical = [_typical_ns(rounds) for rounds in methods] or [1e6]
    drafting = [_typical_ns(rounds) for rounds in methods if any(r.burst for r in rounds)]
    wanted = min(max(typical) * ROUNDS, min(drafting or typical) * MOST_ROUNDS)
    longest = max((rounds[-1].end_ns - rounds[0].begin_ns for rounds in methods), default=1e6)
    return max(1.0, min(wanted, longest)) / 1e6


def first_token(methods: Sequence[Sequence[TimedRound]], length_ms: float) -> int:
    """Return the token at which strips begin.

    The token is chosen so that other work of the machine disturbs the methods least: strips that
    begin there hold the most rounds. Each round is weighted with the typical length of its method's
    rounds.
    """
    best, most = 0, 0.0
    starts = {r.first_token for rounds in methods for r in rounds}
    for token in sorted(starts):
        filled = 0.0
        for rounds in methods:
            begin = _first_round(rounds, token)
            until = rounds[begin].begin_ns + length_ms * 1e6
            end = bisect_right(rounds, until, key=lambda r: r.end_ns)
            filled += (end - begin) * _typical_ns(rounds)
        if filled > most * 1.001:
            best, most = token, filled
    return best


def _first_round(rounds: Sequence[TimedRound], token: int) -> int:
    """Return the index of the first round that begins at `token` or later. If there is no such
    round, return the last index."""
    return min(bisect_left(rounds, token, key=lambda r: r.first_token), len(rounds) - 1)


def _typical_ns(rounds: Sequence[TimedRound]) -> float:
    """Return the lower quartile of the rounds' times, because longer rounds may have been disturbed
    by other work."""
    lengths = sorted(r.end_ns - r.begin_ns for r in rounds)
    return max(1.0, lengths[len(lengths) // 4])


def _strip(axis: Axes, strip: Strip, report: Report) -> None:
    lanes = LANES if strip.tally.method.drafts else {TARGET: LANES[TARGET]}
    last = max(lanes.values())
    axis.set_xlim(0, strip.length_ms)
    axis.set_ylim(last + 0.45, -0.15)
    axis.set_yticks([TOKENS_Y, *lanes.values()], ["tokens", *lanes], fontsize=8, color=INK)
    axis.tick_params(axis="both", length=0, labelbottom=False)
    for side in axis.spines.values():
        side.set_visible(False)
    _idle(axis, strip, lanes)
    for name in lanes:
        _work(axis, strip, lane_work(strip.tally.spans, name), lanes[name])
    shown = strip.shown()
    ends = [strip.ms(one.end_ns) for one in shown]
    for one, following in zip(shown, [*ends[1:], strip.length_ms], strict=False):
        _round(axis, strip, one, last)
        _outcome(axis, strip, one, following)
    _margin(axis, strip, report)


def _idle(axis: Axes, strip: Strip, lanes: Iterable[str]) -> None:
    """Hatch the whole lane. The lane's work is drawn over the hatching, so idle time stays
    hatched."""
    last = strip.ms(strip.rounds[-1].end_ns) if strip.rounds else 0.0
    end = min(strip.length_ms, last)
    for name in lanes:
        axis.broken_barh(
            [(0, end)],
            (LANES[name] - HALF, 2 * HALF),
            facecolors="#f4f4f4",
            edgecolors="#c9c9c9",
            hatch="////",
            linewidth=0,
        )
    if strip.rounds and end < 0.88 * strip.length_ms:
        x, y = end + 0.008 * strip.length_ms, LANES[TARGET]
        axis.text(x, y, "end of the answer", fontsize=8.5, color=FAINT, va="center")


def _work(axis: Axes, strip: Strip, spans: Sequence[Span], y: float) -> None:
    """Draw bars of a lane's work. Very short bars have no edge."""
    for span in spans:
        left = max(0.0, strip.ms(span.begin_ns))
        right = min(strip.length_ms, strip.ms(span.end_ns))
        if right > left:
            edge = 0.3 if right - left > NARROW * strip.length_ms else 0.0
            axis.broken_barh(
                [(left, right - left)],
                (y - HALF, 2 * HALF),
                facecolors=COLORS.get(span.name, INK),
                edgecolors="white",
                linewidth=edge,
            )


def _round(axis: Axes, strip: Strip, one: TimedRound, last: float) -> None:
    """Draw a round's end, and its tokens above the lanes."""
    left, right = strip.ms(one.begin_ns), strip.ms(one.end_ns)
    if right - left > NARROW * strip.length_ms:
        ends = [-0.1, last + HALF]
        axis.plot([right, right], ends, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    _tokens(axis, strip, one, left, right)


def _outcome(axis: Axes, strip: Strip, one: TimedRound, following: float) -> None:
    """Draw hit or miss between the lanes. If there is room, draw the number of the tail's nodes
    that were kept, too."""
    if not one.round.branches or one.kept is None:
        return
    x = strip.ms(one.end_ns)
    shape, color = ("^", HIT) if one.round.is_hit else ("X", MISS)
    axis.plot([x], [1.5], marker=shape, markersize=9, color=color, markeredgecolor="white")
    if one.round.is_hit and following - x > 0.035 * strip.length_ms:
        axis.annotate(
            f"+{one.kept}",
            (x, 1.5),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="white",
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.15", "fc": color, "ec": "none"},
        )


def _tokens(axis: Axes, strip: Strip, one: TimedRound, left: float, right: float) -> None:
    """Draw a square per token: accepted, the target's own, or rolled back. If there is no room for
    squares, write numbers."""
    r = one.round
    size = CELL * strip.length_ms
    cells = ["stands"] * r.n + ["back"] * (r.depth - r.n)
    own = r.tokens - r.n
    cells[r.n : r.n] = ["own"] * own
    if (len(cells) + 0.5) * size <= right - left:
        x = right - (len(cells) + 0.25) * size
        for at, kind in enumerate(cells):
            _cell(axis, x + at * size, size, kind)
    elif right - left > 6 * size:
        back = f" -{r.depth - r.n}" if r.depth > r.n else ""
        axis.text(right - 0.5 * size, TOKENS_Y, f"+{r.tokens}{back}", ha="right", va="center",
                  fontsize=8, color=INK)  # fmt: skip


def _cell(axis: Axes, x: float, size: float, kind: str) -> None:
    from matplotlib.patches import Rectangle

    height = 0.34
    face = {"stands": STANDS, "own": VERIFY, "back": "white"}[kind]
    edge = MISS if kind == "back" else "white"
    low, high = TOKENS_Y - height / 2, TOKENS_Y + height / 2
    axis.add_patch(
        Rectangle(
            (x + 0.08 * size, low), 0.84 * size, height, facecolor=face, edgecolor=edge, linewidth=1
        )
    )
    if kind == "back":
        axis.plot([x + 0.2 * size, x + 0.8 * size], [high - 0.06, low + 0.06], color=MISS, lw=1)


def _margin(axis: Axes, strip: Strip, report: Report) -> None:
    """Write the heading of a strip, and to the right of the strip the figures of the whole run."""
    tally, shown = strip.tally, strip.shown()
    speedup, unit = ratio(tally.rate, report.plain.rate), "s"
    if report.unit != SECOND:
        unit = report.unit
    tokens = sum(one.round.tokens for one in shown)
    counts = f"{counted(len(shown), 'round')}, {counted(tokens, 'token')} in this stretch"
    said = counts if strip.rounds else "nothing ran"
    axis.set_title(
        tally.method.text, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=3
    )
    axis.set_title(said, loc="right", fontsize=8.5, color=FAINT, pad=3)
    place = {"transform": axis.transAxes, "va": "center"}
    low = 0.28 if tally.method.drafts else 0.12
    axis.text(1.012, 0.62, f"{speedup:.2f}x", fontsize=16, fontweight="bold", color=INK, **place)
    rate = f"{tally.rate:.0f}" if tally.rate >= 10 else f"{tally.rate:.3f}"
    axis.text(1.012, low, f"{rate} tokens/{unit}", fontsize=9, color=FAINT, **place)


def _captions(figure: Figure, strips: Sequence[Strip], tall: float) -> None:
    """Write the heading, the note and the legend of the picture."""
    begin = next((s.shown()[0].first_token for s in strips if s.shown()), 0)
    said = (
        f"the same answer from token {begin} on, the same stretch of time for every method; "
        "a dashed line ends a round"
    )
    y = 1 - 0.27 / tall
    style = {"va": "center", "color": INK}
    figure.text(LEFT, y, "Both lanes over time", fontsize=14, fontweight="bold", **style)
    figure.text(LEFT + 0.185, y, said, fontsize=9.5, **style)
    figure.text(
        RIGHT + 0.01, y, "whole run, against\nplain decoding", fontsize=8, va="center", color=FAINT
    )
    _legend(figure)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(shape: str, color: str) -> Line2D:
        return Line2D([], [], marker=shape, color=color, linestyle="none", markersize=8)

    entries = {
        "target verifies": Patch(color=VERIFY),
        "draft step, all branches": Patch(color=STEP),
        "draft catches up": Patch(color=CATCH_UP),
        "idle": Patch(facecolor="#f4f4f4", edgecolor="#c9c9c9", hatch="////"),
        "hit: a prepared branch goes on, +n drafted tokens": mark("^", HIT),
        "miss: all branches dropped": mark("X", MISS),
        "drafted token, accepted": Patch(color=STANDS),
        "token of the target itself": Patch(color=VERIFY),
        "token rolled back": Patch(facecolor="white", edgecolor=MISS),
    }
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="lower center",
        ncols=5,
        fontsize=8.5,
        frameon=False,
        handlelength=1.6,
    )
