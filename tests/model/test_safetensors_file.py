"""Contract under test: a safetensors header that ends beyond its file is refused. Values are
rounded to the nearest bfloat16, ties to even."""

import struct

import numpy as np
import pytest

from sbrt import InvalidInputError
from sbrt.model.safetensors_file import bfloat16, open_file


@pytest.mark.parametrize("beyond", [1, 8])
def test_a_header_that_ends_beyond_the_file_is_refused(tmp_path, beyond):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2 + beyond) + b"{}")
    with pytest.raises(InvalidInputError, match=f"at most 2 bytes, got {2 + beyond}"):
        open_file(path)


def test_a_number_half_way_between_two_of_bfloat16_goes_to_the_even_one():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF], "<u4")
    assert bfloat16(bits.view("<f4")).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F81]
