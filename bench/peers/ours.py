"""Runs sbrt for our lines of the table, which are compared with the lines of the peers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench.models.checkpoints import Given
from bench.models.traffic import Load, Work, play
from bench.peers.lines import GGUF, OURS, Answer, Batch, Line, PeerError, Unit
from bench.peers.memory import GIB, needed
from sbrt import Engine, SamplingParams, SpeculativeConfig, __version__, methods
from sbrt._probe import KernelBench
from sbrt.config import EngineConfig
from sbrt.model.gguf import is_gguf

# Format of the weights, or format of the weights/format of the activations. With quantised weights,
# activations are int8 by default.
DTYPES = ("float32", "bfloat16", "int8", "int8/float32", "int4", "int4/float32")
FILE_DTYPES = (GGUF, f"{GGUF}/float32")
# Copies of the weights at the peak of loading, and bytes of everything else.
COPIES, PROCESS = 1.5, 0.3 * GIB


@dataclass
class Ours:
    """The source of one of our lines. It runs one method on an engine that all lines of a dtype
    share."""

    engine: Engine
    method: str
    bench: KernelBench | None = None

    def generate(self, ids: list[int], max_tokens: int) -> Answer:
        """Decode greedily to max_tokens, past any stop token. The measured seconds begin after the
        prefill of both lanes."""
        output = self.engine.generate(ids, _greedy(max_tokens), method=self.method)[0]
        tokens = output.outputs[0].token_ids
        seconds = output.metrics.decode_seconds if output.metrics else 0.0
        return Answer(tokens, seconds, timed=len(tokens))

    def generate_batch(self, prompts: list[list[int]], max_tokens: int) -> Batch:
        """Decode all prompts greedily, as concurrent requests.

        Raises PeerError if at no moment all requests were decoding.
        """
        work = Work(prompts, _greedy(max_tokens))
        played = play(self.engine, methods.parse(self.method), Load(rate=math.inf), work)
        timed, seconds = played.shared()
        if not timed:
            raise PeerError(
                f"--max-tokens: expected enough for {len(prompts)} requests to decode at the same "
                f"time, got {max_tokens}"
            )
        return Batch([answer.ids for answer in played.answers], seconds, timed, played.seconds)

    def gap(self, ids: list[int], token: int) -> float:
        """Never called: our answers must be exact, so no difference needs a gap."""
        raise NotImplementedError

    def forward(self, rows: int, context: int, times: int) -> list[float] | str:
        """Time `times` forwards. Returns the microseconds of each forward: the sum over its ops,
        the greedy token choice included."""
        if self.method != "none":
            return "a forward is that of none"
        width = self.engine.num_threads
        if self.bench is None:
            self.bench = KernelBench(self.engine.pair.target, context + 64, 64, width)
        ops = [op["ns"] for op in self.bench.run(context, rows, width, times) if is_part(op["op"])]
        return [sum(each) / 1e3 for each in zip(*ops, strict=True)]

    def close(self) -> None:
        """Close the engine. A second call does nothing."""
        self.bench = None
        self.engine.close()


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


def is_part(op: str) -> bool:
    """Return True if the op is part of a target's forward.

    KernelBench times both the choice of tokens and the distributions. A target's forward has only
    the choice of tokens.
    """
    return "dist" not in op


def dtypes(given: Given) -> tuple[str, ...]:
    """Return the dtypes that our lines may have on a checkpoint."""
    return FILE_DTYPES if is_gguf(given.target) else DTYPES


def units(
    given: Given, dtypes: Sequence[str], names: Sequence[str], threads: int, seats: int
) -> Iterator[Unit]:
    """Yield one unit per dtype. Its lines are `none` and the methods in `names`.

    Without a draft, the methods that need a draft are left out.
    """
    usable = (m for m in names if given.draft or not methods.parse(m).needs_draft)
    modes = list(dict.fromkeys(["none", *usable]))
    for dtype in dtypes:
        storage, _, activations = dtype.partition("/")
        config = EngineConfig(
            model=given.target,
            dtype="auto" if storage == GGUF else storage,
            activation_dtype=activations or "auto",
            num_threads=threads,
            max_num_seqs=seats,
            enable_prefix_caching=False,  # every line must compute each prompt again
            # The engine's own method is one of the lines' methods. An engine's default, `auto`,
            # would first measure for seconds.
            speculative=SpeculativeConfig(modes[-1], given.draft) if given.draft else None,
        )
        found = [
            Line(OURS, given.name, dtype, mode, version=__version__, in_batches=True)
            for mode in modes
        ]
        size = needed(given, dtype, given.draft is not None, COPIES, PROCESS)
        yield Unit(found, size, partial(_open, found, config, modes))


def _open(lines: Sequence[Line], config: EngineConfig, names: Sequence[str]) -> None:
    engine = Engine(config, methods=names)
    for line in lines:
        line.source = Ours(engine, line.mode)
