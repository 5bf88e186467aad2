"""Compares engine and reference in random worlds: `python tests/decode/fuzz.py --sequences 1000`.

A world is a pair of toys and an engine core. The core answers a few sequences, each by every
method. Tokens, finish reason and every counter must equal those of sbrt.reference. Tokens of every
method must equal those of plain decoding, except under `rejection`, where they are random.
Log-probs must equal those of plain decoding bit for bit, and those of the reference up to rounding.
World w of seed s is always the same: the printed command repeats a failure. The last line on stdout
is a JSON summary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from sbrt import _core, _probe, reference

SEQUENCES = 8  # number of sequences in a world
PROGRESS = 10.0  # seconds between two progress lines
LOOKING = ("draft_model", "pearl", "specbranch", "on_miss", "tree", "hedge")
HIGH = (1, 1, 1, 2**31 - 10, 2**32 - 10)  # an engine's first round number, to test 64-bit counters
COUNTERS = (
    "rounds",
    "draft_tokens",
    "accepted",
    "rollback_tokens",
    "branches",
    "branch_rounds",
    "branch_hits",
    "discarded_branch_tokens",
    "draft_limit_rounds",
    "empty_residuals",
    "histogram",
)


@dataclass
class World:
    target: dict  # keywords of a Toy
    draft: dict
    core: dict  # keywords of an EngineCore


@dataclass
class Task:
    prompt: list[int]
    sampling: dict
    stops: list[int]
    max_tokens: int
    shaping: dict  # keywords of a Shaping
    policies: dict[str, dict]  # {method: keywords of a Policy}
    slices: int  # number of rounds per call of run(); 0: all rounds
    logprobs: dict = field(default_factory=dict)  # keywords of a Logprobs


def chance(rng: Random, p: float) -> bool:
    return rng.random() < p


def random_world(rng: Random, cpu: float) -> World:
    vocab = rng.choice((2, 3, 5, 8, 16, 17, 32, 33, 64, rng.randint(2, 64)))
    seed = rng.getrandbits(64)
    target = {"vocab": vocab, "seed": seed}
    noise = rng.choice((0, 1, 2, 4, 8, 16, 32, 64))
    draft = {"vocab": vocab, "seed": seed, "noise16": noise}
    most_gamma = 63 if chance(rng, 0.1) else 12
    length = rng.randint(70, 10 * most_gamma) if chance(rng, 0.8) else rng.randint(2, 70)
    if chance(rng, 0.05):
        draft["seed"] = rng.getrandbits(64)  # a draft unrelated to the target
    if chance(rng, 0.15):
        draft["max_positions"] = rng.randint(1, length + 5)
    if chance(rng, 0.05):  # target and draft have vocabularies of different sizes
        rng.choice((target, draft))["vocab"] += rng.randint(1, 8)
    for toy in (target, draft):
        if chance(rng, 0.2):
            toy["window"] = rng.randint(2, 80)  # so small that the ring wraps
        if chance(rng, 0.05):
            toy["nan_at"] = rng.randrange(length)
    on_cpu = chance(rng, cpu)
    threads = rng.randint(1, 3) if on_cpu else 1
    core = {
        "max_model_len": length,
        "max_gamma": most_gamma,
        "max_branches": rng.choice((rng.randint(1, 16), rng.randint(1, 64))),
        "max_width": rng.choice((1, 2, 4, 16)),
        "backend": "cpu" if on_cpu else "sim",
        "num_threads": threads,
        "draft_threads": rng.randint(1, threads),
        "debug": chance(rng, 0.3),
        "first_round": rng.choice(HIGH),
        "rejection": True,
    }
    return World(target, draft, core)


def random_head(rng: Random, known: int, vocab: int) -> tuple[int, ...]:
    """Return ids below `known` for a draft's LM head. At least one of them is below `vocab`, so
    that the target has it."""
    ids = {rng.randrange(min(known, vocab))}
    ids.update(rng.sample(range(known), rng.randint(1, known)))
    return tuple(sorted(ids))


def random_sampling(rng: Random) -> dict:
    if chance(rng, 0.35):
        return {"temperature": 0.0, "seed": rng.getrandbits(64)}
    sampling = {"temperature": rng.uniform(0.3, 2.0), "seed": rng.getrandbits(64)}
    sampling["completion"] = rng.choice((0, 1, 2**32 - 1))
    if chance(rng, 0.3):
        sampling["top_k"] = rng.randint(1, 20)
    if chance(rng, 0.3):
        sampling["top_p"] = rng.choice((0.0, 0.5, 0.9, 0.99))
    if chance(rng, 0.3):
        sampling["min_p"] = rng.choice((0.01, 0.1, 0.5, 1.0))
    return sampling


def random_shaping(rng: Random, vocab: int, length: int) -> dict:
    """Return random penalties, bias and masks. Half of the requests have none."""
    if chance(rng, 0.5):
        return {}
    shaping: dict = {}
    if chance(rng, 0.4):
        shaping["repetition_penalty"] = rng.choice((0.01, 0.7, 1.1, 1.5, 100.0))
    if chance(rng, 0.4):
        shaping["presence_penalty"] = rng.uniform(-2, 2)
    if chance(rng, 0.4):
        shaping["frequency_penalty"] = rng.uniform(-2, 2)
    if chance(rng, 0.3):
        shaping["min_tokens"] = rng.choice((1, 2, 5, 20, 64, length))
    if chance(rng, 0.3):
        biased = rng.sample(range(vocab), rng.randint(1, vocab))
        shaping["logit_bias"] = tuple((t, rng.choice((-100.0, -1.5, 0.3, 4.0))) for t in biased)
    if chance(rng, 0.2):
        allowed = rng.sample(range(vocab), max(1, vocab - rng.randrange(vocab)))
        shaping["allowed_token_ids"] = tuple(allowed)
    if chance(rng, 0.4):
        few = range(min(vocab, rng.choice((3, vocab))))  # few ids, so that bad words occur in texts
        shaping["bad_words"] = tuple(
            tuple(rng.choices(few, k=rng.choice((1, 2, 2, 3, 4))))
            for _ in range(rng.randint(1, 12))
        )
    return shaping


def random_knobs(rng: Random, world: World, **fixed) -> dict:
    """Return a policy with random gamma, branches and epsilon; `fixed` overrides them."""
    most, k = world.core["max_gamma"], world.core["max_branches"]
    epsilon = rng.choice((0.0, 0.1, 0.3, 0.6, 0.9, 1.0))
    gamma = most if chance(rng, 0.2) else rng.randint(1, most)
    branches = rng.randint(1, min(k, 16))
    return {"gamma": gamma, "branches": branches, "epsilon": epsilon} | fixed


def random_hedge(rng: Random, world: World) -> dict:
    branches = rng.randint(1, world.core["max_branches"])
    nodes = rng.choice((3, 16, 63))
    drawn = random_knobs(rng, world, likely=True, branches=branches, nodes=nodes)
    wide = rng.randint(1, world.core["max_width"])
    if wide > 1 and not chance(rng, 0.02):  # many large trees are slow, so they are rare
        tree = min(63, wide * drawn["gamma"])
        drawn["branches"] = min(drawn["branches"], max(2, 150 // tree))
    miss = {"on_miss": rng.choice((0, 1, 2)), "burst": rng.randint(1, 12)}
    return drawn | miss | {"width": wide, "burst_width": rng.choice((1, 4, 16))}


def random_policies(rng: Random, world: World) -> dict[str, dict]:
    most = world.core["max_gamma"]

    def knobs(**fixed) -> dict:
        return random_knobs(rng, world, **fixed)

    return {
        "none": {"gamma": 0},
        "draft_model": knobs(serial=1, branches=1),
        "pearl": knobs(branches=1, epsilon=0.0),
        "specbranch": knobs(adaptive=bool(rng.randint(0, 1))),
        "on_miss": knobs(adaptive=True, on_miss=rng.choice((1, 2)), burst=rng.randint(1, most)),
        "lookup": {"gamma": 0, "on_miss": 2, "burst": rng.randint(1, 20)},
        "adaedl": knobs(serial=True, lambda_=rng.uniform(0, 1), theta=rng.uniform(-1, 1)),
        "tree": knobs(serial=True, width=rng.choice((2, 4, 16)), nodes=rng.choice((3, 16, 63))),
        "hedge": random_hedge(rng, world),
    }


def random_task(rng: Random, world: World) -> Task:
    vocab, most = world.target["vocab"], world.core["max_gamma"]
    longest = world.core["max_model_len"] - 1
    length = rng.randint(1, min(longest, 6 if chance(rng, 0.7) else 75))
    task = Task(
        prompt=[rng.randrange(vocab) for _ in range(length)],
        sampling=random_sampling(rng),
        stops=rng.sample(range(vocab), rng.choice((0, 0, 0, 0, 1, 2)) if vocab > 2 else 0),
        max_tokens=64 if chance(rng, 0.8) else rng.randint(0, 64 if most < 63 else 400),
        shaping=random_shaping(rng, vocab, longest),
        policies=random_policies(rng, world),
        slices=rng.choice((0, 0, 0, 1, 3)),
    )
    for policy in task.policies.values():
        if chance(rng, 0.4):
            policy["rejection"] = True
    let_look_up(Random(f"{task.prompt}{task.sampling}"), task)
    return task


def random_logprobs(rng: Random, world: World, prompt: list[int], few: float = 0.75) -> dict:
    """Return keywords of a Logprobs. Half of the sequences ask for log-probs. The share `few` of
    these sequences also asks for log-probs of the prompt.

    If a row of the prompt is NaN, no sequence asks for the prompt's log-probs, because such a
    request would fail.
    """
    if chance(rng, 0.5):
        return {}
    most = world.target["vocab"] + 1
    asked = {"output": rng.choice((-1, 0, 1, 5, most)), "prompt": -1}
    if chance(rng, few):
        asked["prompt"] = rng.choice((0, 3, most))
    if world.target.get("nan_at", -1) in range(len(prompt) - 1):
        asked["prompt"] = -1
    return asked


def let_look_up(rng: Random, task: Task) -> None:
    """Let some policies use look-ups, and make some prompts repeat a few tokens."""
    for name in LOOKING:
        if chance(rng, 0.5):
            task.policies[name]["lookup"] = True
    if chance(rng, 0.5):
        period = task.prompt[: rng.randint(1, 4)]
        task.prompt = (period * len(task.prompt))[: len(task.prompt)]


def make_core(world: World):
    return _core.EngineCore(_core.Toy(**world.target), _core.Toy(**world.draft), **world.core)


def engine_tokens(core, task: Task, method: str) -> list[int]:
    core.begin(
        task.prompt,
        _core.Sampling(**task.sampling),
        _probe.policy(**task.policies[method]),
        task.max_tokens,
        task.stops,
        _core.Shaping(**task.shaping),
        _core.Logprobs(**task.logprobs),
    )
    tokens = core.run(task.slices)
    while not core.seat(0).finished:
        tokens += core.run(task.slices)
    return tokens


def oracle(world: World, task: Task, method: str):
    def toy(given):
        return reference.Toy(**{k: v for k, v in given.items() if k != "window"})

    return reference.generate(
        toy(world.target),
        toy(world.draft),
        task.prompt,
        reference.Sampling(**task.sampling),
        reference.Policy(**task.policies[method]),
        max_tokens=task.max_tokens,
        max_model_len=world.core["max_model_len"],
        stop_token_ids=task.stops,
        shaping=reference.Shaping(**task.shaping) if task.shaping else None,
        room=reference.room_of(*(world.core[f"max_{x}"] for x in ("gamma", "branches", "width"))),
    )


def differences(seat, tokens, expected) -> dict:
    """Return a finished sequence's wrong results as {name: (the engine's value, the reference's
    value)}."""
    want_tokens, want_finish, want_stats = expected
    pairs = {
        "tokens": (tokens, want_tokens),
        "finish": (seat.finish_reason, want_finish),
    }
    stop = want_tokens[-1] if want_finish == "stop" else None
    pairs["stop_token"] = (seat.stop_token, stop)
    pairs["error"] = (seat.error is not None, want_finish == "error")
    stats = seat.stats
    for name in COUNTERS:
        pairs[name] = (getattr(stats, name), getattr(want_stats, name))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def rows_of(columns) -> list:
    """Return a list of (token, rank, log-prob) for each position, from the engine's 3 arrays."""
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [[e for e in zip(*row, strict=True) if e[0] >= 0] for row in rows]


