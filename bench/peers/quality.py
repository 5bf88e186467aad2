"""`python -m bench.peers.quality`: how far quantised arithmetic moves next-token distributions.

    python -m bench.peers.quality --target FILE.gguf --text F --positions 20000 --json OUT

The reference is our engine with float32 arithmetic on exactly the weights of the file. Two engines
are compared with the reference: ours with int8 activations, and llama.cpp on the same file (`make
peers`). The text is read in windows of 512 tokens. At each position the bench computes KL(reference
|| other) in nats. It also checks whether both engines have the same most probable token. The text
is any UTF-8 file. From a file of JSON lines the bench takes each prompt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.lines import GGUF, PeerError
from bench.peers.process import Worker
from bench.peers.settings import LLAMA, WORKERS
from sbrt import InvalidInputError, check
from sbrt._core import Model
from sbrt._probe import LaneProbe
from sbrt.config import EngineConfig
from sbrt.cores import usable_cores
from sbrt.model import names
from sbrt.model.gguf import is_gguf
from sbrt.model.hub import located
from sbrt.serve.pair import Pair, load_pair
from sbrt.tools import compare, flags
from sbrt.tools.progress import Progress
from sbrt.tools.prompts import read_prompts
from sbrt.tools.table import aligned

WINDOW = 512  # number of tokens of a window; no token attends to another window
ROWS = 64  # number of rows in one of our forwards
POSITIONS = 20_000
COLUMNS = ("engine", "activations", "positions", "mean KL", "+-", "99 %", "same top 1", "s")

Logits = NDArray[np.float32]
Read = Callable[[list[int]], Logits]  # ids -> [ids, vocab]


@dataclass
class Distance:
    """How far an engine's next-token distributions are from those of the reference."""

    engine: str
    activations: str
    read: Read
    kl: list[NDArray[np.float64]] = field(default_factory=list)  # KL of each position, in nats
    # For each position: True if both engines have the same most probable token.
    same: list[NDArray[np.bool_]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, reference: Logits, ids: list[int]) -> None:
        """Run the engine on the ids of one window. Compares its logits with `reference`, the
        reference's logits, [ids, vocab]."""
        begin = time.perf_counter()
        found = self.read(ids)
        self.seconds += time.perf_counter() - begin
        self.kl.append(divergences(reference, found[:, : reference.shape[1]]))
        self.same.append(reference.argmax(1) == found.argmax(1))

    def json(self, model: str) -> dict[str, Any]:
        """Return the figures as JSON.

        mean_kl: mean KL in nats. kl_error: standard error of mean_kl. kl_99: 99th percentile of the
        KL. top1_agreement: share of the positions with the same most probable token.
        """
        kl, same = np.concatenate(self.kl), np.concatenate(self.same)
        return {
            "model": model,
            "engine": self.engine,
            "activations": self.activations,
            "positions": len(kl),
            "mean_kl": float(kl.mean()),
            "kl_error": error_of(self.kl),
            "kl_99": float(np.quantile(kl, 0.99)),
            "top1_agreement": float(same.mean()),
            "seconds": self.seconds,
        }


def error_of(windows: Sequence[NDArray[np.float64]]) -> float:
    """Return the standard error of the mean over all positions, from the means of the windows.

    Positions in a window share keys and values, so their errors are not independent. Returns 0.0
    for one window.
    """
    means = [window.mean() for window in windows]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0


def compared(ours: Distance, theirs: Distance) -> str:
    """Return a sentence that compares our distances with those of another engine.

    It gives the mean difference over all positions, and the standard error of this mean.
    """
    kl = [a - b for a, b in zip(ours.kl, theirs.kl, strict=True)]
    same = [a * 1.0 - b for a, b in zip(ours.same, theirs.same, strict=True)]
    return (
        f"ours - {theirs.engine}: mean KL {np.concatenate(kl).mean():+.2e} +- {error_of(kl):.1e}, "
        f"same top 1 {np.concatenate(same).mean():+.3%} +- {error_of(same):.3%}"
    )


