"""`python -m bench.gpu.costs`: cost files of devices, from compiled kernels or from bench.lanes.

    python -m bench.gpu.costs [NAME ...] [--write [DIR]]
    python -m bench.gpu.costs h200-8b-1b --graph T16
    python -m bench.gpu.costs h200-8b-1b --lanes LANES.json --out COSTS.json

The first form estimates forwards and rounds of the pairs in PAIRS. With --write, it also writes the
cost files into the package, where `--costs NAME` and `--simulate NAME` find them. The second form
prints the nodes of one forward. T16 is a target forward of 16 rows, t4 a draft forward of 4 rows.
The third form estimates nothing. It makes the cost file from times that bench.lanes measured on a
device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbrt import check
from sbrt.errors import InvalidInputError
from sbrt.files import write_file
from sbrt.model.config import ModelConfig, read_config
from sbrt.model.demo_pair import demo_folder
from sbrt.tools import flags
from sbrt.tools.costs import SHIPPED, cost_model

from ..models.real import SIZES, config_of
from .cost_file import TARGET_ROWS, Forward, Lanes, cost_file, forward_of, measured

if TYPE_CHECKING:
    from .nodes import Node

# Number of tokens of one sequence. Every forward reads their keys and values.
CONTEXT = 1024
GAMMA = 4  # number of draft steps of the printed rounds
MOST_BYTES = 1 << 24  # largest size of a report of bench.lanes in bytes


@dataclass(frozen=True)
class Pair:
    """A target, a draft, and the number of devices that they run on.

    target, draft: sizes of bench.models.real, or models of the demo pair. dtype, draft_dtype:
    format in which the target's and the draft's matrices are stored. early: kernels are launched
    early (EngineConfig.programmatic_launch).
    """

    target: str
    draft: str
    devices: int = 1
    dtype: str = "bfloat16"
    draft_dtype: str = "bfloat16"
    early: bool = False

    @property
    def models(self) -> tuple[Model, Model]:
        """Return the target and the draft."""
        return (
            Model(self.target, False, self.dtype, self.early),
            Model(self.draft, True, self.draft_dtype, self.early),
        )


PAIRS = {
    "h200-8b-1b": Pair("8b", "1b"),
    "h200-70b-8b": Pair("70b", "8b"),
    "2xh200-8b-1b": Pair("8b", "1b", 2),
    "2xh200-70b-8b": Pair("70b", "8b", 2),
    "h200-8b-1b-int8": Pair("8b", "1b", dtype="int8", draft_dtype="int8"),
    "h200-8b-1b-int8-draft": Pair("8b", "1b", draft_dtype="int8"),
    "h200-8b-1b-early": Pair("8b", "1b", early=True),
    "h200-8b-1b-int8-early": Pair("8b", "1b", dtype="int8", draft_dtype="int8", early=True),
    "h200-demo": Pair("target", "draft"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("bench.gpu.costs", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    if args.graph is not None:
        _print_graph(args.names[0], *args.graph)
        return 0
    if args.lanes is not None:
        name = args.names[0]
        file = cost_file(
            measured(_read(args.lanes)), PAIRS[name].devices, f"bench.lanes: {args.lanes}"
        )
        cost_model(str(args.out), file)  # raises on invalid figures
        write_file(args.out, _text(file))
        return 0
    known: dict[Pair, Lanes] = {}
    print("pair | us of T(16) | t(4) | nodes | GB | serial round | overlapped | its bytes alone")
    for name in args.names:
        pair = PAIRS[name]
        key = replace(pair, devices=1)
        if key not in known:
            known[key] = estimated(pair)
        print(summary(name, pair, known[key]), flush=True)
        if args.write is not None:
            file = cost_file(known[key], pair.devices, about(pair))
            write_file(args.write / f"{name}.json", _text(file))
    return 0


def about(pair: Pair) -> str:
    """Return the explanation at the beginning of a cost file."""
    both = pair.dtype if pair.dtype == pair.draft_dtype else f"{pair.dtype}, {pair.draft_dtype}"
    return (
        "Estimated by python -m bench.gpu.costs from compiled kernels; nothing here was measured. "
        f"{both}, {CONTEXT} tokens of context or half of what the model takes"
        f"{', early launches' if pair.early else ''}."
    )


def estimated(pair: Pair) -> Lanes:
    """Return the estimated forwards of both lanes, one for each graph that a lane captures."""
    return Lanes(
        [_forward(pair.models[0], rows) for rows in TARGET_ROWS],
        [_forward(pair.models[1], rows) for rows in _draft_rows(pair.draft)],
    )


def _draft_rows(model: str) -> list[int]:
    from .launches import OfflineLane
    from .nodes import H200

    return OfflineLane(_config(model), True, TARGET_ROWS[0], H200.multiprocessors).sizes


def _config(model: str) -> ModelConfig:
    return config_of(model) if model in SIZES else read_config(demo_folder(model))


@dataclass(frozen=True)
class Model:
    """One model of a pair: its size, its lane, the format in which its matrices are stored, and
    whether its kernels are launched early."""

    name: str
    is_draft: bool
    storage: str
    early: bool


def nodes(model: Model, rows: int) -> list[Node]:
    """Return the graph nodes of one forward and of the token choice after it, on an H200."""
    from sbrt.gpu.ops import TRITON, early

    from .launches import OfflineLane
    from .nodes import H200, nodes_of

    config = _config(model.name)
    graph = TARGET_ROWS[0] if model.is_draft else _graph_of(TARGET_ROWS, rows)
    ops = early(TRITON, model.early)
    lane = OfflineLane(
        config, model.is_draft, graph, H200.multiprocessors, ops, storage=model.storage
    )
    rows = _graph_of(lane.sizes, rows)
    context = min(CONTEXT, config.max_positions // 2)
    return nodes_of(lane.launches(rows), H200, context)


def _graph_of(sizes: Sequence[int], rows: int) -> int:
    """Return the smallest of `sizes` that is at least `rows`. Raises InvalidInputError if there is
    none."""
    found = next((size for size in sizes if size >= rows), None)
    if found is None:
        raise InvalidInputError(f"--graph: expected up to {sizes[-1]} rows, got {rows}")
    return found


@cache
def _forward(model: Model, rows: int) -> Forward:
    from .nodes import H200

    found = nodes(model, rows)
    us, memory = sum(node.us for node in found), sum(node.memory for node in found)
    return Forward(rows, us, 1e6 * memory / H200.memory / us, memory, len(found))


def _read(path: Path) -> Any:
    try:
        return json.loads(check.read_bytes(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: expected JSON, got {error}") from None


def _text(file: dict[str, Any]) -> bytes:
    return f"{json.dumps(file, indent=1)}\n".encode()


def summary(name: str, pair: Pair, lanes: Lanes) -> str:
    """Return one line on a pair: us of a forward of each lane, ms of a round of GAMMA steps.

    The line has one time for a serial round and one for an overlapped round. Its last figure is the
    time in which memory delivers the bytes of an overlapped round. No schedule is faster.
    """
    from .nodes import H200

    model = cost_model(name, cost_file(lanes, pair.devices, about(pair)))
    target, step = forward_of(lanes.target, 16), forward_of(lanes.draft, 4)
    serial = model.target(16) + GAMMA * model.draft(1) + model.round_cost + model.turns_cost
    both = (model.target_overlapped(16), (GAMMA + 1) * model.draft_overlapped(4))
    overlapped = max(both) + model.round_cost + model.side_by_side_cost
    shared = target.memory + (GAMMA + 1) * step.memory if pair.devices == 1 else target.memory
    return (
        f"{name} | {target.us:.0f} | {step.us:.0f} | {target.nodes}, {step.nodes} | "
        f"{target.memory / 1e9:.2f}, {step.memory / 1e9:.2f} | {1e3 * serial:.2f} ms | "
        f"{1e3 * overlapped:.2f} | {1e3 * shared / H200.memory:.2f}"
    )


def _print_graph(name: str, lane: str, rows: int) -> None:
    target, draft = PAIRS[name].models
    found = nodes(target if lane == "T" else draft, rows)
    print("kernel | times | us | us of its bytes | us of its issue slots | programs | fit")
    for line in graph_lines(found):
        print(line)


def graph_lines(found: Sequence[Node]) -> Iterator[str]:
    """Yield a line for every distinct node, in order of first launch, then a line with the sum."""
    from .nodes import H200, SCHEDULERS

    rate = H200.multiprocessors * SCHEDULERS * H200.clock / 1e6
    for node in dict.fromkeys(found):
        yield (
            f"{node.kernel} | {found.count(node)} | {node.us:.1f} | "
            f"{1e6 * node.memory / H200.memory:.1f} | {node.slots / rate:.1f} | "
            f"{node.programs} | {node.fit}"
        )
    yield f"{len(found)} nodes | | {sum(node.us for node in found):.1f}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.gpu.costs", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"of {', '.join(PAIRS)} (default: all)")
    add("--write", type=Path, nargs="?", const=SHIPPED, metavar="DIR",
        help="write the cost files, into the package unless a folder is given")  # fmt: skip
    add("--graph", metavar="T16", help="the nodes of one forward: lane and rows")
    add("--lanes", type=Path, metavar="F.json", help="figures of bench.lanes")
    add("--out", type=Path, metavar="F.json", help="cost file of --lanes")
    args = parser.parse_args(argv)
    for name in args.names:
        check.one_of("NAME", name, PAIRS)
    if (args.graph or args.lanes) and len(args.names) != 1:
        raise InvalidInputError(f"NAME: expected one of {', '.join(PAIRS)}, got {len(args.names)}")
    args.names = args.names or list(PAIRS)
    if args.graph is not None:
        args.graph = _graph(args.graph)
    if (args.lanes is None) != (args.out is None):
        raise InvalidInputError("--lanes: expected it with --out, got one of them")
    return args


def _graph(text: str) -> tuple[str, int]:
    lane, rows = text[:1], text[1:]
    if lane not in ("T", "t") or not (rows.isascii() and rows.isdigit() and len(rows) < 5):
        raise InvalidInputError(
            f"--graph: expected T or t and rows, for example T16, got {check.show(text)}"
        )
    return lane, check.integer("--graph", int(rows), 1, 512)


if __name__ == "__main__":
    sys.exit(main())
