"""Renders the figures of a sweep as Markdown tables, for docs/measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sbrt import methods
from sbrt.outputs import ratio

Cell = dict[str, Any]

PATHS, TREES, SERIAL_TREE, PEARL = "hedge, paths", "hedge, trees", "tree", "pearl"
# Short names of tuned options.
LETTERS = {"gamma": "g", "epsilon": "e", "theta": "t", "width": "w", "F": "F"}
COMPARED = (
    (PATHS, PEARL, "paths / pearl"),
    (TREES, PEARL, "trees / pearl"),
    ("specbranch", PEARL, "specbranch / pearl"),
    ("auto", TREES, "auto / trees"),
)


def render(cells: Sequence[Cell]) -> str:
    """Return a table for each c and file of prompts, then a table that compares methods."""
    if not cells:
        return "No cell is complete yet."
    places = dict.fromkeys((cell["c"], cell["prompts"]) for cell in cells)
    tables = [
        _table(c, prompts, [x for x in cells if (x["c"], x["prompts"]) == (c, prompts)])
        for c, prompts in places
    ]
    return "\n\n".join([*tables, _compared(cells)])


def heading(cell: Cell) -> str:
    """Return the heading of a column: the draft and the temperature."""
    return f"{cell['draft']}, {cell['temperature']:g}"


def of(cell: Cell, name: str) -> dict[str, Any] | None:
    """Return the line of a method in a cell, or None if the cell lacks this method."""
    return next((line for line in cell["methods"] if line["method"] == name), None)


def _table(c: int, prompts: str, cells: Sequence[Cell]) -> str:
    names = dict.fromkeys(line["method"] for cell in cells for line in cell["methods"])
    rows = [
        [name, *(_figures(of(cell, name)) for cell in cells)] for name in names if name != "none"
    ]
    shares = [f"{cell['repeated']:.0%} of its tokens repeat" for cell in cells]
    return markdown([f"c = {c}, {prompts}", *map(heading, cells)], [["text", *shares], *rows])


def _figures(line: dict[str, Any] | None) -> str:
    """Return the text of one table cell: speed-up, tokens per pass, rollback, hit rate, tuned
    options."""
    if line is None:
        return "-"
    hits = f" {line['hit_rate']:.0%}" if line["branch_rounds"] else ""
    parts = f"{line['tokens_per_pass']:.2f} {line['rollback_rate']:.2f}"
    return " ".join((f"**{line['speedup']:.2f}**", f"{parts}{hits}", *_chosen(line)))


def _chosen(line: dict[str, Any]) -> list[str]:
    if line["method"] == methods.AUTO:
        return []
    options = methods.parse(line["setting"]).options
    return [f"{letter}{options[key]:g}" for key, letter in LETTERS.items() if key in options]


def _compared(cells: Sequence[Cell]) -> str:
    titles = [title for _, _, title in COMPARED]
    heads = ["c, prompts, draft, temperature", *titles, "trees / tree", "rollback"]
    rows = []
    for cell in cells:
        where = f"{cell['c']}, {cell['prompts']}, {heading(cell)}"
        ratios = [_times(cell, name, other) for name, other, _ in COMPARED]
        rows.append([where, *ratios, _of_trees(cell), _rollback(cell)])
    return markdown(heads, rows)


def _times(cell: Cell, name: str, other: str) -> str:
    lines = of(cell, name), of(cell, other)
    if lines[0] is None or lines[1] is None:
        return "-"
    return f"{ratio(lines[0]['speedup'], lines[1]['speedup']):.2f}"


def _of_trees(cell: Cell) -> str:
    """Return the speed-up of overlapped trees divided by that of the serial tree, as text.

    The text also splits this ratio into two factors: rounds per unit of time, and tokens per pass.
    """
    trees, tree = of(cell, TREES), of(cell, SERIAL_TREE)
    if trees is None or tree is None:
        return "-"
    times = ratio(trees["speedup"], tree["speedup"])
    tokens = ratio(trees["tokens_per_pass"], tree["tokens_per_pass"])
    return f"{times:.2f} = {ratio(times, tokens):.2f} x {tokens:.2f}"


def _rollback(cell: Cell) -> str:
    """Return PEARL's rollback as text, followed by the least rollback of the specbranch entries
    that are at least as fast as PEARL."""
    pearl = of(cell, PEARL)
    if pearl is None:
        return "-"
    said = f"pearl {pearl['rollback_rate']:.2f}"
    able = [
        line["rollback_rate"]
        for line in cell["methods"]
        if line["method"].startswith("specbranch") and line["speedup"] >= pearl["speedup"]
    ]
    return f"{said}, specbranch as fast {min(able):.2f}" if able else said


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Its cells are not padded."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
