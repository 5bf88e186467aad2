"""Compares the logits of the CPU's decoder with those of the ops that are recorded for a device."""

import numpy as np

from sbrt._core import LogitReader
from sbrt.gpu.lane import model_of

# Largest error, relative to the largest logit. Recorded norms, rope and attention add in another
# order than the CPU's decoder. If the last bit of a row differs, its quantised value may differ by
# one level.
TOLERANCE = 2e-3


def check_device(checkpoint, tokens=(5, 3, 77, 20, 9, 11, 250, 31)):
    """Check that ops recorded for a device give the CPU decoder's logits. Return the weights of the
    recorded model."""
    model = model_of(checkpoint, device="cpu")
    got, want = (
        LogitReader(one, 64, 1).forward(0, list(tokens))
        for one in (model, checkpoint.decoder("auto"))
    )
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= TOLERANCE, error
    assert np.array_equal(got.argmax(1), want.argmax(1))
    return model._weights
