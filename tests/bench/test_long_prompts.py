"""Contract under test: bench.long_prompts. With prefix reuse a turn of the chat feeds only its new
tokens. A token that reuse changes is reported. Sizes below 1 are refused."""

import json

import pytest

from bench import long_prompts


@pytest.fixture
def given(folders):
    target, draft = folders
    return ["--target", str(target), "--draft", str(draft), "--threads", "1", "--runs", "1"]


def lines_of(capsys, given, *more):
    code = long_prompts.main([*given, "--json", "-", *more])
    return code, json.loads(capsys.readouterr().out)


def test_a_turn_feeds_its_new_tokens_only(given, capsys):
    code, lines = lines_of(capsys, given, "--turns", "3", "--long", "130", "--company", "2")
    assert code == 0
    turns = [line for line in lines if line["part"] == "chat"]
    # The previous turn never computed the KV of the last token of its answer. So this turn feeds
    # that token, too.
    new = long_prompts.WORDS + 1
    assert [line["prompt"] - line["reused"] for line in turns] == [long_prompts.WORDS, new, new]
    assert [line["prompt"] for line in turns] == [20, 64, 108]
    assert all(line["same"] for line in turns)


def test_a_token_that_reuse_changes_is_an_error(given, capsys, monkeypatch):
    real = long_prompts.chat

    def wrong(engine, *rest):
        turns = real(engine, *rest)
        if engine.config.enable_prefix_caching is not False:
            turns[-1]["ids"][-1] += 1
        return turns

    monkeypatch.setattr(long_prompts, "chat", wrong)
    code, lines = lines_of(capsys, given, "--turns", "2", "--long", "20", "--company", "1")
    assert code == 1
    assert [line["same"] for line in lines if line["part"] == "chat"] == [True, False]


def test_bad_sizes_are_refused(given, capsys):
    assert long_prompts.main([*given, "--turns", "0"]) == 2
    assert "--turns: expected at least 1, got 0" in capsys.readouterr().err
