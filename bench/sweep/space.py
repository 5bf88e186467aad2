"""The search space of `bench.sweep`: methods and ablations, and the settings over which each is
tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sbrt import methods
from sbrt.methods import AUTO, MAX_GAMMA, Method, Option
from sbrt.model import hrad

Group = tuple[Mapping[str, Option], ...]

OVERLAPPED = (1, 2, 3, 5, 7, 11, 15, 23, 31, 47, MAX_GAMMA)  # gammas, used from c / 4 to c - 1
SERIAL = (1, 2, 3, 4, 6, 8, 12, 16)  # gammas, used up to 2 c
CUTS: Group = tuple({"epsilon": epsilon} for epsilon in (0.0, 0.1, 0.3, 0.5))
# A verification of 64 rows and a draft step of 128 cost as much as one row, so both trees use them
# all.
SHAPES: Group = ({"F": 64, "tree": 2}, {"F": 32, "tree": 4}, {"F": 16, "tree": 8})


@dataclass(frozen=True)
class Entry:
    """A method or an ablation: a preset, and what is left to tune.

    gammas: values to choose from, none if the preset or its classifier sets gamma. last: try only
    this many of the deepest overlapped gammas (a tree is slow to simulate). others: groups of
    further options, tried one group after the other on the best so far. follows: the entry that was
    tuned for it. It differs from that one in the options that its preset names.
    """

    name: str
    preset: str
    gammas: tuple[int, ...] = ()
    last: int = MAX_GAMMA
    others: tuple[Group, ...] = ()
    follows: str | None = None

    def method(self, draft: Path | None) -> Method:
        """The preset before tuning; with a classifier it has the gamma of the classifier's file."""
        return hrad.fitted(methods.parse(self.preset), None, draft)

    def like(self, tuned: Method) -> Method:
        """The tuned setting of the entry that it follows, with its own options."""
        return having(tuned, {k: self.method(None).options[k] for k in self.method(None).named})

    def settings(self, c: int, draft: Path | None) -> list[Method]:
        """The settings where tuning begins: one for each gamma that makes sense at this c."""
        method = self.method(draft)
        if not self.gammas:
            return [method]
        if method.overlaps:
            fitting = [g for g in self.gammas if c <= 4 * g and g < c]
        else:
            fitting = [g for g in self.gammas if g <= 2 * c]
        return [method.having("gamma", g) for g in (fitting or self.gammas[:1])[-self.last :]]


ENTRIES = (
    Entry("none", "none"),
    Entry("draft_model", "draft_model", SERIAL),
    Entry("adaedl", "adaedl:theta=0", (4, 8, 16),
          others=(tuple({"theta": theta} for theta in (-0.4, 0.0, 0.2, 0.4)),)),
    Entry("lookup", "lookup", (2, 4, 8, 16)),
    Entry("tree", "tree:nodes=63", SERIAL[1:],
          others=(tuple({"width": width} for width in (4, 8, 16)),)),
    Entry("pearl", "pearl", OVERLAPPED),
    Entry("specbranch", "specbranch:epsilon=0", OVERLAPPED, others=(CUTS,)),
    Entry("specbranch, epsilon 0.1", "specbranch:epsilon=0.1", follows="specbranch"),
    Entry("specbranch, epsilon 0.3", "specbranch:epsilon=0.3", follows="specbranch"),
    Entry("specbranch, epsilon 0.5", "specbranch:epsilon=0.5", follows="specbranch"),
    Entry("specbranch, no branches", "specbranch:k_max=1,epsilon=0", OVERLAPPED, others=(CUTS,)),
    Entry("specbranch, serial", "specbranch:on_miss=serial,epsilon=0", OVERLAPPED, others=(CUTS,)),
    Entry("hedge, paths", "hedge:F=64,tree=0,nodes=63", OVERLAPPED, last=3),
    Entry("hedge, trees", "hedge:F=64,tree=2,nodes=63", OVERLAPPED, last=2,
          others=(SHAPES, tuple({"burst": burst} for burst in (1, 2, 3)))),
    Entry("hedge, trees, look-up", "hedge:on_miss=lookup", follows="hedge, trees"),
    Entry("hedge, trees, goes on", "hedge:on_miss=continue", follows="hedge, trees"),
    Entry("auto", AUTO),
)  # fmt: skip


def with_classifier(file: str) -> tuple[Entry, ...]:
    """Entries of an H-RAD file: with confidence in its middle class, without, and without
    branches."""
    preset = f"specbranch:hrad={file},epsilon=0"
    return (
        Entry("specbranch, H-RAD", preset, others=(CUTS,)),
        Entry("specbranch, H-RAD alone", preset),
        Entry("specbranch, H-RAD, no branches", f"{preset},k_max=1", others=(CUTS,)),
    )


def having(method: Method, options: Mapping[str, Option]) -> Method:
    """The same method with these options set."""
    for key, value in options.items():
        method = method.having(key, value)
    return method


def written(method: Method) -> str:
    """A setting as a preset with every option: the key of its runs."""
    options = ",".join(f"{key}={value}" for key, value in method.options.items())
    return f"{method.name}:{options}" if options else method.name


def widest(entries: Iterable[Entry], cs: Iterable[int], draft: Path | None) -> list[Method]:
    """The methods for which an engine must be built to run all of them."""
    return list(_widest(entries, max(cs), draft))


def _widest(entries: Iterable[Entry], c: int, draft: Path | None) -> Iterator[Method]:
    for entry in entries:
        deepest = entry.settings(c, draft)[-1]
        yield deepest
        yield from (having(deepest, options) for group in entry.others for options in group)
