"""Contract under test: `sbrt draft make` makes a draft that an engine can load and that changes no
token. A run can be stopped at any moment and resumes. Bad input gives one sentence."""

import itertools
import json
from types import SimpleNamespace

import pytest

from sbrt import Engine, SamplingParams, methods
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.config import read_config
from sbrt.tools import cli
from sbrt.tools.draft import labels, outlook, train, verdict
from sbrt.tools.draft import make as make_module
from sbrt.tools.measure import Tally

torch = pytest.importorskip("torch")

ANSWERS, LENGTH = 12, 16


@pytest.fixture
def small(monkeypatch):
    """Make runs short. The tests' commands name the draft's shape, so that no shape is measured."""
    for name, value in (("ANSWER", LENGTH), ("HELD_ANSWER", LENGTH), ("SPARE", ANSWERS)):
        monkeypatch.setattr(make_module, name, value)
    monkeypatch.setattr(make_module, "PAUSE", 0.0)
    monkeypatch.setattr(train, "REGRESSED", 200)
    for name, value in (
        ("draft.outlook.SECONDS", 0.02), ("draft.verdict.SECONDS", 0.02), ("plan.TOY_TOKENS", 24),
        ("draft.verdict.TOKENS", 12),
    ):  # fmt: skip
        monkeypatch.setattr(f"sbrt.tools.{name}", value)
    seconds = itertools.count()  # on this clock, a training step lasts a second
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    few = [methods.parse(name) for name in ("none", "draft_model", "lookup")]
    monkeypatch.setattr("sbrt.tools.draft.verdict.usual_methods", lambda: few)
    monkeypatch.setattr("sbrt.tools.draft.outlook.METHODS", ("draft_model",))


@pytest.fixture
def run(target, tmp_path, prompts_file, capsys):
    """Run `sbrt draft make` with the given flags; returns (exit code, stdout, stderr)."""

    def call(*flags, out=tmp_path / "out"):
        shape = ["--layers", 1, "--width", 64, "--vocab", 200, "--threads", 1, "--minutes", 0.1]
        words = ["draft", "make", "--target", target, "--out", out, "--prompts", prompts_file]
        code = cli.main([str(word) for word in [*words, *shape, *flags]])
        return code, *capsys.readouterr()

    call.target = target
    return call


@pytest.fixture
def stopped(monkeypatch):
    """stopped(module, name, after): make `name` of `module` raise KeyboardInterrupt after `after`
    calls.

    Returns a function that restores `name`.
    """

    def arm(module, name, after):
        real, calls = getattr(module, name), []

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) > after:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)
        return lambda: monkeypatch.setattr(module, name, real)

    return arm


def test_a_draft_is_made_judged_and_changes_no_token(small, run, target, tmp_path):
    code, out, err = run()
    assert code == 0, err
    first, *_, last = [line for line in out.splitlines() if line]
    assert first == last
    assert first.startswith(("Recommended", "Not recommended"))
    assert "pays here" in err or "can pay here" in err
    assert "first choice" in err
    held_out = labels.read_answers(tmp_path / "out" / "work" / "held-out.jsonl")
    assert [answer.index for answer in held_out] == [0, 8, 16, 24, 32, 40]
    prompts, params = ["def f1(x):", "class A:"], SamplingParams(temperature=0, max_tokens=24)
    with Engine.from_pretrained(target, tmp_path / "out", num_threads=1) as engine:
        for method in ("draft_model", "specbranch"):
            found = engine.generate(prompts, params, method=method)
            plain = engine.generate(prompts, params, method="none")
            for one, other in zip(found, plain, strict=True):
                assert one.outputs[0].token_ids == other.outputs[0].token_ids
            assert any(o.outputs[0].spec_decode_metrics["num_draft_tokens"] for o in found)


def test_training_learns(small, run, tmp_path):
    """The loss falls clearly from its first values, which are those of the fitted LM head."""
    code, _, err = run("--minutes", 1)
    assert code == 0
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in err.splitlines()
              if line.startswith("training:")]  # fmt: skip
    assert len(losses) >= 50
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.4