def logprobs_of(seat, logprobs: dict) -> dict[str, list]:
    """Return the log-probs that a finished sequence asked for, by "output" and "prompt"."""
    found = {
        "output": rows_of(seat.take_logprobs()),
        "prompt": rows_of(seat.prompt_logprobs()),
    }
    assert all(found[name] == [] for name in found if logprobs.get(name, -1) < 0)
    return {name: rows for name, rows in found.items() if logprobs.get(name, -1) >= 0}


def differing_logprobs(world: World, task: Task, tokens: list[int], found: dict) -> dict:
    """Return the wrong log-probs as {name: (the engine's list, the reference's list)}."""
    toy = reference.Toy(**{k: v for k, v in world.target.items() if k != "window"})
    trunks = {"output": (task.prompt + tokens, len(task.prompt)), "prompt": (task.prompt, 1)}
    different = {}
    for name, rows in found.items():
        if name == "prompt" and not tokens:  # the sequence ended before its first token
            continue
        trunk, first = trunks[name]
        want = reference.logprobs(toy, trunk, first, task.logprobs[name])
        if not are_near(rows, want):
            different[f"{name} log-probs"] = rows, want
    return different


def are_near(rows: list, want: list) -> bool:
    flat, wanted = ([entry for row in all_rows for entry in row] for all_rows in (rows, want))
    if [len(row) for row in rows] != [len(row) for row in want]:
        return False
    return all(
        a[:2] == b[:2] and abs(a[2] - b[2]) < 1e-5 for a, b in zip(flat, wanted, strict=True)
    )


