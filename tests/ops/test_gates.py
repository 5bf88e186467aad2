"""Contract under test: on every instruction set, the gates of an MLP are silu and the tanh form of
gelu. Their error is at most that of rounding the argument of exp. They do not hide a NaN."""

import numpy as np
import pytest

from sbrt import _core, _probe

UNIT = 2.0**-23
# Allowed relative error. exp itself has an error of 3e-9. Its argument may be as large as 88, and
# is rounded by one unit in the last place of 88.
RELATIVE = 100 * UNIT


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


GATES = {"silu": silu, "gelu": gelu}


@pytest.mark.parametrize("isa", _core.instruction_sets())
@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("n", [1, 16, 37])
def test_a_gate(isa, name, n):
    rng = np.random.default_rng(0)
    gates = np.concatenate([np.linspace(-12, 12, 40 * n), rng.standard_normal(20 * n) * 0.01])
    gates = gates.astype(np.float32).reshape(-1, n)
    up = rng.standard_normal(gates.shape).astype(np.float32)
    given = _probe.gate_probe(np.concatenate([gates, up], axis=1), name, isa)
    expected = GATES[name](gates.astype(np.float64)) * up
    # For very negative gates, 1 + tanh cancels even in double. So a small absolute error is
    # allowed.
    allowed = RELATIVE * np.abs(expected) + 1e-12
    at = np.unravel_index(np.argmax(np.abs(given - expected) / allowed), expected.shape)
    assert (np.abs(given - expected) <= allowed).all(), (at, gates[at], given[at], expected[at])


@pytest.mark.parametrize("isa", _core.instruction_sets())
@pytest.mark.parametrize("name", GATES)
def test_ends(isa, name):
    """Large positive gates must return the gate itself, and large negative gates nearly 0. No gate
    may overflow. NaN and infinity must stay."""
    gates = np.array([[0, -0.0, 1e4, -1e4, 3e38, -3e38, np.nan, np.inf]], np.float32)
    given = _probe.gate_probe(np.concatenate([gates, np.ones_like(gates)], axis=1), name, isa)[0]
    assert (given[:2] == 0).all()
    assert given[2] == gates[0, 2]
    assert given[4] == gates[0, 4]
    assert abs(given[3]) < 1e-30
    assert abs(given[5]) < 10
    assert np.isnan(given[6])
    assert given[7] == np.inf
