"""`python -m bench.kernels --choose`: times the sampling pass alone.

The bench varies the vocabulary, the rows and the filters. There are two kinds of logits, drawn from
a seed. "wide" is normal with standard deviation 3, so top_p keeps thousands of tokens. "sharp" is
the same with twenty tokens far above the rest, as in a language model. The roof is the time to read
the logits once. The bench measures the read rate by reading as many bytes repeatedly.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrt import InvalidInputError
from sbrt._core import Sampling
from sbrt._probe import ChooseBench, Roofs
from sbrt.tools.progress import Progress
from sbrt.tools.table import aligned

VOCABS = "4096,32000,128256"
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "top_k=50": {"top_k": 50},
    "top_p=0.9": {"top_p": 0.9},
    "min_p=0.05": {"min_p": 0.05},
    "top_k=50,top_p=0.95": {"top_k": 50, "top_p": 0.95},
}
BURST = 0.02  # seconds of sampling passes between two measurements of the read rate
COLUMNS = ("vocabulary", "rows", "logits", "sampling", "us", "best us", "GB/s", "roof")


@dataclass
class Choosing:
    """One setting of the sampling pass. Other settings use the same rows of logits.

    shape: (rows, vocab). ns: nanoseconds of each call, including the synchronisation of the
    threads.
    """

    bench: ChooseBench
    shape: tuple[int, int]
    kind: str
    sampling: str
    threads: int
    ns: list[int] = field(default_factory=list)

    def measure(self) -> None:
        """Run the sampling pass repeatedly for about BURST seconds, and record its times."""
        sampling = Sampling(**{"temperature": 0.8, "seed": 7, **SAMPLINGS[self.sampling]})
        once = self.bench.run(sampling, self.threads, 1)[0]
        times = max(2, min(500, int(BURST * 1e9 / once[0])))
        self.ns += self.bench.run(sampling, self.threads, times)[0]

    def line(self, read: float) -> dict[str, Any]:
        """Return the figures as JSON. read: the measured read rate in bytes per second."""
        rows, vocab = self.shape
        us, size = statistics.median(self.ns) / 1e3, 4 * rows * vocab
        return {
            "op": "choose",
            "vocab": vocab,
            "rows": rows,
            "logits": self.kind,
            "sampling": self.sampling,
            "threads": self.threads,
            "us": us,
            "best_us": sorted(self.ns)[len(self.ns) // 10] / 1e3,
            "gb_per_second": size / us / 1e3,
            "share_of_roof": size / read * 1e6 / us,
            "read_gb_per_second": read / 1e9,
        }


def logits_of(kind: str, rows: int, vocab: int) -> NDArray[np.float32]:
    """Return random logits [rows, vocab] of the kind "wide" or "sharp"."""
    rng = np.random.default_rng(vocab)
    x = rng.normal(scale=3, size=(rows, vocab)).astype(np.float32)
    if kind == "sharp":
        x[:, rng.integers(vocab, size=20)] += np.linspace(18, 8, 20, dtype=np.float32)
    return x


def measured(args: argparse.Namespace, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Measure every setting at every shape, in turn. Returns a JSON line for each. Raises
    InvalidInputError for a bad --vocab."""
    cases = list(_cases(args, rows))
    roofs, read = Roofs(args.threads, args.isa), dict.fromkeys((c.shape for c in cases), 0.0)
    bar = Progress("measuring")
    try:
        for done in range(args.repeats):
            bar.update(done, args.repeats)
            for shape, best in read.items():
                read[shape] = max(best, roofs.read(4 * shape[0] * shape[1], 8))
            for case in cases:
                case.measure()
    finally:
        bar.close()
    return [case.line(read[case.shape]) for case in cases]


def _cases(args: argparse.Namespace, rows: Sequence[int]) -> Iterator[Choosing]:
    for text in args.vocab.split(","):
        if not text.isdecimal() or not 32 <= int(text) <= 1 << 20:
            raise InvalidInputError(f"--vocab: expected numbers from 32 to 2^20, got {text!r}")
        for n in rows:
            for kind in ("wide", "sharp"):
                bench = ChooseBench(logits_of(kind, n, int(text)), args.threads)
                for sampling in SAMPLINGS:
                    yield Choosing(bench, (n, int(text)), kind, sampling, args.threads)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the lines as a text table."""
    rows = [COLUMNS]
    for line in lines:
        names = (str(line[name]) for name in ("vocab", "rows", "logits", "sampling"))
        times = (f"{line[name]:.1f}" for name in ("us", "best_us", "gb_per_second"))
        rows.append((*names, *times, f"{line['share_of_roof']:.0%}"))  # type: ignore[arg-type]
    return "\n".join(aligned(rows))
