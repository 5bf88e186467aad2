"""sbrt as a line beside its peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench.checkpoints import Given
from bench.peers.lines import OURS, Answer, Line, Unit
from bench.peers.memory import GIB, needed
from sbrt import Engine, SamplingParams, SpeculativeConfig, __version__
from sbrt._core import KernelBench
from sbrt.config import EngineConfig

DTYPES = ("float32", "bfloat16", "int8")
COPIES, PROCESS = 1.5, 0.3 * GIB  # of the weights, while they are read; of all else


@dataclass
class Ours:
    """An engine, which lines of one dtype share, and a method."""

    engine: Engine
    method: str
    bench: KernelBench | None = None

    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Greedy, max_tokens whatever ends it; the seconds begin after both prefills."""
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        output = self.engine.generate(ids, params, method=self.method)[0]
        tokens = output.outputs[0].token_ids
        seconds = output.metrics.decode_seconds if output.metrics else 0.0
        return Answer(tokens, seconds, timed=len(tokens))

    def gap(self, ids: list[int], token: int) -> float:
        """Never asked: ours are exact."""
        raise NotImplementedError

    def forward(self, rows: int, context: int, times: int) -> list[float] | str:
        """The sum of a forward's ops where they stand, greedy choice included."""
        if self.method != "none":
            return "a forward is that of none"
        width = self.engine.num_threads
        if self.bench is None:
            self.bench = KernelBench(self.engine.pair.target, context + 64, 64, width)
        ops = [op["ns"] for op in self.bench.run(context, rows, width, times) if is_part(op["op"])]
        return [sum(each) / 1e3 for each in zip(*ops, strict=True)]

    def close(self) -> None:
        """Close the engine; it may be closed twice."""
        self.bench = None
        self.engine.close()


def is_part(op: str) -> bool:
    """A forward chooses tokens or laws: both are timed, the laws are not part of it."""
    return "law" not in op


def units(
    given: Given, dtypes: Sequence[str], methods: Sequence[str], threads: int
) -> Iterator[Unit]:
    """One for each dtype: `none` and, with a draft, every method."""
    drafting = list(dict.fromkeys(methods)) if given.draft else []
    for dtype in dtypes:
        config = EngineConfig(
            model=given.target,
            dtype=dtype,
            num_threads=threads,
            speculative=SpeculativeConfig(model=given.draft) if given.draft else None,
        )
        names = ["none", *(m for m in drafting if m != "none")]
        found = [Line(OURS, given.name, dtype, name, version=__version__) for name in names]
        size = needed(given, dtype, given.draft is not None, COPIES, PROCESS)
        yield Unit(found, size, partial(_open, found, config, names))


def _open(lines: Sequence[Line], config: EngineConfig, names: Sequence[str]) -> None:
    engine = Engine(config, methods=names)
    for line in lines:
        line.source = Ours(engine, line.mode)
