"""Without a GPU the kernels run in Triton's interpreter (tests/conftest.py chooses it)."""

import pytest
import torch


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
