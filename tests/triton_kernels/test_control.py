"""Contract under test: the control block of the kernels is that of the C++, word for word."""

import ctypes

import pytest
import torch

from sbrt import _core
from sbrt.reference import tree
from sbrt.triton_kernels import control, words


def test_every_offset_and_size_is_the_cores():
    for name, there in _core.control_layout().items():
        struct, _, field = name.partition(".")
        kind = getattr(control, struct)
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
    assert {name: getattr(control, name) for name in there} == there
    assert tree.SLOTS == _core.SLOTS == _core.MAX_CHAIN + 1  # the reference has its own


def test_every_struct_is_held_to_the_core():
    assert {kind.__name__ for kind in control.STRUCTS} <= set(_core.control_layout())


def test_the_words_of_a_row_are_where_the_kernels_look():
    there = {
        "TABLE_N": control.offset(control.RowTable, "n"),
        "TABLE_ROWS": control.offset(control.RowTable, "row"),
        "ROW_WORDS": control.size(control.Row),
        **{
            f"ROW_{name.upper()}": control.offset(control.Row, name)
            for name in ("token", "slot", "branch", "chain", "tail")
        },
    }
    assert {name: getattr(words, name).value for name in there} == there


def test_a_struct_goes_to_words_and_back():
    block = control.Control(head=2**40 + 5)
    block.draft_rows.row[511].chain = control.mask_of(2**63 | 5)
    block.chain.token[63] = -7
    tensor = control.words(block)
    back = control.struct(control.Control, tensor)
    assert bytes(back) == bytes(block)
    assert tensor[control.offset(control.Control, "chain", "token") + 63] == -7
    rows = control.struct(control.RowTable, control.view(tensor, "draft_rows"))
    assert control.mask_bits(rows.row[511].chain) == 2**63 | 5


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
        control.check_words("block", tensor, control.Sampling)
