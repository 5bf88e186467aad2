"""Contract under test: --simulate. Tokens are real, and times depend only on the cost model. So
each figure of the JSON follows from the counters. If gamma is not given, every gamma is tried and
the best is reported. A bad cost file is refused in one sentence."""

import json
from contextlib import closing

import pytest

from sbrt import EngineConfig, InvalidInputError, SamplingParams, SpeculativeConfig, methods
from sbrt.serve.pair import load_pair
from sbrt.tools import cli, compare, flags
from sbrt.tools.costs import MOST_BYTES, SECOND, UNIT, cost_model, read_costs, shipped
from sbrt.tools.measure import Bench
from sbrt.tools.simulate import SWEPT, Simulator, Sweep

PROMPTS = [{"prompt": "def quick(items):"}, {"question": "für"}]
LONG = "specbranch:k_max=1,epsilon=0"  # name that is longer than a line of the table
GOOD = {"T": {"1": 80, "5": 120}, "t": {"1": 10}}


@pytest.fixture
def decode(capsys, folders, tmp_path):
    """decode(*flags): run `bench.decode` on the tiny pair and return its JSON lines."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, PROMPTS)))

    def call(*flags):
        bench = pytest.importorskip("bench.decode", reason="benches run from the checkout")
        pair = ["--target", folders[0], "--draft", folders[1], "--prompts", path, "--ignore-eos"]
        words = [*pair, "--max-tokens", 24, *flags, "--json"]
        code = bench.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


@pytest.fixture
def simulate(decode):
    """simulate(costs, *flags): return the lines of `decode` in simulated time."""
    return lambda costs, *flags: decode("--simulate", costs, *flags)


@pytest.fixture
def refused(capsys, folders):
    """refused(*words): run a command that fails on bad input, and return its one sentence."""

    def call(*words):
        pair = ["--target", str(folders[0]), "--draft", str(folders[1])]
        code = cli.main(["compare", *pair, "--limit", "1", "--max-tokens", "4", *words])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("sbrt: error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return call


def test_the_unit_is_a_draft_forward(simulate):
    """Times are in units of a draft forward, here with c = 8. A round's time does not depend on how
    many tokens it accepts."""
    given = "none,draft_model:gamma=3,pearl:gamma=7,specbranch:gamma=2,epsilon=0"
    plain, serial, pearl, branches = simulate("c=8", "--methods", given)
    for line in (plain, serial, pearl, branches):
        assert (line["device"], line["tokens"], line["prefill_seconds"]) == ("sim", 48, 0.0)
        assert line["identical_to_none"] is True
        assert line["tokens_per_second"] == line["tokens"] / line["seconds"]
        assert line["speedup"] == pytest.approx(8 * line["tokens_per_second"])
        assert "sweep" not in line["options"]
    assert plain["seconds"] == 8 * 48
    assert serial["seconds"] == (8 + 3) * serial["target_passes"]
    # the catch-up and 7 steps last 8 units, too
    assert pearl["seconds"] == 8 * pearl["target_passes"]
    assert branches["seconds"] == 8 * branches["target_passes"]


def test_every_open_gamma_is_tried_and_the_best_reported(simulate):
    for c in (1, 4):
        lines = simulate(f"c={c}", "--methods", "draft_model,pearl,specbranch,none")
        most = [2 * c, max(1, c - 1), max(1, c - 1)]
        for line, last in zip(lines, most, strict=False):
            options, sweep = line["options"], line["options"]["sweep"]
            assert [s["gamma"] for s in sweep[:last]] == list(range(1, last + 1))
            best = max(s["tokens_per_second"] for s in sweep)
            assert line["tokens_per_second"] == best
            chosen = next(s for s in sweep if s["tokens_per_second"] == best)
            assert {k: options[k] for k in chosen if k in options} | {
                "tokens_per_second": best
            } == chosen
        assert lines[3]["options"] == {}


def test_a_swept_figure_is_that_of_the_setting_by_itself(simulate):
    [swept] = simulate("c=4", "--methods", "specbranch")
    for setting in swept["options"]["sweep"]:
        named = f"specbranch:gamma={setting['gamma']},epsilon={setting['epsilon']}"
        [line] = simulate("c=4", "--methods", named)
        assert line["tokens_per_second"] == setting["tokens_per_second"]
    epsilons = [s["epsilon"] for s in swept["options"]["sweep"]]
    assert set(SWEPT["specbranch"]["epsilon"]) <= set(epsilons)


@pytest.mark.parametrize(("c", "name", "most"), [(30, "draft_model", 5), (4, "pearl", 3)])
def test_no_deeper_gamma_is_tried(c, name, most):
    found = Sweep(c, deepest=5).gammas(methods.parse(name))
    assert [method.gamma for method in found] == list(range(1, most + 1))


def test_a_gamma_that_was_named_is_not_swept(simulate):
    assert "sweep" not in simulate("c=4", "--methods", "pearl:gamma=2")[0]["options"]
    [pearl, serial] = simulate("c=4", "--methods", "pearl,draft_model", "--gamma", 3)
    assert (pearl["options"], serial["options"]) == ({"gamma": 3}, {"gamma": 3})
    [open_epsilon] = simulate("c=4", "--methods", "specbranch:epsilon=0.2,k_max=2")
    assert [list(s) for s in open_epsilon["options"]["sweep"]] == [
        ["gamma", "tokens_per_second"]
    ] * 3
    assert (open_epsilon["options"]["epsilon"], open_epsilon["options"]["k_max"]) == (0.2, 2)


def test_then_simulate_repeats_the_methods_in_simulated_time(decode):
    """The settings are those of the timed run. The figures are those that --simulate gives for
    these settings."""
    given = ["--methods", "draft_model,none,pearl:gamma=7,draft_model,specbranch:epsilon=0"]
    lines = decode("--then-simulate", "c=8", *given)
    clock, simulated = lines[:5], lines[5:]
    assert [line["device"] for line in lines] == ["cpu"] * 5 + ["sim"] * 5
    for one, other in zip(clock, simulated, strict=True):
        for key in ("method", "options", "tokens", "target_passes", "branch_hits"):
            assert one[key] == other[key]
    named = "draft_model:gamma=4,none,pearl:gamma=7,draft_model:gamma=4,specbranch:epsilon=0"
    alone = decode("--simulate", "c=8", "--methods", f"{named},gamma=4")
    for one, other in zip(simulated, alone, strict=True):
        assert one | {"method": ""} == other | {"method": ""}


def test_then_simulate_puts_a_short_table_after_the_first(capsys, folders):
    words = ["compare", "--target", folders[0], "--draft", folders[1], "--limit", 1]
    words += ["--methods", f"pearl,{LONG}", "--then-simulate", "c=4", "--max-tokens", 8]
    assert cli.main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    first, second = out.split("\n\nThe same prompts and settings in simulated time, c=4: ")
    assert "tokens/s" in first
    header, _, *rows = second.split("\n\n")[1].splitlines()
    assert header.split("  ")[0] == "method"
    assert [row.split()[0] for row in rows] == ["none", "pearl", "specbranch:k_max=1,", "epsilon=0"]
    assert max(map(len, out.splitlines())) <= 100


def test_then_simulate_reports_a_token_that_differs(capsys, folders, monkeypatch):
    def broken(work, model, sweep):
        report = right(work, model, sweep)
        report.tallies[0].is_identical = False
        return report

    right = compare.Work.simulated
    monkeypatch.setattr(compare.Work, "simulated", broken)
    words = ["compare", "--target", folders[0], "--draft", folders[1], "--limit", 1]
    words += ["--methods", "pearl", "--then-simulate", "c=4", "--max-tokens", 8]
    assert cli.main(list(map(str, words))) == 1
    assert capsys.readouterr().err == "tokens differ from plain decoding: pearl\n"


def test_what_then_simulate_cannot_be(refused, monkeypatch):
    monkeypatch.setattr(flags, "load", lambda *_: pytest.fail("models were loaded"))
    assert "--then-simulate: expected c=N" in refused("--then-simulate", "c=0")
    assert "no-such" in refused("--then-simulate", "no-such.json")
    assert "got --simulate" in refused("--then-simulate", "c=4", "--simulate", "c=8")
    assert "got cuda:1" in refused("--then-simulate", "c=4", "--device", "cuda:1")


def test_figures_depend_on_no_machine(simulate):
    flags = ["--methods", "pearl,specbranch,none", "--temperature", 0.8]
    first, again = (simulate("c=4", *flags, "--threads", n) for n in (1, 2))
    for one, other in zip(first, again, strict=True):
        assert other["threads"] == 2
        assert other | {"threads": 1, "draft_threads": one["draft_threads"]} == one


def test_the_placement_changes_no_figure(simulate):
    flags = ["--methods", "pearl,none", "--threads", 2, "--placement"]
    shared, split = (simulate("c=3", *flags, placement) for placement in ("shared", "split"))
    for one, other in zip(shared, split, strict=True):
        assert other["placement"] == "split"
        assert other | {"placement": "shared", "threads": one["threads"]} == one


def test_a_cost_file_end_to_end(simulate, tmp_path):
    path = tmp_path / "costs.json"
    file = GOOD | {"T_overlapped": {"1": 200}, "t_overlapped": {"1": 1}, "round_us": 5}
    names = "none,draft_model:gamma=2,pearl:gamma=4,pearl"
    for devices, verified in (("shared", 200), ("separate", 80)):
        path.write_text(json.dumps(file | {"devices": devices}))
        plain, serial, pearl, swept = simulate(path, "--methods", names)
        assert plain["seconds"] == pytest.approx(48 * 85e-6)
        # All chains are full, except those that the answer's end cuts short. The time T of a target
        # forward grows by 10 us per row, up to 5 rows.
        rounds = serial["target_passes"]
        wanted = rounds * (80 + 20 + 5) + 10 * serial["draft_tokens"]
        assert serial["seconds"] == pytest.approx(wanted / 1e6)
        if devices == "shared":
            assert pearl["seconds"] == pytest.approx(pearl["target_passes"] * 205e-6)
        else:
            least = pearl["target_passes"] * (verified + 5)
            wanted = least + 10 * pearl["draft_tokens"]
            assert pearl["seconds"] == pytest.approx(wanted / 1e6)
        assert [s["gamma"] for s in swept["options"]["sweep"]] == list(range(1, 8))


def test_the_table_picture_and_trace(capsys, folders, tmp_path):
    pytest.importorskip("matplotlib")
    png, trace = tmp_path / "x.png", tmp_path / "x.json"
    words = ["compare", "--target", folders[0], "--draft", folders[1], "--limit", 1]
    words += ["--simulate", "c=4", "--max-tokens", 20, "--png", png, "--trace", trace]
    assert cli.main(list(map(str, words))) == 0
    table = capsys.readouterr().out
    for word in ("simulated, c=4", "tokens/t", "draft forward", "pearl (gamma ", "0.250"):
        assert word in table
    assert png.read_bytes().startswith(b"\x89PNG")
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    # one unit is shown as 1e6 us
    assert {e["dur"] for e in events if e["name"] == "verify"} == {4e6}
    # `auto` skips drafting if drafting does not pay. A step without rows takes no time.
    assert {e["dur"] for e in events if e["name"] == "step"} == {0.0, 1e6}


def test_a_setting_that_differs_from_none_is_told(folders):
    """A setting whose tokens differ is reported, even if it is not the best one."""
    config = EngineConfig(model=folders[0], speculative=SpeculativeConfig(model=folders[1]))
    model, sweep = read_costs("c=4"), Sweep(4)
    pearl, none = methods.parse("pearl"), methods.parse("none")
    pair = load_pair(config)
    with closing(Bench.open(config, pair, sweep.widest([pearl]), costs=model.costs())) as bench:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        simulator = Simulator(bench, model, sweep, params)
        [right] = simulator.report([pearl], none, ["def"]).tallies
        wrong = 1 if right.method.gamma > 1 else 3
        simulator._tallies["pearl", ("gamma", wrong)].is_identical = False
        [told] = simulator.report([pearl], none, ["def"]).tallies
        assert right.is_identical
        assert (told.method, told.is_identical) == (right.method, False)


def test_c_is_a_ratio_of_whole_forwards():
    model = read_costs("c=8")
    assert (model.c, model.unit) == (8, UNIT)
    assert [model.target(n) for n in (1, 64, 65, 129)] == [8, 8, 16, 24]
    assert [model.draft(n) for n in (1, 128, 129)] == [1, 1, 2]


def test_costs_between_below_and_beyond_the_rows_given():
    model = cost_model("f", {"T": {"9": 60, "2": 10, "5": 40}, "t": {"3": 7}})
    us = [model.target(n) * 1e6 for n in (1, 2, 3, 5, 6, 9, 11, 64)]
    assert us == pytest.approx([10, 10, 20, 40, 45, 60, 70, 335])
    assert [model.draft(n) * 1e6 for n in (1, 3, 64)] == pytest.approx([7] * 3)
    assert (model.unit, model.c, model.round_cost) == (SECOND, round(10 / 7), 0.0)
    falling = cost_model("f", {"T": {"1": 20, "2": 10}, "t": {"1": 1}})
    assert falling.target(5) == 0.0


def test_which_overlapped_costs_hold():
    file = {"T": {"1": 80}, "t": {"1": 10}, "T_overlapped": {"1": 200}}
    shared, separate = cost_model("f", file), cost_model("f", file | {"devices": "separate"})
    assert (shared.target_overlapped(1), shared.draft_overlapped(1)) == (200e-6, 10e-6)
    assert separate.target_overlapped(1) == 80e-6
    assert shared.c == separate.c == 8


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ([], "object"),
        (GOOD | {"X": {}}, "'X'"),
        ({"t": {"1": 1}}, "costs T"),
        ({"T": {"1": 1}}, "costs t"),
        (GOOD | {"T": {}}, "T: expected {rows: us}"),
        (GOOD | {"T": 8}, "T: expected {rows: us}"),
        (GOOD | {"T": {"0": 1}}, "'0'"),
        (GOOD | {"T": {"-1": 1}}, "'-1'"),
        (GOOD | {"T": {"1.5": 1}}, "'1.5'"),
        (GOOD | {"T": {"01": 1}}, "'01'"),
        (GOOD | {"T": {"²": 1}}, "positive integer"),
        (GOOD | {"T": {"9" * 5000: 1}}, "positive integer"),
        (GOOD | {"t": {"1": -1}}, "t(1)"),
        (GOOD | {"t": {"1": float("nan")}}, "nan"),
        (GOOD | {"t": {"1": 1e400}}, "inf"),
        (GOOD | {"t": {"1": "1"}}, "'1'"),
        (GOOD | {"t": {"1": True}}, "True"),
        (GOOD | {"t": {"1": None}}, "None"),
        (GOOD | {"t": {"1": 0}}, "above 0"),
        (GOOD | {"T_overlapped": {"x": 1}}, "T_overlapped"),
        (GOOD | {"t_overlapped": {"1": [1]}}, "t_overlapped(1)"),
        (GOOD | {"round_us": -1}, "round_us"),
        (GOOD | {"round_us": "fast"}, "round_us"),
        (GOOD | {"devices": "two"}, "devices"),
        (GOOD | {"devices": 2}, "devices"),
        (GOOD | {"about": 3}, "about"),
        (GOOD | {"about": ""}, "about"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-",
)
def test_a_cost_file_that_cannot_be(refused, tmp_path, file, sentence):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(file))
    assert sentence in refused("--simulate", str(path))


@pytest.mark.parametrize(
    "given", ["c=0", "c=", "c=-8", "c=1.5", "c=x", "c=²", "c=1001", "c=" + "9" * 5000, "", "/none"]
)
def test_what_simulate_cannot_be(refused, given):
    assert given[:70] in refused("--simulate", given)


def test_a_name_that_is_not_shipped_tells_those_that_are(refused):
    said = refused("--simulate", "h200")
    assert f"expected c=N, a cost file or one of {', '.join(shipped())}, got 'h200'" in said


def test_a_cost_file_is_a_small_file(refused, tmp_path):
    large = tmp_path / "costs.json"
    large.write_text(json.dumps(GOOD | {"about": "x" * MOST_BYTES}))
    assert f"expected at most {MOST_BYTES} bytes" in refused("--simulate", str(large))
    assert "a cost file" in refused("--simulate", str(tmp_path))


@pytest.mark.parametrize("text", ["{", "\x00", "[" * 100_000, '"\ud800"'], ids=range(4))
def test_a_file_that_is_not_json(refused, tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "costs.json" in refused("--simulate", str(path))


def test_a_shipped_file_is_known_by_its_name(simulate):
    """With an 8B target and a 1B draft, drafting is costly: a burst of pearl lasts longer than the
    verification, so it limits the round."""
    methods = "none,draft_model:gamma=2,pearl:gamma=4"
    model = read_costs("h200-8b-1b")
    plain, serial, pearl = simulate("h200-8b-1b", "--methods", methods)
    assert plain["seconds"] == pytest.approx(48 * (model.target(1) + model.round_cost))
    assert serial["seconds"] > serial["target_passes"] * model.target(1)
    burst = 4 * model.draft_overlapped(1)
    assert pearl["seconds"] > pearl["target_passes"] * burst


def test_costs_that_grow_out_of_bounds():
    file = {"T": {"1": 0.001, "2": 1e9}, "t": {"1": 1}}
    assert cost_model("f", file).costs() is not None  # extrapolated, 64 rows cost 63e9 us
    assert issubclass(InvalidInputError, ValueError)