def is_by_chance(task: Task, method: str) -> bool:
    """Return True if the method accepts tokens at random; only their distribution is fixed."""
    return "rejection" in task.policies[method] and task.sampling["temperature"] >= 1e-5


def check_task(core, world: World, task: Task, seen: Counter) -> list[str]:
    plain = oracle(world, task, "none")
    wrong, plain_logprobs = [], {}
    for method in task.policies:
        try:
            tokens = engine_tokens(core, task, method)
        except _core.EngineError as error:
            wrong.append(f"{method}: {error}\n    {world}\n    {task}")
            continue
        expected = plain if method == "none" else oracle(world, task, method)
        different = differences(core.seat(0), tokens, expected)
        by_chance = is_by_chance(task, method)
        if tokens != plain[0] and not by_chance:
            different["plain"] = (tokens, plain[0])
        found = logprobs_of(core.seat(0), task.logprobs)
        different |= differing_logprobs(world, task, tokens, found)
        plain_logprobs = found if method == "none" else plain_logprobs
        if found != plain_logprobs and not by_chance:
            different["plain log-probs"] = (found, plain_logprobs)
        seen["logprobs"] += sum(map(len, found.values()))
        if different:
            wrong.append(f"{method}: {different}\n    {world}\n    {task}")
        seen["generations"] += 1
        seen["tokens"] += len(tokens)
        for name in task.shaping:
            seen[name] += 1
        seen["on_" + world.core["backend"]] += 1
        seen["finish_" + str(core.seat(0).finish_reason)] += 1
        for name in COUNTERS[:-1]:
            seen[name] += getattr(expected[2], name)
        for name in ("accepted", "branch_hits"):
            seen[f"{name}_{method}"] += getattr(expected[2], name)
            seen[f"{name}_{method}_by_chance"] += by_chance * getattr(expected[2], name)
    return wrong


