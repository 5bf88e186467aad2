"""Contract under test: the structs of csrc/state are the only table of fields. The files generated
from them are up to date. A field whose type has no fixed size is refused."""

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "state_fields.py"))


def test_what_is_made_of_the_structs_is_in_the_tree():
    for path, text in TOOL["texts"]().items():
        assert path.read_text() == text, f"{path.name}: run `python tools/state_fields.py`"


def read(body):
    return TOOL["read_struct"]("Made", body, {"Row"}, {"Cut"})


def test_a_struct_is_read_field_by_field():
    made = read(
        """
  SBRT_PART(chain)
  int64_t first;  // bytes; not a field
  const float *second;
  SBRT_PART(outcome)
  float lambda, theta;
  Row row[kMaxRows + 1];
  List<int32_t> words;
  Cut cut;
  int sum(int a) const { return Row{a}.n + 1; }
""".replace("float *", "float* ")
    )
    assert made.fields == [
        ("first", "c_int64", ""),
        ("second", "c_void_p", ""),
        ("lambda", "c_float", ""),
        ("theta", "c_float", ""),
        ("row", "Row", "MAX_ROWS + 1"),
        ("words", "List", ""),
        ("cut", "c_int32", ""),
    ]
    assert made.parts == [("first", "chain"), ("lambda", "outcome")]


@pytest.mark.parametrize("body", ["int n;", "std::string name;", "bool is_on;", "size_t n;"])
def test_a_type_without_a_fixed_size_is_refused(body):
    with pytest.raises(ValueError, match="csrc/state"):
        read(body)
