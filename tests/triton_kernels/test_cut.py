"""Contract under test: find_cut keeps exactly the tokens that the CPU's filters keep, and writes
the same words as its twin. The rows are hard cases for digits of keys, for ties or for sums."""

import numpy as np
import pytest
import torch

from sbrt import _core, _probe
from sbrt.reference.toy import exp32
from sbrt.triton_kernels import state
from sbrt.triton_kernels.cut import ALL_IDS, find_cut, find_cut_torch
from sbrt.triton_kernels.radix import cut_work

VOCAB, CHUNK = 300, 256  # two programs process a row
ALMOST_1 = float(np.nextafter(np.float32(1), np.float32(0)))


def made(fill):
    return np.asarray(fill, np.float32)


def rows(rng):
    """Return rows of VOCAB logits that are hard because of digits, ties, masks or sums."""
    masked = np.where(rng.random(VOCAB) < 0.9, -np.inf, rng.normal(size=VOCAB))
    lonely = np.full(VOCAB, -np.inf)
    lonely[[17, 290]] = [-3e38, -2e38]
    tied = rng.integers(-3, 3, size=VOCAB) / 2
    across = np.full(VOCAB, -4.0)  # five equal largest logits, some in each chunk
    across[[5, 127, 255, 256, 299]] = 2.0
    steps = 1 + rng.integers(0, 5, size=VOCAB) * np.float32(2**-23)  # keys that share two digits
    wide = rng.choice([-3.4e38, -1e30, -88.0, -86.9, -0.0, 0.0, 1e-40, 3e38], size=VOCAB)
    return np.stack([
        made(rng.normal(scale=3, size=VOCAB)), made(np.full(VOCAB, -7.25)), made(masked),
        made(lonely), made(tied), made(across), made(-30 * steps), made(100 * steps), made(wide),
        made(np.arange(VOCAB) / 8),
    ])  # fmt: skip


SAMPLINGS = [
    {"top_k": 1},
    {"top_k": VOCAB, "temperature": 0.3},
    {"top_k": 40, "top_p": 0.5},
    {"top_k": 5, "top_p": 0.999, "min_p": 0.01},
    {"top_k": VOCAB + 1, "top_p": 0.0},
    {"top_p": 1 / 3, "temperature": 2.0},
    {"top_p": ALMOST_1, "temperature": 1e4, "min_p": 1e-6},
    {"min_p": 0.1},
]


def sampling_words(sampling, device):
    block = state.Sampling(**{"temperature": 1.0, "top_p": 1.0} | sampling)
    return state.words(block, device)


