"""The runs of `bench.sweep`. A run is one setting over its prompts, in simulated time.

Each run is written to a JSON file when it ends. A target forward takes the time c, and a draft
forward takes the time 1, whatever the number of rows. If all bursts of a run are shorter than c,
each of its rounds takes c. A run at a larger c would have the same rounds, so its time is
computed without another run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from bench.sweep.space import written
from sbrt.check import show
from sbrt.config import EngineConfig
from sbrt.errors import InvalidInputError
from sbrt.files import write_file
from sbrt.methods import AUTO, Method, parse
from sbrt.outputs import ratio
from sbrt.sampling import SamplingParams
from sbrt.serve.pair import Pair
from sbrt.tools.costs import read_costs
from sbrt.tools.measure import Bench
from sbrt.tools.progress import Phases
from sbrt.tools.simulate import Simulator, Sweep

GRAM = 4  # number of tokens of the n-grams that `repeated` looks for
FIGURES = (
    *("answers", "tokens", "seconds", "target_passes", "draft_tokens", "acceptance_rate"),
    *("rollback_tokens", "rollback_rate", "branch_hits", "branch_rounds"),
    *("discarded_branch_tokens", "identical_to_none"),
)
Run = dict[str, Any]


class Place(NamedTuple):
    """The draft, prompts and temperature of a run.

    half: "even" or "odd". Prompts with even numbers are for tuning, those with odd numbers for the
    report.
    """

    draft: str
    prompts: str
    temperature: float
    half: str


class Key(NamedTuple):
    """The key of a run in the store. setting: a method with the value of every option."""

    draft: str
    prompts: str
    temperature: float
    half: str
    c: int
    setting: str


def says(method: Method, at: int, c: int) -> bool:
    """Return True if the run at cost ratio `at` also gives the time at cost ratio `c`.

    If drafting and verification overlap, the draft must end before the target at both cost ratios.
    `auto` selects methods by the costs of forwards, so it must run at every c.
    """
    if method.name == AUTO:
        return at == c
    return at == c or not method.overlaps or method.gamma < min(at, c)


def speedup(run: Run, c: int) -> float:
    """Return the speed-up over plain decoding, which takes the time c per token.

    run: a run at a cost ratio for which `says` returns True.
    """
    return ratio(run["tokens"] * c, run["seconds"] + run["target_passes"] * (c - run["c"]))


def repeated(trunk: Sequence[int], begin: int) -> int:
    """Return how many tokens complete an n-gram that occurred before in `trunk`.

    The n-grams have GRAM tokens. Only tokens from index `begin` on are counted.
    """
    seen: set[tuple[int, ...]] = set()
    found = 0
    for end in range(GRAM, len(trunk) + 1):
        gram = tuple(trunk[end - GRAM : end])
        found += end > begin and gram in seen
        seen.add(gram)
    return found


@dataclass
class Store:
    """All runs so far, kept in the file `path`.

    setup: flags that must not change between restarts. texts: share of repeated tokens in the
    answers, by prompts, temperature and half. cells: finished cells.
    """

    path: Path
    setup: dict[str, Any]
    runs: dict[Key, Run] = field(default_factory=dict)
    texts: dict[tuple[str, float, str], float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # digests of models and prompts, by name
    cells: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, setup: dict[str, Any]) -> Store:
        """Return the store that an earlier sweep left in `path`, or an empty one.

        Raises InvalidInputError if that sweep had another setup.
        """
        store = cls(path, setup)
        if path.exists() and path.stat().st_size:
            store._read(_object(path))
        return store

    def same(self, name: str, digest: str) -> None:
        """Store the digest of the models or prompts that `name` refers to.

        Raises InvalidInputError if the store's file has another digest for this name.
        """
        if self.names.setdefault(name, digest) != digest:
            raise InvalidInputError(f"--json {self.path}: expected the same {name}, got another")

    def add(self, key: Key, run: Run) -> None:
        """Add a run to the store, and write the file."""
        self.runs[key] = run
        self.save()

    def save(self) -> None:
        """Write the file, with one run per line."""
        texts = [
            {"prompts": p, "temperature": t, "half": h, "repeated": share}
            for (p, t, h), share in self.texts.items()
        ]
        parts = {
            "setup": [self.setup],
            "names": [self.names],
            "texts": texts,
            "cells": self.cells,
            "runs": [key._asdict() | run for key, run in self.runs.items()],
        }
        body = ",\n".join(f'"{name}": [\n{_lines(part)}]' for name, part in parts.items())
        write_file(self.path, f"{{{body}}}\n".encode())

    def _read(self, found: dict[str, Any]) -> None:
        try:
            [setup], [self.names] = found["setup"], found["names"]
            for run in found["runs"]:
                self.runs[Key(*(run[name] for name in Key._fields))] = _checked(run)
            for text in found["texts"]:
                key = (text["prompts"], text["temperature"], text["half"])
                self.texts[key] = text["repeated"]
        except (KeyError, TypeError, ValueError):
            raise InvalidInputError(
                f"--json {self.path}: expected a file of bench.sweep or none, got another"
            ) from None
        for name, value in self.setup.items():
            if setup.get(name) != value:
                raise InvalidInputError(
                    f"--json {self.path}: expected a sweep of {name} {show(value)}, "
                    f"got one of {show(setup.get(name))}"
                )


@dataclass
class Runner:
    """Runs the settings that the store lacks; opens models and engines when they are first needed.

    cs: the values of c. params: sampling parameters by temperature. load: returns the config and
    the weights for the name of a draft. methods: by the name of a draft, the methods that its
    engines must be able to run. is_over: returns True when no further run may begin.
    """

    store: Store
    cs: Sequence[int]
    params: dict[float, SamplingParams]
    prompts: dict[tuple[str, str], list[str]]  # keys: (file, half of its prompts)
    load: Callable[[str], tuple[EngineConfig, Pair]]
    methods: dict[str, list[Method]]
    is_over: Callable[[], bool] = lambda: False
    _simulators: dict[tuple[Place, int], Simulator] = field(default_factory=dict)
    _benches: dict[tuple[str, int], Bench] = field(default_factory=dict)
    _pairs: dict[str, tuple[EngineConfig, Pair]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _bar: Phases = field(default_factory=Phases)

    def close(self) -> None:
        """Close every engine."""
        self._bar.close()
        self._stack.close()

    def run(self, place: Place, method: Method, c: int) -> Run | None:
        """Return the run of a setting, from the store or measured now.

        Returns None if the store lacks the run and the time limit has passed.
        """
        known = {key.c for key in self.store.runs}
        for at in sorted({*known, *self.cs}, reverse=True):
            key = Key(*place, at, written(method))
            if key in self.store.runs and says(method, at, c):
                return self.store.runs[key]
        if self.is_over():
            return None
        at = max(at for at in self.cs if says(method, at, c))
        run = self._measure(place, method, at)
        self.store.add(Key(*place, at, written(method)), run)
        return run

    def _measure(self, place: Place, method: Method, c: int) -> Run:
        simulator = self._simulator(place, c)
        given = self.prompts[place.prompts, place.half]
        report = simulator.report([method], parse("none"), given)
        self._count_repeated(place, simulator)
        [line], [tally] = report.lines(), report.tallies
        figures = line | {"answers": line["prompts"]}
        run: Run = {"c": c} | {name: figures[name] for name in FIGURES}
        return run | ({"chosen": tally.chosen} if tally.chosen else {})

    def _count_repeated(self, place: Place, simulator: Simulator) -> None:
        key = (place.prompts, place.temperature, place.half)
        if key in self.store.texts:
            return
        plain = simulator.report([parse("none")], parse("none"), self.prompts[key[0], key[2]])
        found = tokens = 0
        for output in plain.plain.outputs:
            prompt, answer = output.prompt_token_ids, output.outputs[0].token_ids
            found += repeated([*prompt, *answer], len(prompt))
            tokens += len(answer)
        self.store.texts[key] = ratio(found, tokens)

    def _simulator(self, place: Place, c: int) -> Simulator:
        if (place, c) not in self._simulators:
            model, params = read_costs(f"c={c}"), self.params[place.temperature]
            self._simulators[place, c] = Simulator(
                self._bench(place.draft, c), model, Sweep(c, frozenset({"gamma"})), params
            )
        return self._simulators[place, c]

    def _bench(self, draft: str, c: int) -> Bench:
        if (draft, c) not in self._benches:
            if draft not in self._pairs:
                self._pairs[draft] = self.load(draft)
            costs = read_costs(f"c={c}").costs()
            bench = Bench.open(*self._pairs[draft], self.methods[draft], "shared", costs)
            self._benches[draft, c] = self._stack.enter_context(closing(bench))
        return self._benches[draft, c]


def digest(texts: Sequence[str]) -> str:
    """Return a digest of a list of prompts."""
    return sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError(f"--json {path}: expected a file of bench.sweep, got another")
    return found


def _checked(run: Run) -> Run:
    """Return the figures of a run from a file. Raises KeyError or TypeError if the run is
    invalid."""
    if not all(isinstance(run[name], (int, float)) for name in ("c", *FIGURES)):
        raise TypeError
    return {name: run[name] for name in ("c", *FIGURES, "chosen") if name in run}


def _lines(objects: Sequence[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in objects)
