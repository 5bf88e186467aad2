"""Compares many sequences with the reference: `python tests/decode/crowd.py --sequences 1000`.

A world is a pair of toys and an engine core with some seats. Sequences of fuzz.py come and go at
random, each with its own method, and some are dropped before their end. Each sequence must have the
tokens, log-probs and finish reason that it has without the others. Its counters must be the same,
too, except in two cases: a round has more rows than a forward holds, or other sequences decide if a
burst follows a miss. World w of seed s is always the same. The last line on stdout is a JSON
summary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import fuzz

from sbrt import _core, _probe

ROWS, STEP_ROWS = 64, 512  # most rows of a target forward, of a draft forward
SEQUENCES = 24  # number of sequences in a world
FOUND = 16  # number of nodes that look-ups may add to a chain


@dataclass
class Running:
    task: fuzz.Task
    method: str
    seat: Any  # a _core.Seat
    tokens: list[int] = field(default_factory=list)
    logprobs: list = field(default_factory=list)  # one entry per token
    ends_after: int | None = None  # number of tokens after which the sequence is dropped


def request(task: fuzz.Task, method: str) -> tuple:
    return (
        task.prompt,
        _core.Sampling(**task.sampling),
        _probe.policy(**task.policies[method]),
        task.max_tokens,
        task.stops,
        _core.Shaping(**task.shaping),
        _core.Logprobs(**task.logprobs),
    )


def most_rows(policy: dict) -> tuple[int, int]:
    """Return the largest numbers of rows that one sequence can have under a policy: (in a
    verification, in a draft step)."""
    gamma, nodes = policy["gamma"], policy.get("nodes", 63)
    burst = policy.get("burst", gamma)
    chain = min(
        63, max(gamma * policy.get("width", 1), burst * policy.get("burst_width", 1), burst)
    )
    chain = min(chain, nodes) if policy.get("width", 1) > 1 else chain
    chain = min(63, chain + FOUND * policy.get("lookup", False))
    return 1 + chain, max(1 + chain, policy.get("branches", 1) * policy.get("width", 1))


def is_roomy(world: fuzz.World, tasks: list[tuple[fuzz.Task, str]]) -> bool:
    """True if no round can have more rows than a forward holds."""
    seats = world.core["max_num_seqs"]
    rows = [most_rows(task.policies[method]) for task, method in tasks]
    target, draft = (max(column) for column in zip(*rows, strict=True))
    return seats == 1 or (seats * target <= ROWS and draft <= min(64 * seats, STEP_ROWS) // seats)


def waits_for_company(world: fuzz.World, done: Running) -> bool:
    """Return True if other sequences decide whether a serial burst follows a miss of `done`. Under
    `rejection` they never do.

    At temperature 0 a request is decoded as if it did not ask for `rejection`.
    """
    policy = done.task.policies[done.method]
    bursts = policy["gamma"] > 0 and policy.get("on_miss") == 1 and not policy.get("serial")
    many = world.core["max_num_seqs"] > 1
    return bursts and many and not fuzz.is_by_chance(done.task, done.method)


def compare(world: fuzz.World, done: Running, roomy: bool, seen: Counter) -> list[str]:
    expected = fuzz.oracle(world, done.task, done.method)
    different = fuzz.differences(done.seat, done.tokens, expected)
    if not roomy or waits_for_company(world, done):
        different = {k: v for k, v in different.items() if k not in fuzz.COUNTERS}
    found = fuzz.logprobs_of(done.seat, done.task.logprobs)
    if "output" in found:
        found["output"] = done.logprobs + found["output"]
    different |= fuzz.differing_logprobs(world, done.task, done.tokens, found)
    seen["logprobs"] += sum(map(len, found.values()))
    seen["finished"] += 1
    seen["tokens"] += len(done.tokens)
    seen["finish_" + str(done.seat.finish_reason)] += 1
    seen["accepted"] += done.seat.stats.accepted
    seen["branch_hits"] += done.seat.stats.branch_hits
    seen["reused"] += done.seat.stats.reused
    seen["shaped"] += bool(done.task.shaping)
    seen["by_chance"] += fuzz.is_by_chance(done.task, done.method)
    return [f"{done.method}: {different}\n    {world}\n    {done.task}"] if different else []


def cut_trees(task: fuzz.Task, world: fuzz.World) -> None:
    """Limit the nodes of trees, so that the rows of all seats fit into one forward."""
    room = max(2, ROWS // world.core["max_num_seqs"] - 1)
    for name in ("tree", "hedge"):
        policy = task.policies[name]
        policy["nodes"] = min(policy["nodes"], room)
        if "burst_width" in policy:
            policy["burst_width"] = min(policy["burst_width"], policy["width"])


def random_crowd(rng: Random, index: int, a: argparse.Namespace) -> tuple[fuzz.World, list]:
    """Return a world and its sequences as (task, method) pairs."""
    world = fuzz.random_world(rng, a.cpu)
    asking = Random(repr(world))
    world.core["max_num_seqs"] = rng.choice((1, 2, 2, 3, 4, 5, 8, 16)[: a.seats])
    world.core["max_piece"] = rng.choice((64, 64, 1, 7))
    world.core["reuses_prefixes"] = fuzz.chance(rng, 0.6)
    is_short = fuzz.chance(rng, 0.5)
    if is_short:  # short chains, so that one forward holds all rows of a round
        wide = Random(f"{a.seed}/{index}/trees").choice((1, 1, 3))
        world.core |= {"max_gamma": rng.randint(1, 5), "max_width": wide, "max_branches": 4}
    tasks: list[tuple[fuzz.Task, str]] = []
    if fuzz.chance(heads := Random(f"{a.seed}/{world.draft['seed']}/heads"), a.trimmed):
        known = world.draft["vocab"], world.target["vocab"]
        world.draft["head_ids"] = fuzz.random_head(heads, *known)
    longest = world.core["max_model_len"] - 1
    common = [rng.randrange(world.target["vocab"]) for _ in range(100)]
    for _ in range(SEQUENCES):
        task = fuzz.random_task(rng, world)
        if is_short:
            cut_trees(task, world)
        is_alike = fuzz.chance(rng, 0.5)
        if is_alike:  # about half of the prompts begin with the same tokens
            task.prompt = (common[: rng.randint(1, len(common))] + task.prompt)[:longest]
        # A request for prompt log-probs reuses no prefix. So requests whose prompts begin alike do
        # not ask for them.
        few = 0.0 if is_alike else 0.75
        task.logprobs = fuzz.random_logprobs(asking, world, task.prompt, few)
        tasks.append((task, rng.choice(list(task.policies))))
    return world, tasks


def run_world(index: int, a: argparse.Namespace, seen: Counter) -> list[str]:
    rng = Random(f"{a.seed}/{index}/crowd")
    world, tasks = random_crowd(rng, index, a)
    roomy = is_roomy(world, tasks)
    seen["roomy"] += roomy
    seen["roomy_trees"] += (
        roomy
        and world.core["max_num_seqs"] > 1
        and any(task.policies[method].get("width", 1) > 1 for task, method in tasks)
    )
    core = fuzz.make_core(world)
    running: list[Running] = []
    wrong: list[str] = []
    eager = rng.choice((0.1, 0.5, 1.0))  # probability that the next sequence is admitted
    while tasks or running:
        while tasks and core.has_free_seat and (not running or fuzz.chance(rng, eager)):
            task, method = tasks.pop()
            seat = core.admit(*request(task, method))
            dropped = rng.randrange(40) if fuzz.chance(rng, 0.15) else None
            running.append(Running(task, method, seat, ends_after=dropped))
            seen["sequences"] += 1
        seen["most_at_once"] = max(seen["most_at_once"], len(running))
        core.advance(rng.choice((0, 1, 1, 1, 2)))
        for one in list(running):
            if not is_over(one):
                continue
            if one.seat.finished:
                wrong += compare(world, one, roomy, seen)
            seen["dropped"] += not one.seat.finished
            one.seat.release()
            running.remove(one)
    return wrong


def is_over(one: Running) -> bool:
    """Move the new tokens and log-probs from the seat to `one`. Return True if the sequence has
    ended or is to be dropped now."""
    one.tokens += one.seat.take()
    one.logprobs += fuzz.rows_of(one.seat.take_logprobs())
    return one.seat.finished or (one.ends_after is not None and len(one.tokens) >= one.ends_after)


def main(argv: list[str] | None = None) -> int:
    parser = fuzz.parser_of(__doc__)
    parser.add_argument("--trimmed", type=float, default=0.25, help="share of drafts of some ids")
    parser.add_argument("--seats", type=int, default=8, help="of the list of numbers of seats")
    a = parser.parse_args(argv)
    seen: Counter = Counter()
    begin, index = time.monotonic(), a.first
    while seen["sequences"] < a.sequences and seen["mismatches"] < 5:
        try:
            wrong = run_world(index, a, seen)
        except _core.EngineError as error:
            wrong = [str(error)]
        seen["mismatches"] += len(wrong)
        for text in wrong:
            where = f"--seed {a.seed} --first {index} --sequences {SEQUENCES} --cpu {a.cpu}"
            where += f" --trimmed {a.trimmed}"
            print(f"MISMATCH {text}\n    {sys.argv[0]} {where}", flush=True)
        index += a.step
    print(json.dumps(seen | {"seconds": round(time.monotonic() - begin, 1)}))
    return 1 if seen["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
