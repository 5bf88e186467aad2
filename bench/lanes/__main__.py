"""`python -m bench.lanes --device cuda`: times forwards of recorded lanes at real models' sizes.

    python -m bench.lanes --device cuda [--models 8b,1b] [--context 1024] [--positions 8192]
        [--rows 1,16,32,64] [--seconds 1] [--products fused|cublas] [--json OUT]

The models have the shape of a Llama and random weights in bfloat16. The first model is the target,
the second the draft. T(rows) is the time of a target's verification graph, or of a graph with one
row. Plain decoding replays a verification graph for each token. t(rows) is the time of a draft
step.

Each graph is measured alone, and while the other lane works on its own stream. The bytes of a
forward are the weights and the context's keys and values. They leave out the embedding, of which
only some rows are read. Then the bench measures prompt pieces that follow the context. It compares
the operations per second of a piece with those of products of large matrices.

--positions: capacity of the rings. An engine takes 131072 for a Llama 3.x by default. That is a
ring of 17 GB for each of the target's --rows.
--products: `fused` uses our `linear`, with five graph nodes per layer. `cublas` uses torch's
products, with nine graph nodes per layer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbrt.errors import InvalidInputError
from sbrt.tools import flags

from ..gpu.device import expect_cuda
from ..models.real import MODELS, POSITIONS, STORED, config_of, moved_bytes, prefill_flops

if TYPE_CHECKING:
    from .recorded import Bench

COLUMNS = (
    "lane | rows | us (spread) | GB/s | % of measured read bandwidth | us overlapped, draft first "
    "| target first | nodes | a layer"
)
FEEDS = "lane | rows of a prompt | us (spread) | tokens/s | TFLOP/s | % of measured products"
PRODUCTS = ("fused", "cublas")  # ways to compute the products of a layer; see sbrt/gpu/lane.py
MOST_POSITIONS = 131_072
VERIFIED = ("1", "16", "32", "64")  # numbers of rows of the target's graphs that can be measured


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return flags.guarded("bench.lanes", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    expect_cuda()
    from .recorded import Bench

    target, draft = (replace(config_of(name), max_positions=args.positions) for name in args.models)
    bench = Bench(target, draft, args.context, args.products, args.rows, args.dtype)
    report = measured(bench, args)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.lanes", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda",), default="cuda")
    parser.add_argument("--models", default="8b,1b", metavar="TARGET,DRAFT")
    parser.add_argument("--context", type=int, default=1024, help="tokens of the trunk")
    parser.add_argument("--positions", type=int, default=POSITIONS, help="capacity of the rings")
    parser.add_argument("--rows", default="1,16,32,64", metavar="A,B,...", help="verified at once")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per line (default: 1)")
    parser.add_argument("--dtype", choices=tuple(STORED), default="bfloat16", help="of matrices")
    parser.add_argument("--products", choices=PRODUCTS, default=PRODUCTS[0])
    parser.add_argument("--json", metavar="OUT", help="also into this file")
    args = parser.parse_args(argv)
    args.models = args.models.split(",")
    if len(args.models) != 2 or any(name not in MODELS for name in args.models):
        raise InvalidInputError(
            f"--models: expected two of {', '.join(MODELS)}, got {','.join(args.models)}"
        )
    if not 256 <= args.positions <= MOST_POSITIONS:
        raise InvalidInputError(
            f"--positions: expected a number from 256 to {MOST_POSITIONS}, got {args.positions}"
        )
    if not 1 <= args.context <= args.positions - 128:
        raise InvalidInputError(
            f"--context: expected a number from 1 to {args.positions - 128}, got {args.context}"
        )
    if not set(args.rows.split(",")) <= set(VERIFIED):
        raise InvalidInputError(f"--rows: expected some of {', '.join(VERIFIED)}, got {args.rows}")
    args.rows = [int(rows) for rows in args.rows.split(",")]
    if not 0 < args.seconds <= 600:
        raise InvalidInputError(f"--seconds: expected a number up to 600, got {args.seconds}")
    return args


def measured(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Measure every graph and every prompt piece, and print the tables. Returns their lines, and
    the device with its measured peak rates."""
    print(bench.describe(), file=sys.stderr)
    print(COLUMNS)
    lines = []
    for lane, rows in bench.graphs():
        line = bench.line(lane, rows, args.seconds)
        moved = moved_bytes(bench.config(lane), args.context, 2, args.dtype)
        line["gb_per_s"] = moved / line["us"] / 1e3
        line["share_of_roof"] = moved / line["us"] * 1e6 / bench.bandwidth
        lines.append(line)
        print(render(line))
    print(FEEDS)
    feeds = []
    for lane, rows in bench.feeds():
        line = bench.feed_line(lane, rows, args.seconds)
        rate = prefill_flops(bench.config(lane), args.context, rows) / line["us"] * 1e6
        line |= {"tflop_per_s": rate / 1e12, "share_of_products": rate / bench.products}
        feeds.append(line)
        print(render_feed(line))
    return bench.environment() | {
        "context": args.context,
        "products": args.products,
        "lines": lines,
        "prompts": feeds,
    }


def render(line: dict[str, Any]) -> str:
    """Return a graph's figures as one line of the table."""
    least, most = line["spread"]
    return (
        f"{line['lane']} | {line['rows']} | {line['us']:.1f} ({least:.1f}-{most:.1f}) | "
        f"{line['gb_per_s']:.0f} | {100 * line['share_of_roof']:.0f} | "
        f"{line['us_overlapped']:.1f} | {line['us_overlapped_target_first']:.1f} | "
        f"{line['nodes']} | {line['nodes_per_layer']:.1f}"
    )


def render_feed(line: dict[str, Any]) -> str:
    """Return one line of the table of prompt pieces, whose columns are FEEDS."""
    least, most = line["spread"]
    return (
        f"{line['lane']} | {line['rows']} | {line['us']:.1f} ({least:.1f}-{most:.1f}) | "
        f"{line['tokens_per_s']:.0f} | {line['tflop_per_s']:.1f} | "
        f"{100 * line['share_of_products']:.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
