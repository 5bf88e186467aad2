"""Contract under test: csrc/exec/backends.h lists what each backend can do, and the imitation of a
device can do what the device can. No code outside csrc/exec asks which backend it has."""

import re
from pathlib import Path

import pytest

from sbrt import InvalidInputError, _core

CSRC = Path(__file__).parents[2] / "csrc"


def test_an_imitation_can_do_what_it_imitates():
    names = [name for name in vars(_core.Capabilities) if not name.startswith("_")]
    assert len(names) > 3
    real, imitation = _core.capabilities("cuda"), _core.capabilities("dry_cuda")
    assert [getattr(imitation, n) for n in names] == [getattr(real, n) for n in names]


def test_another_name_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"^backend: expected cpu, sim, dry, dry_cuda or cuda"
    ):
        _core.capabilities("gpu")


def test_only_exec_asks_which_backend_it_is():
    texts = {
        path: path.read_text()
        for path in CSRC.rglob("*.*")
        if "exec" not in path.relative_to(CSRC).parts
    }
    assert len(texts) > 100
    assert [p for p, text in texts.items() if re.search(r"\bis_(on_)?device\b", text)] == []
