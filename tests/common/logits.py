"""Compares the logits of the CPU's decoder with those of the recordings for a device."""

import numpy as np

from sbrt._core import LogitReader
from sbrt.gpu.lane import model_of

# Largest error, relative to the largest logit. In recordings norms, rope and attention add in other
# orders than on the CPU. A different last bit may move a value of a quantised row by one level.
TOLERANCE = 2e-3


def check_device(checkpoint, tokens=(5, 3, 77, 20, 9, 11, 250, 31)):
    """Check that recordings for a device give the CPU's logits. Return the recordings' weights."""
    model = model_of(checkpoint, device="cpu")
    got, want = (
        LogitReader(one, 64, 1).forward(0, list(tokens))
        for one in (model, checkpoint.decoder("auto"))
    )
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= TOLERANCE, error
    assert np.array_equal(got.argmax(1), want.argmax(1))
    return model._weights
