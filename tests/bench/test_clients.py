"""Contract under test: bench.clients reads the server's counters, compares them with a client's
report, and fails if they differ. tests/clients/test_clients.py runs the clients."""

from __future__ import annotations

import json

import pytest

from bench.clients import __main__ as bench
from bench.clients import programs
from bench.clients.figures import Figures, between, parse

METRICS = """# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="demo"} 11.0
vllm:prompt_tokens_created{engine="0",model_name="demo"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="demo"} 32.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="demo"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="demo"} 2.0
vllm:spec_decode_num_drafts_total{engine="0",model_name="demo"} 9.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="demo"} 20.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="demo"} 7.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 5.0
"""
COUNTED = Figures(requests=3, prompt=11, completion=32, rounds=9, drafted=20, accepted=7)


def test_counters_are_read_and_subtracted():
    assert parse(METRICS) == COUNTED
    assert between(COUNTED, COUNTED) == Figures(0, 0, 0, 0, 0, 0)


def test_only_what_both_count_is_compared():
    assert Figures(requests=3, accepted=7).differences(COUNTED) == {}
    assert Figures(requests=3, accepted=8).differences(COUNTED) == {"accepted": (8, 7)}


@pytest.fixture
def fake(monkeypatch):
    """Return a client that sends one request. It reports told(n) tokens if the server counted n."""
    state = {"told": lambda tokens: tokens}

    def client(run):
        from urllib.request import Request, urlopen

        body = {"prompt": "def area(", "max_tokens": run.tokens, "ignore_eos": True}
        with urlopen(Request(f"{run.base}/v1/completions", json.dumps(body).encode())) as answer:
            used = json.load(answer)["usage"]
        return Figures(requests=1, completion=state["told"](used["completion_tokens"]))

    monkeypatch.setitem(programs.PROGRAMS, "openai", client)
    monkeypatch.setattr(bench, "python_of", lambda name: programs.ROOT)
    return state


@pytest.mark.parametrize(("told", "code"), [(lambda n: n, 0), (lambda n: n + 1, 1)])
def test_a_client_that_counts_otherwise_fails(fake, told, code, capsys):
    fake["told"] = told
    given = ["--clients", "openai", "--tokens", "8", "--json", "-"]
    assert bench.main(given) == code
    [line] = json.loads(capsys.readouterr().out)
    assert line["server_says"]["completion"] == 8
    assert line["agrees"] == (code == 0)


def test_what_cannot_be_run_is_one_sentence(monkeypatch, tmp_path, capsys):
    assert bench.main(["--clients", "curl"]) == 2
    assert "--clients: expected some of openai" in capsys.readouterr().err
    monkeypatch.setattr(programs, "ENVIRONMENTS", tmp_path)
    assert bench.main(["--clients", "vllm"]) == 0
    assert capsys.readouterr().out == "vllm: expected .venv-clients/vllm (make clients), got none\n"


def test_a_client_that_fails_is_one_sentence(monkeypatch, tmp_path):
    folder = tmp_path / "openai" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text("#!/bin/sh\necho the reason >&2\nexit 3\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(programs, "ENVIRONMENTS", tmp_path)
    run = programs.Run("http://127.0.0.1:1", tmp_path, tmp_path, 1, 1)
    with pytest.raises(ValueError, match=r"^openai: expected a run to its end, got: the reason$"):
        programs.openai(run)
