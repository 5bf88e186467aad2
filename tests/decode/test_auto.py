"""Contract under test: `auto`. Its tokens are those of plain decoding, whatever methods it uses and
whenever it changes them. In virtual time, where costs are known, it is about as fast as its best
candidate, and never slower than plain decoding. It does not run a draft that cannot make decoding
faster."""

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
    """Return costs in which a target forward takes the time of c draft steps, plus a little per
    row. shared: factor by which all forwards are slower while the lanes overlap."""
    target = [step * c + 3 * rows for rows in ROWS]
    draft = [step + rows // 8 for rows in ROWS]
    slow = {"target_overlapped": [round(shared * t) for t in target]}
    slow["draft_overlapped"] = [round(shared * t) for t in draft]
    return _core.Costs(target=target, draft=draft, round_ns=5, **slow)


def make(draft=AGREES, target=None, backend="sim", tuned=POLICIES, threads=1, **given):
    toys = _core.Toy(**(TOY | (target or {}))), draft and _core.Toy(**(TOY | draft))
    return _core.EngineCore(
        *toys, backend=backend, tuned=tuned, num_threads=threads, **(SIZES | given)
    )


@dataclass
class Sum:
    tokens: int = 0
    ns: int = 0


def play(core, policy, temperature=0.0, max_tokens=250, repeat=3):
    """Return the tokens of every answer, and the tokens per ns. The first pass over the prompts is
    not timed."""
    found, total = [], Sum()
    for again in range(repeat):
        for i, prompt in enumerate(PROMPTS):
            sampling = _core.Sampling(temperature=temperature, seed=i)
            core.begin(prompt, sampling, policy, max_tokens)
            tokens = core.run()
            assert len(tokens) == max_tokens
            found.append(tokens)
            if again:
                total.tokens += len(tokens)
                total.ns += core.seat(0).stats.decode_ns
    return found, total.tokens / total.ns


DRAFTS = {"sometimes": SOMETIMES, "never": NEVER}
DEVICES = {"own devices": 1.0, "one device": 2.5}
WORLDS = list(product(DRAFTS.items(), (0.0, 0.8), (1, 8), DEVICES.items()))


def world_of(place):
    """Return one combination of four settings with two values each. Half of the combinations run
    only in `make exact`. The rest cover every combination of any three settings."""
    (name, draft), temperature, c, (devices, shared) = WORLDS[place]
    marks = pytest.mark.exact if place.bit_count() % 2 else ()
    return pytest.param(
        draft, temperature, c, shared, id=f"{name}-{temperature}-{c}-{devices}", marks=marks
    )


@pytest.mark.parametrize(
    ("draft", "temperature", "c", "shared"), [world_of(place) for place in range(len(WORLDS))]
)
def test_about_as_fast_as_the_best_and_never_slower_than_none(draft, temperature, c, shared):
    # In virtual time a forward takes exactly the time that the engine expects.
    core = make(draft, costs=costs(c, shared=shared))
    tokens, rate = play(core, None, temperature)
    fixed = {}
    beside = [arm for arm in ARMS if arm.text in BESIDE]
    for arm, policy in [(arm, arm.policy()) for arm in beside]:
        same, fixed[arm.text] = play(core, policy, temperature, repeat=2)
        assert tokens[: len(same)] == same
    assert rate >= 0.98 * fixed["none"]
    assert rate >= 0.9 * max(fixed.values()), (rate, fixed)


def test_a_prompt_that_repeats_itself_misleads_it_for_a_few_rounds_only():
    core = make(NEVER, costs=costs(1))
    sampling = _core.Sampling(temperature=0)
    took = {}
    for policy in (POLICIES[0], None):
        core.begin([9, 7] * 20, sampling, policy, 400)
        core.run()
        took[policy is None] = core.seat(0).stats.decode_ns
    assert took[True] <= 1.05 * took[False]


@pytest.mark.parametrize("shared", [1.0, 2.5], ids=["own devices", "one device"])
def test_it_finds_out_that_a_draft_is_good_after_a_prompt_that_misled_it(shared):
    """The toy's text has nothing to do with its prompt, so the prompt misleads the draft's ranks
    and look-ups. `auto` must still find out that the draft is good."""
    core = make(AGREES, costs=costs(8, shared=shared))
    rate = play(core, None)[1]
    assert rate >= 1.9 * play(core, POLICIES[0])[1]


def test_a_draft_that_could_never_pay_is_left_alone():
    slow = costs(1)
    dear = _core.Costs(
        target=slow.target,
        draft=[2 * t for t in slow.target],
        target_overlapped=[2 * t for t in slow.target],
        draft_overlapped=[4 * t for t in slow.target],
    )
    core = make(costs=dear)
    core.begin([1, 2, 3], _core.Sampling(temperature=0), None, 200)
    core.run()
    assert [span for span in core.trace() if span[0] == "draft"] == []
    for arm, (rounds, rate) in zip(ARMS, core.seat(0).tuned, strict=True):
        assert (rounds, rate) == (0, 0.0) if arm.drafts else rate > 0


@pytest.mark.parametrize(("c", "idle"), [(1, True), (8, False)], ids=["dear", "cheap"])
def test_in_company_only_a_draft_that_drafts_reads_prompts(c, idle):
    """With this draft's costs, drafting could pay off if every token were accepted. So the draft
    reads the prompt of a sequence that runs alone, but no other prompt."""
    target, draft = costs(c).target, [int(0.8 * ns) for ns in costs(1).target]
    lanes = {"target": target, "draft": draft, "target_overlapped": target}
    core = make(costs=_core.Costs(**lanes, draft_overlapped=draft), max_num_seqs=3)
    sampling = _core.Sampling(temperature=0)
    seats = [core.admit(list(range(i, 40 + i)), sampling, None, 100) for i in range(3)]
    core.run(max_rounds=60)
    work = [span for span in core.trace() if span[0] == "draft"]
    assert (len(work) == 1) == idle
    for seat in seats:
        drafted = [n for arm, (n, _) in zip(ARMS, seat.tuned, strict=True) if arm.drafts]
        assert (sum(drafted) == 0) == idle


def test_it_says_what_it_chose():
    core = make(costs=costs())
    core.begin([1, 2, 3], _core.Sampling(temperature=0), None, 300)
    core.run()
    rounds = dict(zip([arm.text for arm in ARMS], [n for n, _ in core.seat(0).tuned], strict=True))
    assert sum(rounds.values()) == core.seat(0).stats.rounds
    assert sum(n for text, n in rounds.items() if text.startswith("hedge")) > 0.7 * sum(
        rounds.values()
    )


def test_rounds_that_run_ahead_count_for_the_policy_that_ran():
    """A request is aborted while its round is in flight. So no policy is set before the first round
    of the next request, which begins with plain decoding. The last request of that seat had another
    policy, whose rounds all have branches."""
    policies = [POLICIES[0], methods.parse("hedge:gamma=3,F=16").policy()]
    core = make(backend="dry", tuned=policies, tuning=costs(4), max_num_seqs=2)
    greedy = _core.Sampling(temperature=0)
    first, last = (core.admit([1, 2, 3], greedy, None, tokens) for tokens in (1, 8))
    while not (first.finished and last.finished):
        core.advance(1)
    assert last.tuned[1][0] == last.stats.rounds
    first.release()
    last.release()
    aborted = core.admit([1, 2, 3] * 280, greedy, None, 40)  # too long for the draft
    core.advance(3)
    assert aborted.stats.rounds_ahead == 3
    seat = core.admit([1, 2, 3], greedy, None, 40)
    assert seat.number == last.number
    aborted.release()
    while not seat.finished:
        core.advance(1)
    drafted = [branches > 0 for _, _, _, branches, _, _ in seat.rounds()]
    assert [rounds for rounds, _ in seat.tuned] == [drafted.count(False), drafted.count(True)]


@pytest.mark.parametrize(("backend", "threads"), [("sim", 1), ("cpu", 1), ("cpu", 2)])
@pytest.mark.parametrize("draft", [AGREES, SOMETIMES, NEVER], ids=["agrees", "some", "never"])
def test_slices_and_backends_change_nothing(backend, threads, draft):
    core = make(
        draft, backend=backend, threads=threads, costs=costs() if backend == "sim" else None
    )
    for prompt in PROMPTS:
        sampling = _core.Sampling(temperature=0.7, seed=3)
        core.begin(prompt, sampling, POLICIES[0], 250)
        plain = core.run()
        core.begin(prompt, sampling, None, 250)
        found = []
        for turn in range(10_000):
            found += core.run(max_rounds=turn % 3, seconds=1e-5 if turn % 5 else 0.0)
            if core.seat(0).finished:
                break
        assert found == plain


def test_past_the_context_of_the_draft_it_goes_on_without():
    core = make({"max_positions": 128}, costs=costs())
    tokens, _ = play(core, None)
    assert tokens == play(core, POLICIES[0])[0]


def test_without_a_draft_it_chooses_from_what_needs_none():
    tuned = [arm.policy() for arm in ARMS if not arm.drafts]
    core = make(None, tuned=tuned, costs=costs())
    tokens, _ = play(core, None)
    assert tokens == play(core, tuned[0])[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_rounds_allocate_nothing(threads):
    core = make(SOMETIMES, backend="cpu", threads=threads)
    counts = {}
    for max_tokens in (300, 100, 300):
        core.begin([1, 2, 3], _core.Sampling(temperature=0), None, max_tokens)
        before = _core.allocation_count()
        core.run()
        counts[max_tokens] = _core.allocation_count() - before
    assert counts[100] == counts[300] == 0


def test_an_engine_that_cannot_choose_says_so():
    core = make(tuned=[])
    with pytest.raises(InvalidInputError, match="not built to choose"):
        core.begin([1], _core.Sampling(temperature=0), None, 5)
    with pytest.raises(InvalidInputError, match="plain decoding the first"):
        make(tuned=POLICIES[::-1], costs=costs())
    with pytest.raises(InvalidInputError, match="virtual time"):
        make(costs=costs()).measure(0.1)


@pytest.mark.parametrize("length", [2, 3, 4, 8, 64, 66, 129])
@pytest.mark.parametrize("draft", [SOMETIMES, None], ids=["draft", "no draft"])
def test_short_contexts_are_measured_and_generate_to_their_end(length, draft):
    tuned = [arm.policy() for arm in ARMS if draft or not arm.drafts]
    core = make(draft, backend="cpu", threads=2, tuned=tuned, max_model_len=length)
    sampling = _core.Sampling(temperature=0)
    for prompt in ([1], [1] * (length - 1)):
        core.begin(prompt, sampling, POLICIES[0], 1000)
        plain = core.run()
        core.begin(prompt, sampling, None, 1000)
        assert core.run() == plain
        assert len(plain) == length - len(prompt)


@pytest.mark.parametrize("target", [{}, {"nan_at": 130}], ids=["fine", "not a number"])
def test_what_was_measured_leaves_nothing_behind(target):
    core = make(SOMETIMES, target, backend="cpu")
    for _ in range(2):
        assert core.seat(0).rounds() == []
        assert (core.seat(0).stats.rounds, core.seat(0).stats.decode_ns) == (0, 0)
        assert core.seat(0).prefilled_tokens == 0
        assert (core.seat(0).finish_reason, core.seat(0).error) == (None, None)
        sampling = _core.Sampling(temperature=0)
        core.begin([1, 2, 3], sampling, None, 100)
        assert len(core.run()) == 100
        core.measure(0.0)


def test_a_context_without_end_takes_no_memory_before_it_is_used():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system has no /proc/self/statm")
    pages = int(statm.read_text().split()[1])
    length = 1 << 30
    endless = {"window": 70, "max_positions": length}
    core = make(AGREES | endless, endless, backend="cpu", max_model_len=length)
    core.begin([1, 2, 3], _core.Sampling(temperature=0), None, 50)
    assert len(core.run()) == 50
    grown = (int(statm.read_text().split()[1]) - pages) * resource.getpagesize()
    assert grown < length // 4


def test_measured_costs_never_fall_with_rows():
    found = make(backend="cpu").measure(0.02)
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
