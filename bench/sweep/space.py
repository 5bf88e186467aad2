"""The search space of `bench.sweep`: methods, ablations, and the settings tried for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sbrt import methods
from sbrt.methods import AUTO, MAX_GAMMA, Method, Option
from sbrt.model import hrad

Group = tuple[Mapping[str, Option], ...]

# Values of gamma. If drafting and verification overlap, a method tries the values from c / 4 to c -
# 1. Serial methods try the values up to 2 c.
OVERLAPPED = (1, 2, 3, 5, 7, 11, 15, 23, 31, 47, MAX_GAMMA)
SERIAL = (1, 2, 3, 4, 6, 8, 12, 16)
CUTS: Group = tuple({"epsilon": epsilon} for epsilon in (0.0, 0.1, 0.3, 0.5))
# In simulated time, up to 64 rows of a verification and up to 128 rows of a draft step cost as much
# as one row. So each of these shapes has as many rows as fit: F * tree = 128.
SHAPES: Group = ({"F": 64, "tree": 2}, {"F": 32, "tree": 4}, {"F": 16, "tree": 8})


@dataclass(frozen=True)
class Entry:
    """A method or an ablation: a preset, and the options that are tuned.

    gammas: values to try; empty if the preset or its classifier sets gamma. last: how many of the
    largest gammas to try (a tree is slow to simulate). others: groups of further options. Each
    group is tried on the best setting so far. follows: name of another entry. This entry then takes
    that entry's tuned setting, and changes only the options that its own preset names.
    """

    name: str
    preset: str
    gammas: tuple[int, ...] = ()
    last: int = MAX_GAMMA
    others: tuple[Group, ...] = ()
    follows: str | None = None

    def method(self, draft: Path | None) -> Method:
        """Return the preset before tuning.

        If the preset has a classifier, gamma comes from the classifier's file.
        """
        return hrad.fitted(methods.parse(self.preset), None, draft)

    def like(self, tuned: Method) -> Method:
        """Return the setting `tuned`, but with the options that this entry's preset names."""
        return having(tuned, {k: self.method(None).options[k] for k in self.method(None).named})

    def settings(self, c: int, draft: Path | None) -> list[Method]:
        """Return the settings with which tuning begins: one for each gamma that is tried at this
        c."""
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
    """Return the entries for an H-RAD file.

    In the first entry, the classifier's middle class also ends chains by confidence (epsilon). The
    second entry has no epsilon. The third entry is like the first, but without branches.
    """
    preset = f"specbranch:hrad={file},epsilon=0"
    return (
        Entry("specbranch, H-RAD", preset, others=(CUTS,)),
        Entry("specbranch, H-RAD alone", preset),
        Entry("specbranch, H-RAD, no branches", f"{preset},k_max=1", others=(CUTS,)),
    )


def having(method: Method, options: Mapping[str, Option]) -> Method:
    """Return `method` with the given options set."""
    for key, value in options.items():
        method = method.having(key, value)
    return method


def written(method: Method) -> str:
    """Return the text of a setting: the method's name, and the value of every option. This text is
    part of the key of a run."""
    options = ",".join(f"{key}={value}" for key, value in method.options.items())
    return f"{method.name}:{options}" if options else method.name


def widest(entries: Iterable[Entry], cs: Iterable[int], draft: Path | None) -> list[Method]:
    """Return methods for opening an engine that can then run every setting of the entries."""
    return list(_widest(entries, max(cs), draft))


def _widest(entries: Iterable[Entry], c: int, draft: Path | None) -> Iterator[Method]:
    for entry in entries:
        deepest = entry.settings(c, draft)[-1]
        yield deepest
        yield from (having(deepest, options) for group in entry.others for options in group)