def by(op, logits, sampling, device, n=None):
    """Return the words that `op` writes for the rows of logits. n: number of rows in the Batch;
    None: all."""
    table = state.words(state.Batch(n=len(logits) if n is None else n), device)
    work = cut_work(len(logits), -(-logits.shape[1] // CHUNK), device)
    out = torch.full((len(logits), 4), 77, dtype=torch.int32, device=device)
    wide = torch.full((len(logits), logits.shape[1] + 3), float("nan"), device=device)
    given = wide[:, : logits.shape[1]].copy_(torch.from_numpy(logits))
    with np.errstate(over="ignore"):  # the interpreter overflows for logits that are far apart
        op(given, sampling_words(sampling, device), table, work=work, out=out, chunk=CHUNK)
    for name in ("tokens", "units", "counters"):
        assert not getattr(work, name).any(), f"{name}: not set back"
    return out.cpu()


def left_by(words, row, sampling):
    """Return the ids that a cut (`words`) keeps in a row, read as `choose` reads the cut."""
    most, last = words[:2].view(torch.float32).numpy()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weight = exp32((row - most) / np.float32(sampling.get("temperature", 1.0)))
    kept = (row > last) | ((row == last) & (np.arange(len(row)) <= int(words[2])))
    return np.flatnonzero(kept & (weight >= np.float32(sampling.get("min_p", 0))) & (row > -np.inf))


def check(logits, sampling, device):
    got, twin = (by(op, logits, sampling, device) for op in (find_cut, find_cut_torch))
    for i, row in enumerate(logits):
        given = _core.Sampling(**{"temperature": 1.0} | sampling)
        expected = _probe.filter_probe(row, given, "portable")
        for words in (got[i], twin[i]):
            assert left_by(words, row, sampling).tolist() == expected, (i, sampling)
        assert got[i].tolist() == twin[i].tolist(), (i, sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_leaves_what_the_cpu_leaves(device, sampling):
    check(rows(np.random.default_rng(3)), sampling, device)


def test_a_sum_that_is_just_enough(device):
    """All n = 256 tokens have weight 1. At top_p = i / n, the first i tokens reach top_p exactly.
    The next larger float32 needs one token more."""
    row = np.full((1, 256), 2.5, np.float32)
    for i in (1, 64, 255):
        for p in (i / 256, float(np.nextafter(np.float32(i / 256), np.float32(2)))):
            check(row, {"top_p": p}, device)


def test_no_place_in_the_row_changes_what_is_left(device):
    """One unit decides whether the largest of many weights reaches top_p alone. The order of the
    tokens in the row must not matter."""
    rng = np.random.default_rng(8)
    x = np.append(rng.uniform(-25, -6, size=200).astype(np.float32), 0)
    # p: the probability of the largest token, computed from weights in units of 2^-40.
    units = np.rint(exp32(x).astype(np.float64) * 2**40).astype(np.int64)
    p = np.float32(2**40 / units.sum())
    kept = set()
    for _ in range(3):
        row = rng.permutation(x)
        for near in (np.nextafter(p, np.float32(0)), p, np.nextafter(p, np.float32(1))):
            check(row[None], {"top_p": float(near)}, device)
            words = by(find_cut, row[None], {"top_p": float(near)}, device)[0]
            kept.add((float(near), tuple(sorted(row[left_by(words, row, {})]))))
    assert len(kept) == 3  # one set of kept logits for each p


@pytest.mark.parametrize("op", [find_cut, find_cut_torch], ids=["kernel", "twin"])
def test_rows_that_are_no_dist_lose_nothing(device, op):
    """Rows with NaN, +inf or only -inf are not filtered, because `choose` reports them as errors.
    At temperature 0 no row is filtered."""
    logits = rows(np.random.default_rng(4))[:4]
    logits[0, 200], logits[1, 3], logits[2] = np.nan, np.inf, -np.inf
    nothing = [int(np.float32(-np.inf).view(np.int32)), ALL_IDS]
    got = by(op, logits, {"top_k": 5, "top_p": 0.5}, device)
    assert got[:3, 1:3].tolist() == [nothing] * 3
    assert by(op, logits, {"temperature": 0.0, "top_k": 5}, device)[3, 1:3].tolist() == nothing


@pytest.mark.parametrize("op", [find_cut, find_cut_torch], ids=["kernel", "twin"])
def test_padding_is_not_written(device, op):
    got = by(op, rows(np.random.default_rng(5))[:3], {"top_k": 5}, device, n=2)
    assert got[2].tolist() == [77] * 4
    assert got[0].tolist() != [77] * 4


@pytest.mark.exact
def test_a_long_run_of_random_rows(device):
    rng = np.random.default_rng(11)
    for _ in range(150):
        sampling = {"temperature": float(rng.choice([0.3, 0.8, 1.0, 2.0, 1e4]))}
        sampling["top_k"] = int(rng.choice([0, 0, 1, 2, 40, 150, 299, 300, 301]))
        sampling["top_p"] = float(rng.choice([1.0, 0.0, 0.1, 0.5, 0.9, 0.999, ALMOST_1]))
        sampling["min_p"] = float(rng.choice([0.0, 0.0, 1e-6, 0.05, 1.0]))
        check(rows(rng), sampling, device)
