"""Contract under test: the interpreter's `tl.dot` (`fixed_sums` in tests/conftest.py) adds a row's
products in ascending k. So its bits are the same on every processor and with every BLAS."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sbrt.triton_kernels.words import interpreting

M, N, K = 16, 32, 64

pytestmark = pytest.mark.skipif(not interpreting(), reason="kernels run on a device here")


@triton.jit
def _dot_kernel(X, Y, Acc, Out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N), tl.arange(0, K)
    x = tl.load(X + m * K + k[None, :])
    y = tl.load(Y + k[:, None] * N + n[None, :])
    acc = tl.load(Acc + m * N + n[None, :])
    tl.store(Out + m * N + n[None, :], tl.dot(x, y, acc, input_precision="ieee"))


def dot(x, y, acc):
    """Return x [m, k] @ y [k, n] + acc [m, n] by the kernel, in float32."""
    given = [torch.from_numpy(np.ascontiguousarray(t)) for t in (x, y, acc)]
    out = torch.full(acc.shape, float("nan"))
    _dot_kernel[(1,)](*given, out, M=x.shape[0], N=y.shape[1], K=x.shape[1])
    return out.numpy()


@pytest.fixture
def operands():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s, np.float32) for s in ((M, K), (K, N), (M, N))]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_are_added_in_ascending_k(operands, dtype):
    x, y, acc = operands
    x, y = x.astype(dtype), y.astype(dtype)
    want = np.zeros((M, N), np.float32)
    for m in range(M):
        for n in range(N):
            for k in range(K):
                want[m, n] += np.float32(x[m, k]) * np.float32(y[k, n])
    assert np.array_equal(dot(x, y, acc), want + acc)


def test_a_row_has_the_same_bits_whatever_the_others(operands):
    x, y, acc = operands
    want = dot(x, y, acc)
    for rows in (1, 2, 4, 8):
        assert np.array_equal(dot(x[:rows], y, acc[:rows]), want[:rows])
    assert np.array_equal(dot(x[::-1], y, acc[::-1]), want[::-1])


def test_a_nan_row_stays_alone(operands):
    x, y, acc = operands
    want = dot(x, y, acc)
    x[3] = np.nan
    got = dot(x, y, acc)
    assert np.isnan(got[3]).all()
    assert np.array_equal(np.delete(got, 3, 0), np.delete(want, 3, 0))
