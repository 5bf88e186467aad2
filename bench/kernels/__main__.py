"""`python -m bench.kernels`: times every op inside a forward, and the roofs of the machine.

    python -m bench.kernels --checkpoints m37 --dtypes bfloat16,int8,int4 --rows 1,8 --threads 2
    python -m bench.kernels --checkpoints smollm2 --dtypes auto --rows 1,8,16
    python -m bench.kernels --choose --vocab 128256 --rows 1,8     (bench/kernels/choosing.py)

A roof is a limit in the sense of the roofline model. The same run and the same team of threads
measure five rates of the machine:

- memory: reading 256 MB from memory;
- weights: reading as many bytes as the checkpoint's weights, repeatedly;
- cache: reading data that lie in a core's cache;
- fma in registers;
- integer dot products in registers.

The roof of an op is the longer of two times. One is the time to read its bytes: weights at the rate
of `weights`, other data at the rate of `cache`. The other is the time of its operations, at the
rate of fma or of integer products. All measurements are interleaved. Times are medians over all
forwards and include the team's synchronisation after the op. `best` is the tenth percentile of the
same times. The weights of m37 and m2 are random, drawn from a seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.kernels import choosing
from bench.models.checkpoints import NAMES, given
from bench.models.sizes import SIZES, decoder_of
from sbrt import InvalidInputError
from sbrt._core import Decoder
from sbrt._probe import KernelBench, Roofs
from sbrt.check import is_file, is_folder, show
from sbrt.cores import usable_cores
from sbrt.model import names
from sbrt.model.checkpoint import activations_of, open_checkpoint
from sbrt.tools import flags
from sbrt.tools.progress import Progress
from sbrt.tools.table import aligned

# bytes that are read to measure the rates; CACHE is the size for one thread
MEMORY, CACHE = 256 << 20, 512 << 10
DTYPES = ("float32", "bfloat16", "int8", "int4")
BURST = 0.05  # seconds of forwards between two measurements of the machine's rates
COLUMNS = ("op", "shape", "calls", "us", "best us", "GB/s", "GFLOP/s", "roof")


@dataclass
class Machine:
    """The highest rates that the team of threads has reached so far.

    memory, again, cache: bytes/s of reads from memory, of repeated reads of the weights, and of
    reads from a core's cache. fma, integers: floating-point and integer operations/s.
    """

    roofs: Roofs
    threads: int
    weights: int  # bytes of a checkpoint's weights
    memory: float = 0.0
    again: float = 0.0
    cache: float = 0.0
    fma: float = 0.0
    integers: float = 0.0

    def look(self) -> None:
        """Measure every rate once more, and keep the highest value of each."""
        self.memory = max(self.memory, self.roofs.read(MEMORY, 2))
        self.again = max(self.again, self.roofs.read(self.weights, 8))
        self.cache = max(self.cache, self.roofs.read(CACHE * self.threads, 50))
        self.fma = max(self.fma, self.roofs.peak(1 << 16, 10))
        self.integers = max(self.integers, self.roofs.integers(1 << 14, 10))

    def seconds(self, op: Op) -> float:
        """Return the seconds that an op takes at its roof."""
        read = op.weights / self.again + (op.bytes - op.weights) / self.cache
        return max(read, op.flops / (self.integers if op.is_integer else self.fma))

    def json(self) -> dict[str, float]:
        """Return the rates in GB/s, GFLOP/s and giga integer operations/s."""
        read = {"memory": self.memory, "weights": self.again, "cache": self.cache}
        return {f"{name}_gb_per_second": value / 1e9 for name, value in read.items()} | {
            "fma_gflop_per_second": self.fma / 1e9,
            "integer_gop_per_second": self.integers / 1e9,
        }


@dataclass
class Op:
    """One op, in all layers that have it.

    bytes, weights, flops: all bytes, bytes of weights, and operations of the op in one layer.
    calls: number of layers that have the op. ns: one entry per forward, the nanoseconds of the op
    in all layers together.
    """

    name: str
    shape: str
    bytes: float
    weights: float
    flops: float
    is_integer: bool = False
    calls: int = 0
    ns: list[float] = field(default_factory=list)

    @property
    def us(self) -> float:
        """Return the microseconds of one call: the median over forwards."""
        return statistics.median(self.ns) / 1e3 / self.calls

    @property
    def best_us(self) -> float:
        """Return the microseconds of one call: the tenth percentile over forwards."""
        return sorted(self.ns)[len(self.ns) // 10] / 1e3 / self.calls

    def line(self, roof: float) -> dict[str, Any]:
        """Return the op as JSON. roof: seconds of one call at its roof."""
        return {
            "op": self.name,
            "shape": self.shape,
            "calls": self.calls,
            "us": self.us,
            "best_us": self.best_us,
            "gb_per_second": self.bytes / self.us / 1e3,
            "gflop_per_second": self.flops / self.us / 1e3,
            "is_integer": self.is_integer,
            "share_of_roof": roof * 1e6 / self.us,
        }


@dataclass
class Case:
    """The forward of a checkpoint with a given number of rows.

    head: number of tokens of the trunk before the rows. ops: keyed by name and shape. whole: the
    sum of all ops, as one op.
    """

    checkpoint: str
    dtype: str
    activation_dtype: str
    decoder: Decoder
    bench: KernelBench
    machine: Machine
    rows: int
    head: int
    temperature: float
    ops: dict[tuple[str, str], Op] = field(default_factory=dict)
    whole: Op | None = None

    def measure(self) -> None:
        """Run forwards for about BURST seconds, and record the times of their ops."""
        run = (self.head, self.rows, self.machine.threads)
        once = self.bench.run(*run, 1, self.temperature)
        seconds = sum(op["ns"][0] for op in once) / 1e9
        times = max(2, min(500, int(BURST / seconds)))
        parts = self.bench.run(*run, times, self.temperature)
        # The bench times the choice of tokens and the draft's distributions. A target's forward
        # computes no distributions, so the whole forward leaves out their time.
        self._add([part for part in parts if "dist" not in part["op"]])
        self._gather(parts)

    def lines(self) -> list[dict[str, Any]]:
        """Return a JSON line for every op, then one for the whole forward."""
        roofs = {key: self.machine.seconds(op) for key, op in self.ops.items()}
        of_forward = [key for key in self.ops if "dist" not in key[0]]
        assert self.whole is not None
        lines = [op.line(roofs[key]) for key, op in self.ops.items()]
        lines.append(self.whole.line(sum(roofs[key] * self.ops[key].calls for key in of_forward)))
        about = {
            "checkpoint": self.checkpoint,
            "dtype": self.dtype,
            "activation_dtype": self.activation_dtype,
            "isa": self.decoder.isa,
            "threads": self.machine.threads,
            "rows": self.rows,
            "context": self.head,
        }
        return [about | line | self.machine.json() for line in lines]

    def _add(self, parts: Sequence[dict[str, Any]]) -> None:
        whole = self.whole or Op("forward", "", *_sums(parts), calls=1)
        whole.ns += [sum(each) for each in zip(*(part["ns"] for part in parts), strict=True)]
        self.whole = whole

    def _gather(self, parts: Iterable[dict[str, Any]]) -> None:
        by_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for part in parts:
            by_key.setdefault((part["op"], part["shape"]), []).append(part)
        for key, same in by_key.items():
            first = same[0]
            given = (first["bytes"], first["weights"], first["flops"], first["integer"])
            op = self.ops.setdefault(key, Op(*key, *given, calls=len(same)))
            op.ns += [sum(each) for each in zip(*(part["ns"] for part in same), strict=True)]


def _sums(parts: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    return tuple(sum(part[name] for part in parts) for name in ("bytes", "weights", "flops"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 after a defect, 2 for bad input."""
    return flags.guarded("bench.kernels", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    parser = flags.Parser(prog="python -m bench.kernels", add_help=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device, rest = parser.parse_known_args(given)
    if device.device == "cuda":
        return _on_gpu(rest)
    args = _parser().parse_args(given)
    if args.choose:
        lines = choosing.measured(args, _rows_of(args))
        _put(lines, choosing.table(lines), args.json)
        return 0
    cases = _cases(args)
    bar = Progress("measuring")
    try:
        for done in range(args.repeats):
            bar.update(done, args.repeats)
            for case in cases:
                case.machine.look()
                case.measure()
    finally:
        bar.close()
    _write(cases, args.json)
    return 0


def _on_gpu(rest: list[str]) -> int:
    try:
        from bench.kernels import on_device
    except ImportError as error:
        raise InvalidInputError(f"--device: expected cpu, got cuda ({error})") from None
    return on_device.main(rest)


def _add_form_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the form of a forward: activations, rows, threads."""
    add = parser.add_argument
    add(
        "--activation-dtype",
        choices=("float32", "int8"),
        default="auto",
        help="default: int8 next to int8 and int4 weights",
    )
    add("--rows", default="1,8,16", metavar="N,N", help="rows of a forward (default: %(default)s)")
    add(
        "--threads",
        type=int,
        default=usable_cores(),
        metavar="N",
        help="default: the cores this process may use",
    )


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--checkpoints",
        default=",".join(SIZES),
        metavar="A,B",
        help=f"of {', '.join(NAMES)}, smollm2, a folder or a GGUF file (default: %(default)s)",
    )
    add(
        "--dtypes",
        default="bfloat16",
        metavar="A,B",
        help=f"of {', '.join(DTYPES)}; auto: a file's own (default: %(default)s)",
    )
    _add_form_flags(parser)
    add("--context", type=int, default=200, metavar="N", help="trunk (default: %(default)s)")
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add("--isa", default="auto", help="instruction set (default: the best of this machine)")
    add("--repeats", type=int, default=7, metavar="N", help="bursts (default: %(default)s)")
    add("--choose", action="store_true", help="the sampling pass alone, by filters")
    add(
        "--vocab",
        default=choosing.VOCABS,
        metavar="N,N",
        help="for --choose (default: %(default)s)",
    )
    flags.add_json_flag(parser)
    return parser


def _rows_of(args: argparse.Namespace) -> list[int]:
    if args.repeats < 1:
        raise InvalidInputError(f"--repeats: expected at least 1, got {args.repeats}")
    return [_row_count(text) for text in args.rows.split(",")]


def _cases(args: argparse.Namespace) -> list[Case]:
    rows = _rows_of(args)
    cases = []
    for name in args.checkpoints.split(","):
        for dtype in args.dtypes.split(","):
            decoder, activations = _decoder(name, dtype, args)
            bench = KernelBench(decoder, args.context + max(rows), max(rows), args.threads)
            parts = bench.run(0, 1, args.threads, 1)
            weights = int(sum(part["weights"] for part in parts))
            machine = Machine(Roofs(args.threads, args.isa), args.threads, weights)
            cases += [
                Case(
                    *(name, dtype, activations, decoder, bench, machine, n),
                    head=args.context,
                    temperature=args.temperature,
                )
                for n in rows
            ]
    return cases


def _decoder(name: str, dtype: str, args: argparse.Namespace) -> tuple[Decoder, str]:
    """Load a checkpoint; returns its decoder and the dtype of its activations.

    Raises InvalidInputError if there is no such checkpoint.
    """
    if name in SIZES:
        activations = activations_of(dtype, args.activation_dtype)
        return decoder_of(name, dtype, args.isa, activations), activations
    if args.isa != "auto":
        raise InvalidInputError(f"--isa: expected auto for {name}, got {args.isa}")
    path = given(name).target if name in NAMES else Path(names.target_folder(name))
    if not is_file(path) and not is_folder(path):
        known = ", ".join((*NAMES, names.SMOLLM2))
        raise InvalidInputError(
            f"checkpoint: expected one of {known}, or a folder or a file of a model, "
            f"got {show(name)}"
        )
    checkpoint = open_checkpoint(path)
    decoder = checkpoint.decoder(dtype, None, args.activation_dtype)
    return decoder, checkpoint.activations(dtype, args.activation_dtype)


def _row_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise InvalidInputError(f"--rows: expected numbers from 1 to 64, got {text!r}")
    return int(text)


def _write(cases: Sequence[Case], to: str | None) -> None:
    lines = [line for case in cases for line in case.lines()]
    _put(lines, "".join(f"{_table(case)}\n\n" for case in cases), to)


def _put(lines: list[dict[str, Any]], tables: str, to: str | None) -> None:
    """Print the tables, and write JSON to the file `to`. If `to` is "-", print only JSON."""
    if to == "-":
        print(json.dumps(lines, indent=1))
        return
    if to is not None:
        Path(to).write_text(json.dumps(lines, indent=1))
    print(tables)


def _table(case: Case) -> str:
    machine = case.machine.json()
    title = (
        f"{case.checkpoint} {case.dtype}, {case.activation_dtype} activations, "
        f"{case.decoder.isa}, {case.machine.threads} threads, "
        f"{case.rows} rows after {case.head} tokens; roofs: "
        + ", ".join(f"{name.split('_')[0]} {value:.0f}" for name, value in machine.items())
    )
    rows = [COLUMNS]
    for line in case.lines():
        rows.append(
            (
                line["op"],
                line["shape"],
                str(line["calls"]),
                f"{line['us']:.1f}",
                f"{line['best_us']:.1f}",
                f"{line['gb_per_second']:.1f}",
                f"{line['gflop_per_second']:.1f}",
                f"{line['share_of_roof']:.0%}",
            )
        )
    return "\n".join([title, *aligned(rows)])


if __name__ == "__main__":
    sys.exit(main())
