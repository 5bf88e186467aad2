"""Contract under test: the check of early launches answers the same prompts with two engines. It
ends with 1 if a token differs."""

import itertools
import json

import pytest

from bench.models import pairs
from tests.device import early

SHORT = (
    "--device",
    "cpu",
    "--prompts",
    "2",
    "--max-tokens",
    "6",
    "--methods",
    "none,pearl:gamma=2",
)


def test_both_engines_give_the_same_tokens(tmp_path, capsys):
    out = tmp_path / "early.json"
    assert early.main([*SHORT, "--json", str(out)]) == 0
    lines = json.loads(out.read_text())["lines"]
    assert [line["method"] for line in lines] == ["none", "pearl:gamma=2"]
    assert all(line["right"] and line["us_per_round_early"] > 0 for line in lines)
    assert "WRONG" not in capsys.readouterr().out


def test_tokens_that_differ_are_told(monkeypatch, capsys):
    """The tokens differ because this test gives the two engines different prompts."""
    texts = itertools.cycle(["import os\nimport", "class Tree:\n    def"])
    monkeypatch.setattr(pairs, "prompts_of", lambda name: lambda i: next(texts))
    assert early.main([*SHORT]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--pair", "none"), "--pair: expected one of demo"),
        (("--pair", "8b"), "--pair: expected a demo pair on device cpu, got 8b"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flags, said):
    assert early.main([*SHORT, *flags]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
