"""Contract under test: `auto`. Its tokens are plain decoding's, whatever it chooses and whenever it
changes its method. In virtual time, where costs are known, it is about as fast as its best
candidate, and never slower than plain decoding. It does not run a draft that cannot pay."""

import resource
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from sbrt import InvalidInputError, _core, methods

ROWS = range(1, _core.MAX_ROWS + 1)
TOY = {"vocab": 64, "seed": 7}
AGREES, NEVER = {"noise16": 0}, {"noise16": 0, "seed": 8}
SOMETIMES = {"noise16": 4}
ARMS = [arm for arm in methods.parse("auto").arms]
POLICIES = [arm.policy() for arm in ARMS]
BESIDE = (
    "none", "lookup:gamma=2", "tree:gamma=12,width=4,nodes=48", "hedge:gamma=3,F=64",
    "hedge:gamma=7,F=64",
)  # fmt: skip
SIZES = {"max_model_len": 900, "max_gamma": 15, "max_branches": 64, "max_width": 2}
PROMPTS = [[1, 2, 3], list(range(40))]


def costs(c=8, step=100, shared=1.0):
    """T(rows) = c steps plus a little per row; `shared`: slowdown while the lanes overlap."""
    target = [step * c + 3 * rows for rows in ROWS]
    draft = [step + rows // 8 for rows in ROWS]
    slow = {"target_overlapped": [round(shared * t) for t in target]}
    slow["draft_overlapped"] = [round(shared * t) for t in draft]
    return _core.Costs(target=target, draft=draft, round_ns=5, **slow)


def make(draft=AGREES, target=None, body="sim", tuned=POLICIES, threads=1, **given):
    toys = _core.Toy(**(TOY | (target or {}))), draft and _core.Toy(**(TOY | draft))
    return _core.Runtime(*toys, body=body, tuned=tuned, num_threads=threads, **(SIZES | given))


@dataclass
class Sum:
    tokens: int = 0
    ns: int = 0


def play(runtime, policy, temperature=0.0, max_tokens=250, repeat=3):
    """The tokens of every prompt, and the time of all sequences but the first ones."""
    found, total = [], Sum()
    for again in range(repeat):
        for i, prompt in enumerate(PROMPTS):
            law = _core.Sampling(temperature=temperature, seed=i)
            runtime.begin(prompt, law, policy, max_tokens)
            tokens = runtime.run()
            assert len(tokens) == max_tokens
            found.append(tokens)
            if again:
                total.tokens += len(tokens)
                total.ns += runtime.seat(0).stats.decode_ns
    return found, total.tokens / total.ns


DRAFTS = {"sometimes": SOMETIMES, "never": NEVER}
DEVICES = {"own devices": 1.0, "one device": 2.5}
WORLDS = list(product(DRAFTS.items(), (0.0, 0.8), (1, 8), DEVICES.items()))


def world_of(place):
    """Four settings of two values each: every three of them meet outside of `make exact`."""
    (name, draft), temperature, c, (devices, shared) = WORLDS[place]
    marks = pytest.mark.exact if place.bit_count() % 2 else ()
    return pytest.param(
        draft, temperature, c, shared, id=f"{name}-{temperature}-{c}-{devices}", marks=marks
    )


@pytest.mark.parametrize(
    ("draft", "temperature", "c", "shared"), [world_of(place) for place in range(len(WORLDS))]
)
def test_about_as_fast_as_the_best_and_never_slower_than_none(draft, temperature, c, shared):
    # Virtual time charges the costs that the engine assumes.
    runtime = make(draft, costs=costs(c, shared=shared))
    tokens, rate = play(runtime, None, temperature)
    fixed = {}
    beside = [arm for arm in ARMS if arm.text in BESIDE]
    for arm, policy in [(arm, arm.policy()) for arm in beside]:
        same, fixed[arm.text] = play(runtime, policy, temperature, repeat=2)
        assert tokens[: len(same)] == same
    assert rate >= 0.98 * fixed["none"]
    assert rate >= 0.9 * max(fixed.values()), (rate, fixed)


def test_a_prompt_that_repeats_itself_misleads_it_for_a_few_rounds_only():
    runtime = make(NEVER, costs=costs(1))
    law = _core.Sampling(temperature=0)
    took = {}
    for policy in (POLICIES[0], None):
        runtime.begin([9, 7] * 20, law, policy, 400)
        runtime.run()
        took[policy is None] = runtime.seat(0).stats.decode_ns
    assert took[True] <= 1.05 * took[False]


@pytest.mark.parametrize("shared", [1.0, 2.5], ids=["own devices", "one device"])
def test_it_finds_out_that_a_draft_is_good_after_a_prompt_that_misled_it(shared):
    """The toy's prompt is unrelated to the text after it, for the draft and for look-ups."""
    runtime = make(AGREES, costs=costs(8, shared=shared))
    rate = play(runtime, None)[1]
    assert rate >= 1.9 * play(runtime, POLICIES[0])[1]


def test_a_draft_that_could_never_pay_is_left_alone():
    slow = costs(1)
    dear = _core.Costs(
        target=slow.target,
        draft=[2 * t for t in slow.target],
        target_overlapped=[2 * t for t in slow.target],
        draft_overlapped=[4 * t for t in slow.target],
    )
    runtime = make(costs=dear)
    runtime.begin([1, 2, 3], _core.Sampling(temperature=0), None, 200)
    runtime.run()
    assert [span for span in runtime.trace() if span[0] == "draft"] == []
    for arm, (rounds, rate) in zip(ARMS, runtime.seat(0).tuned, strict=True):
        assert (rounds, rate) == (0, 0.0) if arm.drafts else rate > 0


@pytest.mark.parametrize(("c", "idle"), [(1, True), (8, False)], ids=["dear", "cheap"])
def test_in_company_only_a_draft_that_drafts_reads_prompts(c, idle):
    """A dear draft could pay if every token were accepted, so it reads a prompt that is alone."""
    target, draft = costs(c).target, [int(0.8 * ns) for ns in costs(1).target]
    lanes = {"target": target, "draft": draft, "target_overlapped": target}
    runtime = make(costs=_core.Costs(**lanes, draft_overlapped=draft), max_num_seqs=3)
    law = _core.Sampling(temperature=0)
    seats = [runtime.admit(list(range(i, 40 + i)), law, None, 100) for i in range(3)]
    runtime.run(max_rounds=60)
    work = [span for span in runtime.trace() if span[0] == "draft"]
    assert (len(work) == 1) == idle
    for seat in seats:
        drafted = [n for arm, (n, _) in zip(ARMS, seat.tuned, strict=True) if arm.drafts]
        assert (sum(drafted) == 0) == idle


def test_it_says_what_it_chose():
    runtime = make(costs=costs())
    runtime.begin([1, 2, 3], _core.Sampling(temperature=0), None, 300)
    runtime.run()
    rounds = dict(
        zip([arm.text for arm in ARMS], [n for n, _ in runtime.seat(0).tuned], strict=True)
    )
    assert sum(rounds.values()) == runtime.seat(0).stats.rounds
    assert sum(n for text, n in rounds.items() if text.startswith("hedge")) > 0.7 * sum(
        rounds.values()
    )


@pytest.mark.parametrize(("body", "threads"), [("sim", 1), ("cpu", 1), ("cpu", 2)])
@pytest.mark.parametrize("draft", [AGREES, SOMETIMES, NEVER], ids=["agrees", "some", "never"])
def test_slices_and_bodies_change_nothing(body, threads, draft):
    runtime = make(draft, body=body, threads=threads, costs=costs() if body == "sim" else None)
    for prompt in PROMPTS:
        law = _core.Sampling(temperature=0.7, seed=3)
        runtime.begin(prompt, law, POLICIES[0], 250)
        plain = runtime.run()
        runtime.begin(prompt, law, None, 250)
        found = []
        for turn in range(10_000):
            found += runtime.run(max_rounds=turn % 3, seconds=1e-5 if turn % 5 else 0.0)
            if runtime.seat(0).finished:
                break
        assert found == plain


def test_past_the_context_of_the_draft_it_goes_on_without():
    runtime = make({"max_positions": 128}, costs=costs())
    tokens, _ = play(runtime, None)
    assert tokens == play(runtime, POLICIES[0])[0]


def test_without_a_draft_it_chooses_from_what_needs_none():
    tuned = [arm.policy() for arm in ARMS if not arm.drafts]
    runtime = make(None, tuned=tuned, costs=costs())
    tokens, _ = play(runtime, None)
    assert tokens == play(runtime, tuned[0])[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_rounds_allocate_nothing(threads):
    runtime = make(SOMETIMES, body="cpu", threads=threads)
    counts = {}
    for max_tokens in (300, 100, 300):
        runtime.begin([1, 2, 3], _core.Sampling(temperature=0), None, max_tokens)
        before = _core.allocation_count()
        runtime.run()
        counts[max_tokens] = _core.allocation_count() - before
    assert counts[100] == counts[300] == 0


def test_an_engine_that_cannot_choose_says_so():
    runtime = make(tuned=[])
    with pytest.raises(InvalidInputError, match="not built to choose"):
        runtime.begin([1], _core.Sampling(temperature=0), None, 5)
    with pytest.raises(InvalidInputError, match="plain decoding the first"):
        make(tuned=POLICIES[::-1], costs=costs())
    with pytest.raises(InvalidInputError, match="virtual time"):
        make(costs=costs()).measure(0.1)


@pytest.mark.parametrize("length", [2, 3, 4, 8, 64, 66, 129])
@pytest.mark.parametrize("draft", [SOMETIMES, None], ids=["draft", "no draft"])
def test_short_contexts_are_measured_and_generate_to_their_end(length, draft):
    tuned = [arm.policy() for arm in ARMS if draft or not arm.drafts]
    runtime = make(draft, body="cpu", threads=2, tuned=tuned, max_model_len=length)
    law = _core.Sampling(temperature=0)
    for prompt in ([1], [1] * (length - 1)):
        runtime.begin(prompt, law, POLICIES[0], 1000)
        plain = runtime.run()
        runtime.begin(prompt, law, None, 1000)
        assert runtime.run() == plain
        assert len(plain) == length - len(prompt)


@pytest.mark.parametrize("target", [{}, {"nan_at": 130}], ids=["fine", "not a number"])
def test_what_was_measured_leaves_nothing_behind(target):
    runtime = make(SOMETIMES, target, body="cpu")
    for _ in range(2):
        assert runtime.seat(0).rounds() == []
        assert (runtime.seat(0).stats.rounds, runtime.seat(0).stats.decode_ns) == (0, 0)
        assert runtime.seat(0).prefilled_tokens == 0
        assert (runtime.seat(0).finish_reason, runtime.seat(0).error) == (None, None)
        law = _core.Sampling(temperature=0)
        runtime.begin([1, 2, 3], law, None, 100)
        assert len(runtime.run()) == 100
        runtime.measure(0.0)


def test_a_context_without_end_takes_no_memory_before_it_is_used():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system has no /proc/self/statm")
    pages = int(statm.read_text().split()[1])
    length = 1 << 30
    endless = {"window": 70, "max_positions": length}
    runtime = make(AGREES | endless, endless, body="cpu", max_model_len=length)
    runtime.begin([1, 2, 3], _core.Sampling(temperature=0), None, 50)
    assert len(runtime.run()) == 50
    grown = (int(statm.read_text().split()[1]) - pages) * resource.getpagesize()
    assert grown < length // 4


def test_measured_costs_never_fall_with_rows():
    found = make(body="cpu").measure(0.02)
    for table in (found.target, found.draft, found.target_overlapped, found.draft_overlapped):
        assert table == sorted(table)
        assert table[0] > 0


def test_the_limit_of_its_branches_may_be_given():
    found = methods.parse("auto:k_max=64").arms
    assert [arm.text for arm in found] == [arm.text for arm in ARMS]
    assert max(arm.branches for arm in methods.parse("auto:k_max=20").arms) == 20
    for method, most in (("auto", 64), ("specbranch", 16)):
        with pytest.raises(InvalidInputError, match=f"k_max: expected .* {most}, got 65"):
            methods.parse(f"{method}:k_max=65")
