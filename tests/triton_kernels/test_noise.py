"""Contract under test: the kernels' random bits, noise and exponential equal those of the CPU."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sbrt import _probe, reference
from sbrt.triton_kernels.noise import (
    exp32,
    exp32_torch,
    gumbel32,
    gumbel64,
    gumbel_torch,
    noise_words,
    noise_words_torch,
    philox_torch,
)

POSITIONS = (0, 1, 77, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 3)
EDGES = (0, 1, 2, 3, 2**16, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2**16, 2**32 - 2, 2**32 - 1)


@triton.jit
def _words_kernel(Out, seed, completion, Position, GROUPS: tl.constexpr):
    group = tl.arange(0, GROUPS).to(tl.uint32)
    position = tl.load(Position)
    w0, w1, w2, w3 = noise_words(seed, tl.load(completion).to(tl.uint32), position, group)
    o = tl.arange(0, GROUPS)
    tl.store(Out + 4 * o, w0.to(tl.int64))
    tl.store(Out + 4 * o + 1, w1.to(tl.int64))
    tl.store(Out + 4 * o + 2, w2.to(tl.int64))
    tl.store(Out + 4 * o + 3, w3.to(tl.int64))


@triton.jit
def _noise_kernel(Words, Wide, Narrow, X, Exp, N: tl.constexpr):
    o = tl.arange(0, N)
    words = tl.load(Words + o).to(tl.uint32)
    tl.store(Wide + o, gumbel64(words))
    tl.store(Narrow + o, gumbel32(words))
    tl.store(Exp + o, exp32(tl.load(X + o)))


def kernel_words(seed, completion, position, groups, device):
    out = torch.zeros(4 * groups, dtype=torch.int64, device=device)
    integer = {"dtype": torch.int64, "device": device}
    where, which = torch.tensor([position], **integer), torch.tensor([completion], **integer)
    _words_kernel[(1,)](out, seed, which, where, GROUPS=groups)
    return out.cpu()


@pytest.mark.parametrize("position", POSITIONS)
def test_the_words_are_the_cpus(device, position):
    for seed, completion in ((0, 0), (2**63 + 12345, 7), (2**64 - 1, 2**32 - 1), (2**32, 1)):
        got = kernel_words(seed, completion, position, 16, device)
        twin = noise_words_torch(seed, completion, position, torch.arange(64))
        counter = (position & 0xFFFFFFFF, position >> 32, completion)
        key = (seed & 0xFFFFFFFF, seed >> 32)
        cpu = [word for group in range(16) for word in _probe.philox((group, *counter), *key)]
        assert twin.tolist() == cpu
        assert got.tolist() == cpu


def test_published_vectors():
    """The words equal the known answers that the library Random123 publishes."""
    ones = torch.tensor([0xFFFFFFFF])
    got = philox_torch([ones] * 4, 2**64 - 1)
    assert [int(w) for w in got] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_noise_and_exponential(device):
    rng = np.random.default_rng(0)
    words = torch.tensor([*EDGES, *rng.integers(2**32, size=4096 - len(EDGES))])
    x = -torch.rand(4096, generator=torch.Generator().manual_seed(0)) * 100
    x[:4] = torch.tensor([0.0, -87.0, -87.01, -0.34657])
    wide = torch.zeros(4096, dtype=torch.float64, device=device)
    narrow, exp = torch.zeros(4096, device=device), torch.zeros(4096, device=device)
    _noise_kernel[(1,)](
        words.to(device), wide, narrow, x.to(device), exp, N=4096, enable_fp_fusion=False
    )
    u = (words.numpy().astype(np.float64) + 0.5) * 2.0**-32
    exact = torch.from_numpy(-np.log(-np.log(u)))
    torch.testing.assert_close(wide.cpu(), exact, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gumbel_torch(words), exact, rtol=1e-14, atol=1e-14)
    assert (narrow.cpu().double() - exact).abs().max() < 4e-6
    assert torch.equal(exp.cpu(), exp32_torch(x))
    assert (exp.cpu().double() - x.double().exp()).abs().max() < 2e-7


def test_the_noise_of_the_reference():
    sampling = reference.Sampling(temperature=1.0, seed=123, completion=4)
    want = torch.from_numpy(reference.gumbel_noise(sampling, 99, 1, 50)[0])
    got = gumbel_torch(noise_words_torch(123, 4, 99, torch.arange(50)))
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
