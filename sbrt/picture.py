"""A picture of both lanes over time, one strip per method. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import SECOND
from .errors import InvalidInputError
from .measure import Report, Tally
from .trace import DRAFT, TARGET, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDS = 10  # rounds of plain decoding that a strip is long
LANES = {TARGET: 0, DRAFT: 1}
COLORS = {
    "verify": "#2b6cb0",
    "select": "#0b2545",
    "settle": "#718096",
    "adopt": "#718096",
    "catch_up": "#dd6b20",
    "plan": "#7b341e",
    "step": "#f6ad55",
    "wait": "#e2e8f0",
}
OTHER = "#a0aec0"


def require() -> None:
    """Raises InvalidInputError if matplotlib is missing: better before a run than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidInputError(
            "--png: expected matplotlib, found none; install it with pip install 'sbrt[plot]'"
        ) from None


def draw(path: Path, report: Report) -> None:
    """Write a PNG: the same stretch of time, from the middle of each longest answer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tallies = report.shown()
    plain = report.plain
    # Ticks of the axis: milliseconds, or the unit of simulated time.
    name, tick_ns = ("milliseconds", 1e6) if report.unit == SECOND else (f"{report.unit}s", 1e9)
    window = ROUNDS * 1e9 / tick_ns * plain.seconds / max(1, plain.passes)
    figure = Figure(figsize=(12, 1.2 + 1.3 * len(tallies)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tallies), 1, sharex=True, squeeze=False)[:, 0]
    for axis, tally in zip(axes, tallies, strict=True):
        rate = f"{tally.rate:.4g} tokens per {report.unit}"
        _strip(axis, tally, rate, window, tick_ns)
    axes[-1].set_xlabel(name)
    figure.suptitle("What each lane did: colour is work, grey is waiting for the other lane")
    _legend(axes[0])
    figure.savefig(path, dpi=120)


def _strip(axis: Axes, tally: Tally, rate: str, window: float, tick_ns: float) -> None:
    begin, spans = _window(tally.spans, window * tick_ns)
    for span in spans:
        left = max(0.0, (span.begin_ns - begin) / tick_ns)
        right = min(window, (span.end_ns - begin) / tick_ns)
        axis.broken_barh(
            [(left, right - left)],
            (LANES[span.stream] - 0.4, 0.8),
            facecolors=COLORS["wait"] if span.is_wait else COLORS.get(span.name, OTHER),
            edgecolor="white",
            linewidth=0.3,
        )
    axis.set_xlim(0, window)
    axis.set_ylim(1.5, -0.5)
    axis.set_yticks(list(LANES.values()), list(LANES))
    axis.set_title(f"{tally.method.text}: {rate}", loc="left", fontsize=10)


def _window(spans: Sequence[Span], length_ns: float) -> tuple[int, list[Span]]:
    """(begin, spans within) of a stretch in the middle of a generation."""
    inside = [s for s in spans if s.stream in LANES and not s.name.startswith("prefill")]
    if not inside:
        return 0, []
    first, last = min(s.begin_ns for s in inside), max(s.end_ns for s in inside)
    length = int(length_ns)
    begin = max(first, (first + last - length) // 2)
    return begin, [s for s in inside if s.end_ns > begin and s.begin_ns < begin + length]


def _legend(axis: Axes) -> None:
    from matplotlib.patches import Patch

    names = {"verify": "verify", "step": "draft step", "catch_up": "catch-up", "wait": "wait"}
    patches = [Patch(color=COLORS[key], label=label) for key, label in names.items()]
    axis.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8)
