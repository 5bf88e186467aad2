"""Measures methods in simulated time. The models compute real tokens, and a cost model gives the
times.

Simulated figures do not depend on the machine, so every setting runs once, without warm-up. A
method without a given gamma is tried at every gamma, and the fastest setting is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..methods import AUTO, MAX_GAMMA, Method, Option
from ..model import hrad
from ..outputs import RequestOutput
from ..sampling import SamplingParams
from .closed_loop import ClosedLoop, count
from .costs import CostModel
from .measure import Bench, Progress, Report, Tally, fitting, run_one, silent

# For each method, the values of other options that are tried once the best gamma is known. One
# option is tried after the other.
SWEPT: dict[str, dict[str, tuple[Option, ...]]] = {
    "adaedl": {"theta": (0.0, 0.2, 0.4, 0.6)},
    "specbranch": {"epsilon": (0.0, 0.1, 0.3, 0.5)},
    "hedge": {"F": (16, 32, 64), "on_miss": ("continue", "serial", "lookup")},
}


@dataclass(frozen=True)
class Sweep:
    """Chooses which settings of a method are tried.

    c: time of a target forward divided by the time of a draft forward. fixed: options that flags
    have set for all methods. A method whose gamma is set is not swept at all. deepest: the largest
    gamma to try.
    """

    c: int
    fixed: frozenset[str] = frozenset()
    deepest: int = MAX_GAMMA

    def is_open(self, method: Method) -> bool:
        """True if more than one setting of the method is tried."""
        given = "gamma" in self.fixed | method.named or method.name == AUTO
        return "gamma" in method.options and not given

    def gammas(self, method: Method) -> list[Method]:
        """Return the method at each gamma to try.

        The largest gamma is c - 1 if lanes overlap, and 2 c for serial methods. A method with a
        classifier has one gamma, and a method that is not swept keeps its own.
        """
        if not self.is_open(method) or hrad.is_on(method):
            return [method]
        most = self.c - 1 if method.overlaps else 2 * self.c
        return [method.having("gamma", g) for g in range(1, min(max(most, 1), self.deepest) + 1)]

    def others(self, method: Method) -> dict[str, tuple[Option, ...]]:
        """Return {option: values to try} for options other than gamma. Options that the method or a
        flag sets are left out."""
        if not self.is_open(method):
            return {}
        taken = self.fixed | method.named
        return {k: values for k, values in SWEPT.get(method.name, {}).items() if k not in taken}

    def widest(self, methods: Sequence[Method]) -> list[Method]:
        """Return each method with its largest gamma, and with the largest F to try. The engine must
        be built for these methods."""
        return [self._widest(method) for method in methods]

    def _widest(self, method: Method) -> Method:
        found = self.gammas(method)[-1]
        most = self.others(method).get("F")
        return found.having("F", most[-1]) if most else found

    def count(self, method: Method) -> int:
        """Return the maximum number of settings of the method that may be tried."""
        return len(self.gammas(method)) + sum(map(len, self.others(method).values()))


@dataclass
class Simulator:
    """Runs every setting once on all prompts. bench: engines in virtual time (`Bench.open`).

    concurrency: number of sequences of a closed loop; the engine has a seat for each sequence.
    None: one prompt after the other.
    """

    bench: Bench
    model: CostModel
    sweep: Sweep
    params: SamplingParams
    progress: Progress = silent
    keep_spans: bool = False
    concurrency: int | None = None
    _tallies: dict[tuple[object, ...], Tally] = field(default_factory=dict)
    _prompts: list[list[int]] = field(default_factory=list)
    _plain: list[RequestOutput] = field(default_factory=list)  # plain decoding's answers
    _todo: int = 0  # number of settings to run

    def report(
        self,
        methods: Sequence[Method],
        none: Method,
        prompts: Sequence[str] | Sequence[list[int]],
    ) -> Report:
        """Return one tally for each mention of a method. Plain decoding runs even if it is not
        named.

        Raises EngineError if a generation fails; prompts that do not fit are skipped and counted.
        """
        self._prompts = fitting(self.bench.main, prompts, self.params)
        self._todo = (
            len(self._tallies)
            + 1
            + sum(self.sweep.count(m) for m in methods if m.name != none.name)
        )
        plain = self._measured(none)
        self._plain = plain.outputs
        tallies = [plain if m.name == none.name else self._best(m) for m in methods]
        return Report(
            tallies=tallies,
            plain=plain,
            placement=self.bench.placement,
            dtype=self.bench.main.pair.dtype,
            activation_dtype=self.bench.main.pair.activation_dtype,
            skipped=len(prompts) - len(self._prompts),
            simulated=self.model,
            sampled=not self.params.greedy,
            concurrency=self.concurrency,
        )

    def _best(self, method: Method) -> Tally:
        tried = [self._measured(setting) for setting in self.sweep.gammas(method)]
        best = max(tried, key=_rate)
        for key, values in self.sweep.others(method).items():
            settings = [best.method.having(key, v) for v in values if v != best.method.options[key]]
            tried += map(self._measured, settings)
            best = max(tried, key=_rate)
        keys = ("gamma", *self.sweep.others(method)) if self.sweep.is_open(method) else ()
        return replace(
            best,
            method=replace(best.method, text=method.text),
            is_identical=all(tally.is_identical for tally in tried),
            sweep=[_figure(tally, keys) for tally in tried] if keys else [],
        )

    def _measured(self, method: Method) -> Tally:
        key = (method.name, *sorted(method.options.items()))
        if key not in self._tallies:
            self._tallies[key] = self._run(method)
        return self._tallies[key]

    def _run(self, method: Method) -> Tally:
        tally = self.bench.tally(method)
        for i, output in enumerate(self._outputs(tally)):
            tally.add(output, self._plain[i] if self._plain else output)
        return tally

    def _outputs(self, tally: Tally) -> Iterator[RequestOutput]:
        """Yield the answers, in the order of the prompts."""
        if self.concurrency is not None:
            say = partial(self._say, tally.method)
            loop = ClosedLoop(self.bench.engine(tally.method), tally.method, self.concurrency, say)
            tally.load = loop.run(self._prompts, self.params)
            yield from tally.load.outputs
            return
        for i, ids in enumerate(self._prompts):
            self._say(tally.method, i)
            yield run_one(self.bench, tally, ids, self.params, self.keep_spans)

    def _say(self, method: Method, answers: int) -> None:
        each = count(len(self._prompts), self.concurrency or 1)
        done, total = len(self._tallies) * each + answers, self._todo * each
        self.progress("simulating", done, total, f"{method.text}, gamma {method.gamma}")


def _figure(tally: Tally, keys: Sequence[str]) -> dict[str, object]:
    """Return the options of a setting that was tried, and its tokens per second."""
    return {k: tally.method.options[k] for k in keys} | {"tokens_per_second": tally.rate}


def _rate(tally: Tally) -> float:
    return tally.rate
