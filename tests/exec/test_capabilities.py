"""Contract under test: the core refuses in one sentence what a backend cannot do, according to
csrc/exec/backends.h. No other room asks which backend it has."""

import re
from pathlib import Path

import pytest

from sbrt import InvalidInputError, _core

CSRC = Path(__file__).parents[2] / "csrc"
# Capability -> fields of a RuntimeConfig that need it.
NEEDED_BY = {
    "reuses_prefixes": {"reuses_prefixes": True},
}
BACKENDS = ("cpu", "sim", "dry", "dry_cuda", "cuda")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NEEDED_BY)
def test_what_a_backend_cannot_do_is_refused(backend, name):
    can, toy = _core.capabilities(backend), _core.Toy(vocab=32)
    config = _core.RuntimeConfig(backend=backend, max_model_len=100, **NEEDED_BY[name])
    if not getattr(can, name):
        with pytest.raises(InvalidInputError, match=rf"^device: .* is not on {can.name} yet$"):
            _core.EngineCore(toy, None, config)
    elif not can.captures:  # a toy has no captured graphs
        assert _core.EngineCore(toy, None, config).seats == config.max_num_seqs


def test_an_imitation_can_do_what_it_imitates():
    names = [name for name in vars(_core.Capabilities) if not name.startswith("_")]
    assert len(names) > len(NEEDED_BY)
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