def test_a_size_that_was_chosen_stays(small, run, tmp_path, target, monkeypatch):
    """The first run takes the better of two sizes. The second run keeps this size, although it
    would prefer the other."""
    monkeypatch.setattr("sbrt.tools.draft.outlook.LAYERS", (1, 2))
    favoured = [2]
    real = outlook.outlooks

    def chosen(*args):
        return sorted(real(*args), key=lambda one: one.layers != favoured[0])

    monkeypatch.setattr(outlook, "outlooks", chosen)
    words = ["draft", "make", "--target", target, "--out", tmp_path / "out", "--width", 64]
    words += ["--vocab", 200, "--threads", 1, "--minutes", 0.05, "--answers"]
    assert run("--minutes", 0.05, out=tmp_path / "first")[0] == 0
    words.append(tmp_path / "first" / "work" / "answers.jsonl")
    assert cli.main(list(map(str, words))) == 0
    favoured[0] = 1
    assert cli.main(list(map(str, words))) == 0
    assert read_config(tmp_path / "out").layers == 2


def test_answers_that_are_there_are_taken_over(
    small, run, tmp_path, prompts_file, monkeypatch, capsys
):
    assert run()[0] == 0
    first = tmp_path / "out" / "work" / "answers.jsonl"
    lines = first.read_bytes().splitlines()
    monkeypatch.setattr(make_module, "_engine", None)  # no engine is opened
    words = ["draft", "make", "--target", run.target, "--out", tmp_path / "again", "--layers", 1]
    words += ["--width", 64, "--vocab", 200, "--threads", 1, "--minutes", 0.05, "--answers", first]
    assert cli.main([*map(str, words)]) == 0
    work = tmp_path / "again" / "work"
    assert (work / "held-out.jsonl").read_bytes().splitlines() == lines[::8]
    kept = (work / "answers.jsonl").read_bytes().splitlines()
    assert kept == [line for i, line in enumerate(lines) if i % 8]
    held_out = tmp_path / "out" / "work" / "held-out.jsonl"
    words[words.index("--out") + 1] = tmp_path / "third"
    assert cli.main([*map(str, words), "--held-out", str(held_out)]) == 0
    work = tmp_path / "third" / "work"
    assert (work / "answers.jsonl").read_bytes() == first.read_bytes()
    assert (work / "held-out.jsonl").read_bytes() == held_out.read_bytes()
    # Two kinds of answers are refused: those of another draft, and those from the work folder
    # itself.
    for answers, said in (
        (held_out, "--out: expected the work of this draft"),
        (work / "answers.jsonl", "--answers, --held-out: expected files outside"),
    ):
        words[words.index("--answers") + 1] = answers
        capsys.readouterr()
        assert cli.main([*map(str, words)]) == 2
        assert f"sbrt: error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "name", "after"),
    [
        ("sbrt.tools.draft.labels", "label", 20),
        ("sbrt.tools.draft.train", "loss_of", 5),
        ("sbrt.tools.draft.make", "write_draft", 0),
    ],
)
def test_a_stopped_run_goes_on(small, run, stopped, monkeypatch, tmp_path, where, name, after):
    import importlib

    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    again = stopped(importlib.import_module(where), name, after)
    code, _, err = run()
    assert code == 130
    assert not (tmp_path / "out" / "config.json").exists()
    work = tmp_path / "out" / "work"
    kept = {p: p.read_bytes() for p in (work / "answers.jsonl", work / "held-out.jsonl")}
    again()
    code, _, err = run()
    assert code == 0, err
    assert f"going on in {work}" in err
    assert ("going on at step" in err) == (name != "label")
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert (tmp_path / "out" / "config.json").exists()


def test_work_of_another_draft_is_left_alone(small, run, make, tmp_path, target):
    out = tmp_path / "out"
    assert run(out=out)[0] == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other = make.checkpoint(tmp_path / "other", seed=9, hidden_size=64, head_dim=16)
    prompts = tmp_path / "others.jsonl"
    prompts.write_text('{"prompt": "another"}\n')
    for flags in (("--layers", 2), ("--vocab", 100), ("--target", other), ("--prompts", prompts)):
        code, _, err = run(*flags, out=out)
        assert code == 2
        assert err.splitlines()[-1].startswith(
            "sbrt: error: --out: expected the work of this draft"
        )
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    code, _, err = run(out=target)
    assert (code, "a folder without a model" in err) == (2, True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--minutes", 0), "--minutes: expected more than 0, got 0"),
        (("--minutes", -1), "--minutes: expected"),
        (("--layers", 9), "--layers: expected 1 to 2, the layers of the target, got 9"),
        (("--width", 48), "--width: expected 64 or a smaller multiple of 32, got 48"),
        (("--vocab", 3), "--vocab: expected"),
        (("--threads", 0), "--threads: expected"),
        (("--prompts", "/no/such/file"), "prompts: expected a file of JSON lines"),
        (("--target", "/no/such/folder"), "model: expected a folder"),
        (("--train-device", "abacus"), "--train-device: expected"),
        (("--held-out", "x"), "--held-out: expected --answers next to it, got none"),
        (("--answers", "x"), "--answers: expected no --prompts next to it"),
    ],
)
def test_bad_input_is_one_sentence(small, run, flags, words):
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"sbrt: error: {words}")
    assert err.count("\n") == 1