def check_world(index: int, a: argparse.Namespace, seen: Counter) -> list[str]:
    rng, draw = Random(f"{a.seed}/{index}"), Random(f"{a.seed}/{index}/methods")
    world = random_world(rng, a.cpu)
    other, vocab = Random(f"{a.seed}/{index}/vocabulary"), world.target["vocab"]
    if chance(other, a.small):
        world.draft["vocab"] = other.randint(2, vocab)
    if chance(other, a.trimmed):
        world.draft["head_ids"] = random_head(other, world.draft["vocab"], vocab)
    core = make_core(world)
    wrong = []
    asking = Random(f"{a.seed}/{index}/logprobs")
    for _ in range(SEQUENCES):
        task = random_task(rng, world)
        task.logprobs = random_logprobs(asking, world, task.prompt)
        seen["sequences"] += 1
        if chance(rng, 0.1):  # a sequence that is ended early must not affect the next one
            engine_tokens(core, task, "none")
            core.begin(task.prompt, *abandoned(task))
            core.run(2)
            core.end()
            seen["abandoned"] += 1
        drafting = draw.sample(list(task.policies)[1:], min(a.methods, len(task.policies) - 1))
        task.policies = {name: task.policies[name] for name in ("none", *drafting)}
        wrong += check_task(core, world, task, seen)
    return wrong


def abandoned(task: Task) -> tuple:
    policy = _probe.policy(**task.policies["specbranch"])
    sampling, shaping = _core.Sampling(**task.sampling), _core.Shaping(**task.shaping)
    return sampling, policy, task.max_tokens, task.stops, shaping


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the flags that all programs with random worlds share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="first world")
    parser.add_argument("--step", type=int, default=1, help="worlds between two of this process")
    parser.add_argument("--cpu", type=float, default=0.02, help="share on the cpu backend")
    return parser


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--small", type=float, default=0, help="share of drafts of fewer tokens")
    parser.add_argument("--trimmed", type=float, default=0, help="share of drafts of some ids")
    parser.add_argument("--methods", type=int, default=99, help="drawn for a sequence, and none")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    a = arguments(argv)
    seen: Counter = Counter()
    begin = last = time.monotonic()
    index = a.first
    while seen["sequences"] < a.sequences and seen["mismatches"] < 5:
        wrong = check_world(index, a, seen)
        seen["mismatches"] += len(wrong)
        for text in wrong:
            where = f"--seed {a.seed} --first {index} --sequences {SEQUENCES}"
            again = f"{where} --cpu {a.cpu} --methods {a.methods}"
            again += f" --small {a.small} --trimmed {a.trimmed}"
            print(f"MISMATCH {text}\n    {sys.argv[0]} {again}", flush=True)
        index += a.step
        if time.monotonic() - last > PROGRESS:
            last = time.monotonic()
            done = f"{seen['sequences']} of {a.sequences} sequences, {seen['tokens']} tokens"
            print(f"{done}, {last - begin:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(seen | {"seconds": round(time.monotonic() - begin, 1)}))
    return 1 if seen["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