def divergences(reference: Logits, other: Logits) -> NDArray[np.float64]:
    """Return KL(reference || other) in nats for each row. reference, other: logits, [rows,
    vocab]."""
    found = np.empty(len(reference))
    for i, (a, b) in enumerate(zip(reference, other, strict=True)):
        p, q = log_softmax(a), log_softmax(b)
        found[i] = np.dot(np.exp(p), p - q)
    return found


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithm of the softmax of a row, in float64."""
    x = row.astype(np.float64) - row.max()
    x -= np.log(np.exp(x).sum())
    return x


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 if llama.cpp could not be run, 2 for bad input."""
    return flags.guarded("bench.peers.quality", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    check.integer("--positions", args.positions, 1, 10**9)
    compare.check_outputs(args)
    target = located(names.target_folder(args.target))
    reference = _load(args, target, "float32")
    windows = windows_of(args.text, reference, args.positions)
    others = [Distance("sbrt", "int8", reader(_load(args, target, "int8").target, args.threads))]
    worker, refused = _llama(target, args)
    try:
        if worker is not None:
            others.append(Distance("llama.cpp", "its own", _from_worker(worker)))
        _compare(reader(reference.target, args.threads), others, windows)
    finally:
        if worker is not None:
            worker.close()
    found = [other.json(target.stem) for other in others]
    compare.write_json(args.json, found)
    if args.json != "-":
        print(render(found))
        for other in others[1:]:
            print(compared(others[0], other))
    if refused is not None:
        print(f"llama.cpp: {refused}", file=sys.stderr)
    return 0 if refused is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m bench.peers.quality", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--target", required=True, metavar="MODEL|smollm2", help="a quantised file or a folder")
    add("--dtype", choices=("auto", "int8", "int4"), default="auto", help="for a folder")
    add("--text", required=True, type=Path, metavar="F", help="UTF-8 text, or JSON lines")
    add("--positions", type=int, default=POSITIONS, metavar="N", help="default: %(default)s")
    add("--threads", type=int, default=usable_cores(), metavar="N")
    flags.add_json_flag(parser)
    parser.set_defaults(trace=None)
    return parser


def _load(args: argparse.Namespace, target: Path, activations: str) -> Pair:
    config = EngineConfig(model=target, dtype=args.dtype, activation_dtype=activations)
    return load_pair(config)


def windows_of(path: Path, pair: Pair, positions: int) -> list[list[int]]:
    """Return the first `positions` ids of the text, cut into windows.

    Raises InvalidInputError if the text has fewer ids.
    """
    if path.suffix == ".jsonl":
        text = "\n\n".join(read_prompts(path))
    else:
        text = flags.read_text(str(path), path.read_bytes())
    assert pair.tokenizer is not None
    ids = pair.tokenizer.encode(text, len(text.encode()))[:positions]
    if len(ids) < positions:
        raise InvalidInputError(f"{path}: expected {positions} tokens, got {len(ids)}")
    window = window_of(pair.target)
    return [ids[at : at + window] for at in range(0, len(ids), window)]


def window_of(model: Model) -> int:
    """Return the number of tokens of a window: WINDOW, or less if the model's context is
    shorter."""
    return min(WINDOW, model.max_positions)


def reader(model: Model, threads: int) -> Read:
    """Return a function that takes ids and returns their logits by our engine, [ids, vocab].

    The function runs forwards of ROWS rows. Each forward continues the tokens that are already in
    the ring.
    """
    lane = LaneProbe(model, window_of(model), ROWS, 0, 0, threads)

    def forward(head: int, ids: list[int]) -> Logits:
        rows = [(t, head + j, lane.slot(head + j), -1, (2 << j) - 1, 0) for j, t in enumerate(ids)]
        found = lane.forward(head, rows, threads)
        assert found is not None
        return found

    def read(ids: list[int]) -> Logits:
        return np.concatenate([forward(at, ids[at : at + ROWS]) for at in range(0, len(ids), ROWS)])

    return read


def _llama(target: Path, args: argparse.Namespace) -> tuple[Worker | None, str | None]:
    """Return llama.cpp's worker and None, or None and the reason why there is no worker."""
    if not is_gguf(target):
        return None, f"expected a GGUF file, got {target}"
    worker = None
    try:
        worker = Worker(LLAMA.python(), WORKERS / LLAMA.worker)
        worker.ask("open", folder=str(target), draft=None, dtype=GGUF, mode="plain",
                   threads=args.threads, build="")  # fmt: skip
    except PeerError as error:
        if worker is not None:
            worker.close()
        return None, str(error)
    return worker, None


def _from_worker(worker: Worker) -> Read:
    def read(ids: list[int]) -> Logits:
        with tempfile.NamedTemporaryFile() as file:
            shape = worker.ask("logits", ids=ids, path=file.name)
            found = np.fromfile(file.name, np.float32)
        return found.reshape(shape["rows"], shape["vocab"])

    return read


def _compare(reference: Read, others: Sequence[Distance], windows: list[list[int]]) -> None:
    bar = Progress("comparing")
    for done, ids in enumerate(windows):
        bar.update(done, len(windows))
        expected = reference(ids)
        for other in others:
            other.add(expected, ids)
    bar.close()


def render(found: Sequence[dict[str, Any]]) -> str:
    """Return the distances as a text table."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for line in found:
        figures = (f"{line[key]:.3e}" for key in ("mean_kl", "kl_error", "kl_99"))
        rows.append(
            (
                *(line["engine"], line["activations"], str(line["positions"]), *figures),
                *(f"{line['top1_agreement']:.3%}", f"{line['seconds']:.0f}"),
            )
        )
    return "\n".join([found[0]["model"], *aligned(rows)])


if __name__ == "__main__":
    sys.exit(main())
