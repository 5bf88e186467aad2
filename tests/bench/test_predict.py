"""Contract under test: bench.predict compares predicted with measured figures, method by method. It
refuses bad input in one sentence."""

import json

import pytest

from bench import predict


@pytest.fixture
def run(folders, tmp_path, capsys):
    def call(*more):
        target, draft = map(str, folders)
        out = tmp_path / "out.json"
        flags = ["--target", target, "--draft", draft, "--max-tokens", "12", "--limit", "1"]
        code = predict.main([*flags, "--threads", "1", "--json", str(out), *more])
        return code, json.loads(out.read_text()) if code == 0 else capsys.readouterr().err

    return call


def test_every_method_has_both_figures(run):
    code, lines = run("--methods", "pearl:gamma=2,draft_model:gamma=2")
    assert code == 0
    assert [line["method"] for line in lines] == ["none", "pearl:gamma=2", "draft_model:gamma=2"]
    for line in lines:
        measured, predicted = line["tokens_per_second"], line["predicted_tokens_per_second"]
        assert measured > 0
        assert predicted > 0
        assert line["error"] == (predicted - measured) / measured
    assert lines[0]["speedup"] == lines[0]["predicted_speedup"] == 1


def test_all_that_was_measured_counts_alike():
    one = {"T": {"1": 2.0, "4": 5.0}, "round_us": 3.0, "devices": "shared"}
    other = {"T": {"1": 4.0, "4": 5.0}, "round_us": 0.0, "devices": "shared"}
    found = {"T": {"1": 3.0, "4": 5.0}, "round_us": 1.5, "devices": "shared"}
    assert predict.mean_of([one, other]) == found


def test_rates_are_medians_of_the_runs(run):
    code, lines = run("--methods", "lookup:gamma=2", "--runs", "3")
    assert code == 0
    assert [line["method"] for line in lines] == ["none", "lookup:gamma=2"]
    code, text = run("--runs", "0")
    assert code == 2
    assert text.startswith("bench.predict: error: --runs: expected")


def test_bad_input_gets_one_sentence(run):
    code, text = run("--methods", "warp")
    assert code == 2
    assert text.startswith("bench.predict: error: method: expected")
    assert text.count("\n") == 1


@pytest.mark.parametrize("flag", ["--simulate", "--then-simulate", "--png", "--trace"])
def test_a_flag_without_use_is_refused(run, flag):
    code, text = run(flag, "c=8")
    assert code == 2
    assert text == f"bench.predict: error: unrecognized arguments: {flag} c=8\n"
