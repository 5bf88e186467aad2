"""Contract under test: choose gives the same tokens as the CPU's sampling pass, greedy or sampled,
with shaped or filtered logits. It also writes the same distributions for a draft. If the best two
scores of a row differ by less than the logarithm's rounding, the row is a near-tie. Near-ties are
counted separately."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.ban import flat_words
from sbrt.triton_kernels.choose import choose, choose_torch
from sbrt.triton_kernels.choose_plan import ChoosePlan, choose_work
from sbrt.triton_kernels.shaping import (
    path_of,
    shape_logits,
    shape_logits_torch,
)
from tests.triton_kernels.choice import MANY_WORDS, POSITIONS, Case

ROUNDING = 1e-13  # bound for the rounding errors of two float64 logarithms and of a sum with them


def compare(case, seen, op=choose, chunk=256):
    got, work = case.by(op, chunk=chunk)
    for i, (here, there) in enumerate(zip(got, case.by_cpu(), strict=True)):
        seen["rows"] += 1
        if (here.token, here.error) == (there.token, there.error):
            seen["errors"] += there.error != 0
            continue
        gap = case.gap(work, i)
        assert op is choose, (i, here.token, there.token)
        assert 0 < gap < ROUNDING, (i, here.token, there.token)
        seen["near-ties"] += 1


KINDS = [("greedy", False), ("plain", False), ("filtered", False)]
KINDS += [("greedy", True), ("plain", True), ("filtered", True)]


@pytest.mark.parametrize(("kind", "shaped"), KINDS)
def test_takes_what_the_cpu_takes(device, kind, shaped):
    seen = Counter()
    case = Case(0, 7, 595, kind=kind, shaped=shaped, device=device)
    compare(case, seen)
    compare(case, Counter(), choose_torch)
    assert seen["rows"] == 7
    assert seen["near-ties"] == 0, seen


@pytest.mark.parametrize("rows", [5, pytest.param(12, marks=pytest.mark.exact)])
@pytest.mark.parametrize("op", [shape_logits, shape_logits_torch], ids=["kernel", "twin"])
def test_bad_words_are_masked_where_their_beginning_stands(device, op, rows):
    """Bad words begin in the trunk or after the trunk, or span both. The masked tokens must be
    those that a search in the tokens of each row finds."""
    banned = 0
    for seed, head in enumerate((0, 1, 3, 77)):
        words = 0 if seed else MANY_WORDS
        case = Case(
            seed, rows, 150, kind="plain", shaped=True, device=device, heads=[head], words=words
        )
        args = (torch.from_numpy(case.logits).to(device), state.words(case.block, device))
        args = (*args, state.words(case.table, device))
        without = replace(case.shaping, words=None, trunk=None)
        before, after = (
            op(*args, shaping, out=torch.zeros(rows, 150, device=device)).cpu()
            for shaping in (without, case.shaping)
        )
        for i, row in enumerate(list(case.table.row)[:rows]):
            trunk = case.shaping.trunk[0, : head + 1].tolist()
            tokens = [*trunk, *path_of(case.block, case.table.head[0], row)]
            last = {
                w[-1] for w in case.words if tokens[max(0, len(tokens) - len(w) + 1) :] == w[:-1]
            }
            expected = before[i].clone()
            expected[sorted(last)] = float("-inf")
            assert torch.equal(after[i].nan_to_num(7), expected.nan_to_num(7)), (seed, i)
            banned += int((before[i] != expected).nansum() > 0)
    assert banned > 20 * rows // 12


WORD_CASES = [("greedy", 77), ("plain", 0), ("filtered", 2)]
MORE_WORD_CASES = sorted(set(product(("greedy", "plain", "filtered"), (0, 2, 77))) - {*WORD_CASES})


@pytest.mark.parametrize(
    ("kind", "head"),
    [*WORD_CASES, *(pytest.param(*case, marks=pytest.mark.exact) for case in MORE_WORD_CASES)],
)
def test_bad_words_of_the_cpu(device, kind, head):
    """The CPU's sampling pass gets the same bad words as a list, and must give the same tokens."""
    seen, words = Counter(), 0 if head else MANY_WORDS
    case = Case(70 + head, 4, 200, kind=kind, shaped=True, device=device, heads=[head], words=words)
    compare(case, seen)
    compare(case, Counter(), choose_torch)
    assert seen["near-ties"] == 0, seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([[1, 2]] * 3, "words: expected at most 11 numbers but got 12"),
        ([[1], []], "words: expected at least one token but got none"),
    ],
    ids=["many", "empty"],
)
def test_words_that_have_no_room(words, said):
    with pytest.raises(ValueError, match=said):
        flat_words(words, 11)


