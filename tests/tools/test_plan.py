"""Contract under test: `sbrt plan`. It runs real rounds, on the pair or on a toy draft that is
right at the given rate. It prints a table or JSON, and says which method to choose. Bad input is
refused in one sentence."""

import json

import pytest

from sbrt import _core, _probe
from sbrt.tools import cli


@pytest.fixture
def plan(capsys):
    """plan(*words): run `sbrt plan` and return (exit code, stdout, stderr)."""

    def call(*words):
        code = cli.main(["plan", *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 1.0])
def test_a_toy_draft_is_right_as_often_as_asked(acceptance):
    toys = [_core.Toy(vocab=512, seed=1, acceptance=a) for a in (-1.0, acceptance)]
    core = _core.EngineCore(*toys, max_model_len=9000, max_gamma=1, backend="sim")
    greedy = _core.Sampling(temperature=0)
    core.begin([1, 2], greedy, _probe.policy(1, serial=True), 8000)
    core.run()
    found = core.seat(0).stats.accepted / core.seat(0).stats.draft_tokens
    assert found == pytest.approx(acceptance, abs=0.03)


def test_acceptances_and_costs_are_enough(plan):
    methods = "none,draft_model:gamma=2,pearl:gamma=3"
    code, out, _ = plan("--costs", "c=4", "--acceptance", "0.2,1", "--methods", methods, "--json")
    lines = json.loads(out)
    assert code == 0
    assert [line["method"] for line in lines] == methods.split(",") * 2
    assert all(line["identical_to_none"] and line["device"] == "sim" for line in lines)
    worse, better = lines[:3], lines[3:]
    # gamma is 3 = c - 1, and the draft is always right. So a target forward gives four tokens,
    # except at the beginning.
    assert better[2]["speedup"] == pytest.approx(4, rel=0.02)
    assert all(b["speedup"] > w["speedup"] for w, b in zip(worse[1:], better[1:], strict=True))


def test_it_says_what_to_choose(plan):
    words = ("--costs", "c=4", "--acceptance", "1", "--methods", "none,draft_model:gamma=2,pearl")
    code, out, _ = plan(*words)
    assert code == 0
    assert "Choose pearl:gamma=3:" in out


def test_costs_are_measured_and_can_be_used_again(plan, folders, tmp_path):
    costs = tmp_path / "costs.json"
    pair = ("--target", folders[0], "--draft", folders[1], "--limit", 1, "--max-tokens", 12)
    methods = ("--methods", "none,pearl:gamma=2", "--json")
    code, out, _ = plan(*pair, *methods, "--save-costs", costs)
    assert (code, len(json.loads(out))) == (0, 2)
    saved = json.loads(costs.read_text())
    assert all(value > 0 for value in saved["T"].values())
    code, out, _ = plan(*pair, *methods, "--costs", costs)
    assert (code, json.loads(out)[1]["identical_to_none"]) == (0, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--acceptance", "0.5"], "--costs"),
        (["--acceptance", "x", "--costs", "c=4"], "numbers"),
        (["--acceptance", "1.5", "--costs", "c=4"], "--acceptance"),
        (["--save-costs", "x", "--costs", "c=4"], "--save-costs"),
        (["--costs", "c=0"], "c=N"),
    ],
)
def test_what_cannot_be_is_refused(plan, words, named):
    code, out, err = plan(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err
