"""Contract under test: bench.sweep. Settings are tuned on prompts with even numbers and reported on
those with odd numbers. A run at one c gives the results at another c exactly. Finished runs are
stored and read back. The JSON has every figure of every method. Bad input gives one sentence."""

import json

import pytest

from sbrt.model import hrad

sweep = pytest.importorskip("bench.sweep.__main__", reason="benches run from the checkout")
from bench.sweep import plot, table  # noqa: E402
from bench.sweep.runs import repeated  # noqa: E402
from bench.sweep.space import ENTRIES, OVERLAPPED, Entry  # noqa: E402

TEXTS = ["def quick(items):", "class Stack:\n", "for i in range(10):\n", "für 日本"]
FEW = tuple(e for e in ENTRIES if e.name in ("none", "draft_model", "pearl", "specbranch"))
FIGURES = {
    *("method", "setting", "gamma", "speedup", "tokens_per_pass", "rollback_rate", "hit_rate"),
    *("branch_rounds", "acceptance_rate", "depth", "answers", "tokens", "identical_to_none"),
    "tuned_on_even",
}


@pytest.fixture
def run(capsys, folders, tmp_path):
    """run(*words, texts): run a sweep on the tiny pair and return the object in its JSON file."""

    def call(*words, texts=TEXTS, name="sweep.json"):
        prompts = tmp_path / "tiny.jsonl"
        prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
        pair = ["--target", folders[0], "--draft", folders[1], "--prompts", prompts, "--ignore-eos"]
        out = tmp_path / name
        given = [*pair, "--max-tokens", 10, "--json", out, *words]
        assert sweep.main([str(word) for word in given]) == 0
        return json.loads(out.read_text())

    return call


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(sweep, "ENTRIES", FEW)


def by_method(cell):
    return {line["method"]: line for line in cell["methods"]}


def test_every_method_and_ablation_has_every_figure(run, tmp_path, capsys):
    found = run("--c", "4", "--temperature", "0.8", "--png", tmp_path / "a.png", texts=TEXTS[:2])
    [cell] = found["cells"]
    assert [line["method"] for line in cell["methods"]] == [entry.name for entry in ENTRIES]
    for line in cell["methods"]:
        assert set(line) - {"chosen"} == FIGURES
        assert (line["answers"], line["tokens"], line["identical_to_none"]) == (1, 10, True)
    lines = by_method(cell)
    assert lines["none"]["speedup"] == lines["none"]["tokens_per_pass"] == 1
    assert lines["pearl"]["tuned_on_even"]
    assert sum(lines["auto"]["chosen"].values()) * lines["auto"]["tokens_per_pass"] == 10
    assert capsys.readouterr().out == table.render(found["cells"]) + "\n"
    for path in (tmp_path / "a.png", tmp_path / "a-rollback.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_at_one_c_says_what_it_costs_at_others(run):
    """The figures at c = 3 that follow from runs at c = 8 equal those of runs at c = 3. The tuned
    settings are the same, too."""
    priced = run("--c", "8,3", "--temperature", "0.8", name="priced.json")
    measured = run("--c", "3", "--temperature", "0.8", name="measured.json")
    assert {r["c"] for r in priced["runs"] if not r["setting"].startswith("auto")} == {8}
    assert {r["c"] for r in measured["runs"]} == {3}
    cells = priced["cells"][1], measured["cells"][0]
    for a, b in zip(cells[0]["methods"], cells[1]["methods"], strict=True):
        assert a | {"speedup": 0, "tuned_on_even": 0} == b | {"speedup": 0, "tuned_on_even": 0}
        assert a["speedup"] == pytest.approx(b["speedup"], rel=1e-12)


@pytest.mark.usefixtures("few")
def test_even_prompts_tune_and_odd_ones_are_reported(run):
    """Settings are tuned on even prompts only. With different odd prompts, the runs on even prompts
    and the tuned settings stay the same."""
    found = run("--c", "4", "--temperature", "0")
    [cell] = found["cells"]
    tuned = [r["setting"] for r in found["runs"] if r["half"] == "even"]
    for line in cell["methods"]:
        tried = {one["setting"]: one["speedup"] for one in line["tuned_on_even"]}
        assert set(tried) <= set(tuned)
        assert not tried or tried[line["setting"]] == max(tried.values())
    other = [TEXTS[0], "zzz", TEXTS[2], "import os\n"]
    again = run("--c", "4", "--temperature", "0", texts=other, name="other.json")
    even, odd = (
        [[r for r in runs["runs"] if r["half"] == half] for runs in (found, again)]
        for half in ("even", "odd")
    )
    assert even[0] == even[1]
    assert odd[0] != odd[1]


@pytest.mark.usefixtures("few")
def test_finished_runs_are_kept(run, monkeypatch):
    words = ("--c", "4,2", "--temperature", "0")
    begun = run(*words, "--minutes", "0")
    assert (begun["runs"], begun["cells"]) == ([], [])
    whole = run(*words)
    cut = whole | {"runs": whole["runs"][:5], "cells": []}
    monkeypatch.setattr(sweep.Runner, "_measure", lambda *_: pytest.fail("measured again"))
    assert run(*words) == whole
    assert run(*words[:1], "2", *words[2:])["cells"] == whole["cells"][1:]
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "ENTRIES", FEW)
    monkeypatch.setattr("pathlib.Path.read_text", _instead("sweep.json", cut))
    assert run(*words)["runs"][:5] == cut["runs"]


