"""Contract under test: the structs that the kernels read have the same layout as those of C++."""

import ctypes

import pytest
import torch

from sbrt import _core, _probe
from sbrt.reference import tree
from sbrt.triton_kernels import state


def test_every_offset_and_size_is_the_cores():
    for name, there in _probe.state_layout().items():
        struct, _, field = name.partition(".")
        kind = getattr(state, struct)
        field = {"lambda": "lambda_"}.get(field, field)  # `lambda` is a keyword of Python
        here = getattr(kind, field).offset if field else ctypes.sizeof(kind)
        assert here == there, name


def test_every_size_is_the_cores():
    there = {
        "SLOTS": _core.SLOTS,
        "MAX_ROWS": _core.TARGET_ROWS,
        "MAX_STEP_ROWS": _core.MAX_ROWS,
        "MAX_BRANCHES": _core.MAX_BRANCHES,
        "MAX_TAIL": _core.MAX_TAIL,
        "CANDIDATES": _core.CANDIDATES,
    }
    assert {name: getattr(state, name) for name in there} == there
    assert tree.SLOTS == _core.SLOTS == _core.MAX_CHAIN + 1  # sbrt.reference has its own constant


def test_every_struct_is_held_to_the_core():
    assert {kind.__name__ for kind in state.STRUCTS} <= set(_probe.state_layout())


def test_a_struct_goes_to_words_and_back():
    block = state.Sequence(head=2**40 + 5)
    block.chain.token[63] = -7
    tensor = state.words(block)
    back = state.struct(state.Sequence, tensor)
    assert bytes(back) == bytes(block)
    assert tensor[state.offset(state.Sequence, "chain", "token") + 63] == -7


def test_a_view_shares_the_words_of_a_field():
    scratch = state.DraftScratch()
    scratch.batch.row[511].chain = state.mask_of(2**63 | 5)
    tensor = state.words(scratch)
    view = state.view(tensor, state.DraftScratch, "batch")
    rows = state.struct(state.Batch, view)
    assert state.mask_bits(rows.row[511].chain) == 2**63 | 5
    view[state.offset(state.Batch, "n")] = 7
    assert state.struct(state.DraftScratch, tensor).batch.n == 7


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(8), "expected contiguous int32 words but got torch.float32"),
        (torch.zeros(2, 8, dtype=torch.int32), "expected contiguous int32 words"),
        (torch.zeros(7, dtype=torch.int32), "expected 8 words but got 7"),
    ],
    ids=["dtype", "shape", "short"],
)
def test_words_that_cannot_be(tensor, sentence):
    with pytest.raises(ValueError, match=f"block: {sentence}"):
        state.check_words("block", tensor, state.Sampling)