def test_without_a_template_prompts_are_needed(small, run, make, tmp_path, capsys):
    bare = make.checkpoint(tmp_path / "bare", hidden_size=64, head_dim=16)
    words = [
        "draft",
        "make",
        "--target",
        bare,
        "--out",
        tmp_path / "o",
        "--layers",
        1,
        "--width",
        64,
    ]
    assert cli.main([*map(str, words), "--threads", "1"]) == 2
    assert "no chat template" in capsys.readouterr().err.splitlines()[-1]


def test_torch_is_asked_for(small, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    code, _, err = run()
    assert (code, "sbrt[draft]" in err) == (2, True)


def test_eval_gives_the_verdict_as_json(small, target, tmp_path, capsys, prompts_file, folders):
    draft = open_checkpoint(target).folder  # the target as its own draft is always right
    words = ["draft", "eval", "--target", target, "--draft", draft, "--prompts", prompts_file]
    words += ["--limit", 2, "--methods", "none,draft_model,lookup", "--threads", 1, "--json"]
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    [found] = json.loads(out)
    assert found["verdict"].startswith(("Recommended", "Not recommended"))
    assert found["agreement"]["all"]["first"] == 1.0
    assert [line["method"] for line in found["methods"]] == ["none", "draft_model", "lookup"]
    assert all(line["predicted_tokens_per_second"] > 0 for line in found["methods"])
    assert found["methods"][1]["acceptance_rate"] == 1.0


def test_a_prediction_is_made_from_costs_before_and_after_the_clock(
    small, target, tmp_path, capsys, prompts_file, folders, monkeypatch
):
    costs = {"T": {"1": 1000.0, "2": 1000.0}, "t": {"1": 1.0, "2": 1.0}, "devices": "shared"}
    measured = iter((costs, costs | {"T": {"1": 3000.0, "2": 3000.0}}))
    monkeypatch.setattr(verdict, "measured_costs", lambda *_: next(measured))
    words = ["draft", "eval", "--target", target, "--draft", folders[1], "--prompts", prompts_file]
    words += ["--limit", 2, "--methods", "none,draft_model", "--threads", 1, "--json"]
    assert cli.main([str(word) for word in words]) == 0
    plain = json.loads(capsys.readouterr().out)[0]["methods"][0]
    assert plain["predicted_tokens_per_second"] == pytest.approx(500)


@pytest.mark.parametrize(("chosen", "named"), [("tree:gamma=2", "auto"), ("lookup", "draft_model")])
def test_auto_counts_if_it_used_the_draft(chosen, named):
    rates = {"none": 100, "lookup": 130, "draft_model": 110, "auto": 150}
    shown = [Tally(methods.parse(name), 1, 1, tokens=n, seconds=1.0) for name, n in rates.items()]
    shown[-1].chosen = {"none": 3, chosen: 40}
    clock = SimpleNamespace(shown=lambda: shown, plain=shown[0], wrong=False)
    assert f" {named}" in verdict.Verdict({}, clock, clock).sentence()
    assert verdict.Verdict({}, clock, clock).sentence().startswith("Not") == (named != "auto")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--draft", "none"), "--draft: expected a folder or file, got none"),
        (("--methods", "lookup"), "--methods: expected one that needs a draft, got none"),
        (("--draft", "/no/such"), "model: expected a folder"),
    ],
)
def test_a_bad_eval_is_one_sentence(target, folders, capsys, flags, words):
    base = ["draft", "eval", "--target", target, "--draft", folders[1]]
    assert cli.main([str(word) for word in [*base, *flags]]) == 2
    assert capsys.readouterr().err.startswith(f"sbrt: error: {words}")