def _instead(name, found):
    """Return a Path.read_text that gives the object `found` for the file `name`, but only once."""
    left, plain = [json.dumps(found)], type(sweep.Path()).read_text

    def read(path, *given):
        return left.pop() if path.name == name and left else plain(path, *given)

    return read


@pytest.mark.usefixtures("few")
def test_a_classifier_adds_specbranch_at_its_gamma(run, make, folders, tmp_path):
    """The classifier sets gamma to 3, which is below c = 8. At c = 2 the draft would not end before
    the target, so there must be runs at both values of c."""
    path = tmp_path / "h.safetensors"
    make.classifier(path, hrad.origin_of(3, *folders))
    found = run("--c", "8,2", "--temperature", "0", "--hrad", path)
    for cell in found["cells"]:
        lines = [line for name, line in by_method(cell).items() if "H-RAD" in name]
        assert [line["gamma"] for line in lines] == [3, 3, 3]
        assert all(line["identical_to_none"] for line in lines)
    ran = {r["c"] for r in found["runs"] if f"hrad={path}" in r["setting"]}
    assert ran == {8, 2}


def test_halves_are_disjoint(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": str(i)}) for i in range(7)))
    args = sweep._parser().parse_args(["--prompts", str(path), "--limit", "6", "--json", "x"])
    args.prompts = [path]
    halves = sweep._split(args)
    assert halves == {("a", "even"): ["0", "2", "4"], ("a", "odd"): ["1", "3", "5"]}


def test_a_token_is_repeated_if_it_ends_four_that_stood_before():
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4, 5], 4) == 1
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4, 1, 2], 4) == 3
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4], 8) == 0
    assert repeated([7] * 6, 0) == 2
    assert repeated([1, 2, 3], 0) == 0


@pytest.mark.parametrize(("c", "gammas"), [(1, [1]), (4, [1, 2, 3]), (8, [2, 3, 5, 7])])
def test_the_draft_is_done_before_the_target(c, gammas):
    entry = Entry("pearl", "pearl", OVERLAPPED)
    assert [method.gamma for method in entry.settings(c, None)] == gammas


def test_no_cell_no_picture(tmp_path):
    assert plot.draw(tmp_path / "a.png", []) == []
    assert table.render([]) == "No cell is complete yet."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--c", "8,x"], "--c: expected numbers from 1 to"),
        (["--c", "8,8"], "--c: expected different words"),
        (["--temperature", "hot"], "--temperature: expected a number, got 'hot'"),
        (["--limit", "1"], "prompts: expected at least 2 from"),
        (["--tune-limit", "0"], "--tune-limit: expected at least 1, got 0"),
        (["--hrad", "a,b"], "--hrad: expected one for each of 1 drafts, got 2"),
        (["--hrad", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--prompts", "a.jsonl,b/a.jsonl"], "--prompts: expected files of different names"),
        (["--prompts", "nowhere.jsonl"], "prompts: expected a file of JSON lines"),
        (["--draft", "none"], "expected a draft model"),
        (["--json", "-"], "--json: expected a file"),
        (["--json", "."], "--json: expected a file that can be written"),
        (["--seed", "5"], "expected a sweep of seed 5, got one of 0"),
        (["--target", "demo"], "expected the same target, got another"),
    ],
)
@pytest.mark.usefixtures("few")
def test_bad_input_is_one_sentence(words, said, run, folders, tmp_path, capsys):
    run("--c", "2", "--temperature", "0", "--minutes", "0")
    capsys.readouterr()
    pair = ["--target", folders[0], "--draft", folders[1], "--prompts", tmp_path / "tiny.jsonl"]
    given = [*pair, "--ignore-eos", "--max-tokens", 10, "--json", tmp_path / "sweep.json"]
    assert sweep.main([str(word) for word in [*given, *words]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bench.sweep: error: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["[]", "{", '{"setup": 3}', "\x00", '{"setup":[{}],"names":[3]}'])
def test_a_foreign_file_is_left_alone(text, folders, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(text)
    prompts = tmp_path / "tiny.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    words = ["--target", folders[0], "--draft", folders[1], "--prompts", prompts, "--json", path]
    assert sweep.main([str(word) for word in words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert path.read_text() == text