# Cases of 34 rows per kind, 10,200 rows in all. Kinds that the interpreter runs slowly have fewer
# cases.
CASES = [100, 100, 40, 20, 20, 20]


@pytest.mark.exact
@pytest.mark.parametrize(
    ("kind", "shaped", "cases"), [(*k, n) for k, n in zip(KINDS, CASES, strict=True)]
)
def test_takes_what_the_cpu_takes_ten_thousand_times(device, kind, shaped, cases):
    seen = Counter()
    for seed in range(1000, 1000 + cases):
        vocab = int(np.random.default_rng(seed).integers(2, 600))
        case = Case(seed, 34, vocab, kind=kind, shaped=shaped, device=device)
        compare(case, seen)
    print(kind, shaped, dict(seen))  # pytest -s shows the number of near-ties
    assert seen["rows"] == 34 * cases


def test_a_large_vocabulary_in_chunks_of_the_default(device):
    seen = Counter()
    for seed, kind in enumerate(("greedy", "plain", "filtered")):
        case = Case(seed, 1, 20_011, kind=kind, device=device)
        compare(case, seen, chunk=4096)
    assert seen["near-ties"] == 0


def close(a, b, allowed=1e-5):
    return abs(a - b) <= allowed * max(1, abs(b))


DIST_KINDS = [k for k in KINDS if k[0] != "filtered"]


