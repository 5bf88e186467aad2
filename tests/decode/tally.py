"""Counts tokens of engines under rejection: `python tests/decode/tally.py --sequences 20000 0 5 7`.

A setting is a pair of toys, sampling parameters and a method. Many sequences begin with the same
prompt, each with its own seed. Each combination of first tokens is one cell of a table of counts.
sbrt.reference computes the right distribution, that of plain decoding. The last line on stdout is
JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

import numpy as np

from sbrt import _core, _probe, reference
from sbrt.reference.dist import Lane, Shaper

LEAST = 10.0  # least expected count of a cell; smaller cells are merged
SIZES = {"max_model_len": 64, "max_gamma": 4, "max_branches": 16, "max_width": 4}
COUNTERS = (
    "accepted", "branches", "branch_hits", "branch_rounds", "rollback_tokens", "empty_residuals"
)  # fmt: skip


def setting(policy, vocab=4, noise=16, cells=4, prompt=(1, 0, 1, 0, 1), **more):
    """Return a setting. `more` holds keywords of a Sampling, and any of these:
    stops: stop ids. shaping: keywords of a Shaping. other: the draft does not resemble the target.
    knows: size of the draft's vocabulary (default: one more than the target's)."""
    policy = {"rejection": True} | policy
    return {
        "policy": policy,
        "vocab": vocab,
        "noise": noise,
        "cells": cells,
        "prompt": prompt,
    } | more


def serial(gamma, **more):
    return {"gamma": gamma, "serial": True, **more}


def hedge(gamma, branches, **more):
    return {"gamma": gamma, "branches": branches, "likely": True, **more}


PENALTIES = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3}
BURST = {"on_miss": 1, "burst": 2, "burst_width": 4}
LOOKS = {"vocab": 5, "cells": 3, "temperature": 3.0, "noise": 48}
# The settings differ in gamma, k, temperature, top_p, top_k, min_p, vocabulary and draft.
SETTINGS = (
    setting(serial(1), temperature=1.0),
    setting(serial(4), temperature=2.5),
    setting(serial(3), vocab=8, cells=2, noise=64, temperature=3.0, top_p=0.9),
    setting(serial(3), vocab=17, cells=1, temperature=4.0, top_k=9),
    setting(serial(4, lambda_=0.5, theta=0.3), temperature=2.0, noise=32),
    setting(serial(2, width=3, nodes=5), temperature=2.5, noise=32),
    setting(serial(3, width=4, nodes=4), vocab=3, cells=5, temperature=2.0, other=True),
    setting(serial(4, width=4), vocab=5, cells=3, temperature=3.0, top_p=0.95),
    setting({"gamma": 1, "branches": 1}, temperature=1.5),
    setting({"gamma": 3, "branches": 1}, temperature=2.5, noise=8),
    setting({"gamma": 3, "branches": 1}, temperature=2.5, shaping=PENALTIES),
    setting({"gamma": 2, "branches": 16, "adaptive": True}, temperature=2.0, noise=32),
    setting({"gamma": 3, "branches": 16, "adaptive": True, "epsilon": 0.4}, temperature=2.0),
    setting({"gamma": 3, "branches": 3, "epsilon": 0.5}, vocab=3, cells=5, temperature=3.0),
    setting({"gamma": 2, "branches": 4, **BURST, "burst_width": 1}, temperature=2.0, min_p=0.05),
    setting({"gamma": 3, "branches": 4, "on_miss": 2, "burst": 3}, temperature=3.0, noise=32),
    setting({"gamma": 3, "branches": 4}, vocab=4, temperature=3.0, stops=(2,), cells=4),
    setting(hedge(3, 6), temperature=2.5, noise=32),
    setting(hedge(2, 4, on_miss=2, burst=4), vocab=3, cells=5, temperature=3.0),
    setting(hedge(3, 4, width=2, nodes=6), temperature=2.5, noise=32),
    setting(hedge(2, 8, width=4, nodes=4), vocab=5, cells=3, temperature=3.0, noise=48),
    setting(hedge(3, 5, width=2, nodes=5, **BURST), temperature=2.5, other=True),
    setting(hedge(3, 6, width=2, nodes=8, on_miss=2, burst=3), temperature=4.0, top_k=3),
    setting(hedge(3, 16, width=2, **BURST), vocab=9, cells=2, temperature=3.0, shaping=PENALTIES),
    setting(serial(3), vocab=5, cells=3, temperature=3.0, knows=3),
    setting(hedge(2, 8, width=2, nodes=4), vocab=5, cells=3, temperature=3.0, noise=48, knows=4),
    setting(serial(3, lookup=True), temperature=2.5, noise=32),
    setting({"gamma": 3, "branches": 4, "lookup": True}, vocab=3, cells=5, temperature=3.0),
    setting({"gamma": 2, "branches": 8, "adaptive": True, "epsilon": 0.4, "lookup": True}, **LOOKS),
    setting(serial(3, width=3, nodes=6, lookup=True), temperature=2.5, noise=32),
    setting(hedge(2, 8, width=2, nodes=5, lookup=True), vocab=3, cells=5, temperature=3.0),
    setting(hedge(3, 6, width=2, **BURST, lookup=True), shaping=PENALTIES, **LOOKS),
)


def toys(s):
    """Return the keywords of the target's Toy and of the draft's Toy."""
    target = {"vocab": s["vocab"], "seed": 11}
    draft = {"vocab": s.get("knows", s["vocab"] + 1), "seed": 12 if s.get("other") else 11}
    return target, draft | {"noise16": s["noise"]}


def dist_of(s):
    return {k: s[k] for k in ("temperature", "top_p", "top_k", "min_p") if k in s}


def expected(s):
    """Return the joint probabilities of the first `cells` tokens: an array with `cells` axes of
    length vocab + 1. After a stop token every further id is `vocab`."""
    target, _ = toys(s)
    stops, size = s.get("stops", ()), s["vocab"]
    shaper = None
    if "shaping" in s:
        shaper = Shaper(reference.Shaping(**s["shaping"]), tuple(stops), len(s["prompt"]))
    lane = Lane(reference.Toy(**target), reference.Sampling(**dist_of(s)), size, shaper)
    dist = np.zeros((size + 1,) * s["cells"])

    def go(prefix, tokens, weight):
        if len(tokens) == s["cells"]:
            dist[tokens] += weight
        elif tokens and (tokens[-1] in stops or tokens[-1] == size):
            go(prefix, (*tokens, size), weight)
        else:
            for token, p in enumerate(lane.whole(prefix).tolist()):
                if p > 0:
                    go(prefix.then(token), (*tokens, token), weight * p)

    go(lane.empty + s["prompt"], (), 1.0)
    return dist


def counted(s, sequences, first=0):
    """Return (counts per cell, sums of the engine's counters) for the seeds first to first +
    sequences - 1."""
    core = _core.EngineCore(
        *(_core.Toy(**toy) for toy in toys(s)), backend="sim", rejection=True, **SIZES
    )
    policy, shaping = _probe.policy(**s["policy"]), _core.Shaping(**s.get("shaping", {}))
    prompt, stops, cells = list(s["prompt"]), list(s.get("stops", ())), s["cells"]
    pad, found, seen = (s["vocab"],) * cells, Counter(), Counter()
    for seed in range(first, first + sequences):
        core.begin(prompt, _core.Sampling(seed=seed, **dist_of(s)), policy, 16, stops, shaping)
        tokens = []
        while len(tokens) < cells and not core.seat(0).finished:
            tokens += core.run(max_rounds=1)
        found[(*tokens, *pad)[:cells]] += 1
        stats = core.seat(0).stats
        for name in COUNTERS:
            seen[name] += getattr(stats, name)
    counts = np.zeros((s["vocab"] + 1,) * cells, np.int64)
    for cell, n in found.items():
        counts[cell] = n
    return counts, seen


def distance(counts, dist):
    """Return the distance of the counts from the expected counts, in standard deviations.

    It is the chi-square statistic, transformed by Wilson and Hilferty's formula. It is infinite if
    a cell of probability 0 was counted.
    """
    counts, want = np.ravel(counts), np.ravel(dist) * np.sum(counts)
    if counts[want == 0].any():
        return float("inf")
    small = want < LEAST
    counts = np.r_[counts[~small], counts[small].sum()]
    want = np.r_[want[~small], want[small].sum()]
    counts, want = counts[want > 0], want[want > 0]
    x, k = ((counts - want) ** 2 / want).sum(), len(want) - 1
    return float(((x / k) ** (1 / 3) - 1 + 2 / (9 * k)) / (2 / (9 * k)) ** 0.5)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("settings", type=int, nargs="*")
    a = parser.parse_args(argv)
    found = {}
    for i in a.settings or range(len(SETTINGS)):
        counts, seen = counted(SETTINGS[i], a.sequences)
        found[i] = {"distance": distance(counts, expected(SETTINGS[i])), **seen}
        print(i, json.dumps(found[i]), file=sys.stderr, flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
