"""Draws two pictures of a sweep: speed-up by method at every c, and rollback against speed-up."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sweep.table import Cell, heading
from sbrt.files import write_file
from sbrt.tools import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = tuple[str, str, float]  # prompts, draft, temperature: what a panel shows
Panel = Callable[["Axes", Sequence[Cell]], None]

DPI, COLUMNS = 80, 4
CUTS = "specbranch, epsilon"  # beginning of the names of entries with a fixed epsilon
MARKERS = "osD^v"
OF_C = (picture.STANDS, picture.VERIFY, picture.INK, picture.MISS, picture.HIT)  # by ascending c
# (beginning of a method's name, colour, marker). A method has the first style whose beginning
# matches.
STYLES = (
    ("draft_model", "#999999", "o"),
    ("adaedl", "#999999", "s"),
    ("lookup", "#999999", "^"),
    ("tree", picture.CATCH_UP, "D"),
    ("pearl", picture.VERIFY, "o"),
    ("specbranch, H-RAD", "#CC79A7", "*"),
    ("specbranch, no branches", picture.STANDS, "v"),
    ("specbranch, serial", picture.STANDS, "s"),
    ("specbranch", picture.STANDS, "o"),
    ("hedge, paths", picture.STEP, "o"),
    ("hedge, trees, look-up", picture.MISS, "^"),
    ("hedge, trees, goes on", picture.MISS, "v"),
    ("hedge", picture.MISS, "o"),
    ("auto", picture.INK, "X"),
)


def draw(path: Path, cells: Sequence[Cell]) -> list[Path]:
    """Write the picture of speed-ups to `path`, and the picture of rollback to a file next to it.

    Returns the paths of both pictures, or an empty list if there are no cells. Raises OSError.
    """
    if not cells:
        return []
    first = [cell for cell in cells if cell["c"] == cells[0]["c"]]
    pictures = {path: speedups(cells), beside(path): rollbacks(first)}
    for to, figure in pictures.items():
        data = io.BytesIO()
        figure.savefig(data, dpi=DPI, format="png")
        write_file(to, data.getvalue())
    return list(pictures)


def beside(path: Path) -> Path:
    """Return the path of the picture of rollback; `path` is that of the speed-ups."""
    return path.with_name(f"{path.stem}-rollback{path.suffix}")


def speedups(cells: Sequence[Cell]) -> Figure:
    """Draw one panel for each combination of draft, prompts and temperature. A panel has a row per
    method, and in each row a mark per c."""
    names = _names(cells)
    cs = sorted({cell["c"] for cell in cells})

    def panel(axis: Axes, shown: Sequence[Cell]) -> None:
        for cell in sorted(shown, key=lambda cell: int(cell["c"])):
            rank = cs.index(cell["c"])
            found = {line["method"]: line["speedup"] for line in cell["methods"]}
            there = [i for i, name in enumerate(names) if name in found]
            axis.plot(
                [found[names[i]] for i in there],
                there,
                MARKERS[rank % len(MARKERS)],
                color=OF_C[rank % len(OF_C)],
                ms=5,
                label=f"c = {cell['c']}",
            )
        axis.axvline(1, color=picture.FAINT, linewidth=0.8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="y", color="#eeeeee")

    return _figure(cells, panel, "times plain decoding", (0.25 * len(names) + 0.6, True))


def rollbacks(cells: Sequence[Cell]) -> Figure:
    """Draw rollback against speed-up, for cells of one c. The panels are those of `speedups`.

    A line joins the entries of specbranch with a fixed epsilon.
    """

    def panel(axis: Axes, shown: Sequence[Cell]) -> None:
        for cell in shown:
            front = [_point(x) for x in cell["methods"] if x["method"].startswith(CUTS)]
            axis.plot([x for x, _ in front], [y for _, y in front], color=picture.STANDS, lw=1)
            for line in cell["methods"]:
                if line["method"] != "none":
                    _mark(axis, line)
        axis.axvline(1, color=picture.FAINT, linewidth=0.8)
        axis.set_ylim(bottom=0)
        axis.grid(color="#eeeeee")

    figure = _figure(cells, panel, f"times plain decoding, c = {cells[0]['c']}", (3.0, False))
    for axis in figure.axes[::COLUMNS]:
        axis.set_ylabel("rolled back, per token")
    return figure


def _mark(axis: Axes, line: dict[str, Any]) -> None:
    name = line["method"]
    color, marker = _style(name)
    # Without branches, and without epsilon to shorten chains, specbranch does the same as PEARL. So
    # their two marks coincide. The smaller mark is drawn above the larger one.
    size, above = (9.0 if "no branches" in name else 6.5), (3 + (name == "pearl"))
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    label = "specbranch" if name.startswith(CUTS) else name  # entries of all epsilons share a label
    axis.plot(*_point(line), marker, color=color, label=label, ms=size, zorder=above, **edge)


def _figure(cells: Sequence[Cell], panel: Panel, xlabel: str, shape: tuple[float, bool]) -> Figure:
    """Draw a figure of panels. shape: the height of a row of panels in inches, and True if the
    panels share their y axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places: list[Place] = list(dict.fromkeys(map(_place, cells)))
    columns = min(COLUMNS, len(places))
    rows = math.ceil(len(places) / columns)
    height, shared = shape
    figure = Figure(
        figsize=(3.3 * columns + 1.8 * shared, height * rows + 0.9), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=shared).flat)
    for axis, place in zip(axes, places, strict=False):
        shown = [cell for cell in cells if _place(cell) == place]
        panel(axis, shown)
        axis.set_title(f"{place[0]}, {heading(shown[0])}", fontsize=9, color=picture.INK)
        axis.tick_params(labelsize=8)
        axis.set_xlabel(xlabel, fontsize=8, color=picture.INK)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(places) :]:
        axis.set_axis_off()
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """Draw one legend for all panels, each label once."""
    found: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(7, len(found)),
        fontsize=8,
        frameon=False,
    )


def _place(cell: Cell) -> Place:
    return cell["prompts"], cell["draft"], cell["temperature"]


def _names(cells: Sequence[Cell]) -> list[str]:
    found = dict.fromkeys(line["method"] for cell in cells for line in cell["methods"])
    return [name for name in found if name != "none"]


def _point(line: dict[str, Any]) -> tuple[float, float]:
    return line["speedup"], line["rollback_rate"]


def _style(name: str) -> tuple[str, str]:
    return next(((c, m) for begin, c, m in STYLES if name.startswith(begin)), (picture.INK, "."))