@pytest.mark.parametrize("trims", [False, True], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize(("kind", "shaped"), DIST_KINDS)
@pytest.mark.parametrize("op", [choose, choose_torch], ids=["kernel", "twin"])
def test_keeps_the_dist_that_the_cpu_keeps(device, op, kind, shaped, trims):
    """The Dist must be that of the CPU, with a full and with a trimmed LM head. With a trimmed
    head, noise, masks, bad words and penalties belong to tokens, not to columns."""
    for seed in range(1):
        heads = [77] if trims else POSITIONS
        case = Case(
            40 + seed, 5, 300 + seed * 13, kind=kind, shaped=shaped, device=device, heads=heads
        )
        if trims:
            case.trim()
        got, _ = case.by(op, dists=True)
        for i, (here, there) in enumerate(zip(got, case.by_cpu(dists=True), strict=True)):
            n = there.n
            assert here.n == n, i
            if n == 0:
                continue
            assert here.token[:n] == there.token[:n], i
            assert close(here.q, there.q), (i, here.q, there.q)
            assert close(here.entropy, there.entropy), (i, here.entropy, there.entropy)
            for a, b in zip(here.lp[:n], there.lp[:n], strict=True):
                assert close(a, b, 2e-5), (i, list(here.lp[:n]), list(there.lp[:n]))


@pytest.mark.parametrize("op", [choose, choose_torch], ids=["kernel", "twin"])
def test_a_filtered_dist_of_some_tokens(device, op):
    """A row of a trimmed LM head must give the same candidates as a full row in which the absent
    tokens are masked."""
    case = Case(60, 5, 300, kind="filtered", device=device)
    some = Case(60, 5, 300, kind="filtered", device=device).trim()
    absent = np.setdiff1d(np.arange(300), some.ids)
    case.logits[:, absent] = -np.inf
    whole, trimmed = (each.by(op, dists=True, chunk=512)[0] for each in (case, some))
    for i, (want, got) in enumerate(zip(whole, trimmed, strict=True)):
        assert got.token[: got.n] == want.token[: want.n], i
    assert sum(sampling.n for sampling in trimmed) > 0


FILTERS = [{"top_k": 3}, {"top_k": 40, "top_p": 0.9}, {"top_p": 0.3, "min_p": 0.05}, {"min_p": 1.0}]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("shaped", [False, True], ids=["plain", "shaped"])
def test_a_filtered_dist_loses_nothing_that_the_filters_leave(device, shaped, filters):
    """The kernel must keep every candidate that the CPU's filters keep, in the same order.

    It may drop fewer tokens than the CPU. It must drop the same tokens as its twin.
    """
    case = Case(60, 5, 300, kind="filtered", shaped=shaped, device=device)
    sampling = case.block.sampling
    sampling.temperature = 1.0
    sampling.top_k, sampling.top_p, sampling.min_p = 0, 1.0, 0.0
    first = [list(dist.token[: dist.n]) for dist in case.by_cpu(dists=True)]
    for name, value in filters.items():
        setattr(sampling, name, value)
    exact = [list(dist.token[: dist.n]) for dist in case.by_cpu(dists=True)]
    got, twin = (case.by(op, dists=True)[0] for op in (choose, choose_torch))
    dropped = 0
    for i, sampling in enumerate(got):
        kept = list(sampling.token[: sampling.n])
        assert kept == [t for t in first[i] if t in kept], i
        assert [t for t in first[i] if t in exact[i]] == [t for t in kept if t in exact[i]], i
        assert kept == list(twin[i].token[: twin[i].n]), i
        assert all(
            close(a, b, 2e-5)
            for a, b in zip(sampling.lp[: sampling.n], twin[i].lp[: sampling.n], strict=True)
        )  # fmt: skip
        dropped += len(first[i]) - len(kept)
    assert dropped > 0


def test_padding_is_not_written(device):
    case = Case(3, 4, 50, kind="plain", device=device)
    case.table.n = 2
    got, _ = case.by(choose)
    assert [(c.token, c.error) for c in got[2:]] == [(77, 77)] * 2


def test_half_precision_logits_choose_as_their_float32(device):
    """Logits in either 16-bit dtype must give the same result as the same values in float32."""
    case = Case(5, 6, 300, kind="plain", device=device)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = torch.from_numpy(case.logits).to(dtype)
        case.logits = rounded.float().numpy()
        plan = ChoosePlan(6, 300, chunk=256)
        out = torch.zeros(6, 2, dtype=torch.int32, device=device)
        words = (state.words(case.block, device), state.words(case.table, device))
        choose(rounded.to(device), *words, plan=plan, work=choose_work(plan, device), out=out)
        assert out.tolist() == [[c.token, c.error] for c in case.by_cpu()]


DISTS_OF_SOME = ChoosePlan(2, 40, dists=True, trimmed=True)


def call(op, **changes):
    plan = changes.pop("plan", ChoosePlan(2, 40, chunk=32))
    given = {"logits": torch.zeros(2, 40), "out": torch.zeros(2, 2, dtype=torch.int32)}
    given |= {"sequence": state.words(state.Sequence()), "shaping": None} | changes
    given |= {"table": state.words(state.Batch())}
    op(
        *(given[name] for name in ("logits", "sequence", "table")),
        plan=plan,
        work=choose_work(plan, "cpu"),
        out=given["out"],
        shaping=given["shaping"],
        ids=given.get("ids"),
    )


@pytest.mark.parametrize("op", [choose, choose_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logits": torch.zeros(2, 41)}, r"logits: expected contiguous rows \(2, 40\)"),
        ({"logits": torch.zeros(2, 80)[:, ::2]}, "logits: expected contiguous rows"),
        ({"out": torch.zeros(2, 3, dtype=torch.int32)}, r"out: expected contiguous int32 \(2, 2\)"),
        ({"out": torch.zeros(2, 2)}, "out: expected contiguous int32"),
        (
            {"sequence": torch.zeros(9, dtype=torch.int32)},
            f"sequence: expected {state.size(state.Sequence)} words but got 9",
        ),
        ({"plan": ChoosePlan(2, 40, shaped=True)}, "shaping: expected it with plan.shaped alone"),
        ({"ids": torch.arange(40).int()}, "ids: expected them with plan.trimmed alone"),
        (
            {
                "plan": DISTS_OF_SOME,
                "out": torch.zeros(2, DISTS_OF_SOME.out_words, dtype=torch.int32),
                "ids": torch.arange(39).int(),
            },
            r"ids: expected torch.int32 \(40,\)",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(op, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(op, **changes)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [((0, 5), "plan: expected rows"), ((1, 2**20 + 1), "plan: expected rows and a vocabulary")],
)
def test_a_plan_that_cannot_be(sizes, sentence):
    with pytest.raises(ValueError, match="trimmed: expected it of dists alone"):
        ChoosePlan(2, 5, trimmed=True)
    with pytest.raises(ValueError, match=sentence):
        ChoosePlan(*sizes)
    with pytest.raises(
        ValueError, match="chunk: expected a power of two from 32 to 16384 but got 5"
    ):
        ChoosePlan(1, 5, chunk=5)
