"""Contract under test: --concurrency. In simulated time, a closed loop keeps N sequences in flight.
Only rounds in which all N sequences decode are counted. Answers are the same as by plain decoding.
With N = 1 the figures are the same as without the flag."""

import json

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, methods
from sbrt.serve.pair import load_pair
from sbrt.tools import cli, closed_loop, flags, plan
from sbrt.tools.closed_loop import ClosedLoop
from sbrt.tools.costs import read_costs

TOY = ("plan", "--costs", "c=4", "--acceptance", "0.7")
METHODS = "none,draft_model:gamma=3,pearl:gamma=3,hedge:gamma=3,F=4"
PROMPTS = [list(range(1, 3 + 40 * i)) for i in range(3)]  # the last prompt is fed in two pieces


@pytest.fixture
def run(capsys):
    """run(*words): run a command of `sbrt` and return its JSON lines."""

    def call(*words):
        code = cli.main([*map(str, words), "--json"])
        out = capsys.readouterr().out
        assert code == 0
        return json.loads(out)

    return call


@pytest.fixture
def loop(folders):
    """loop(n, method, prompts, **params): run a closed loop of n sequences on the tiny pair at c=4,
    and return its result."""

    def call(n, method, prompts=PROMPTS, **params):
        given = methods.parse(method)
        config = EngineConfig(
            model=folders[0], speculative={"model": folders[1], "method": method}, max_num_seqs=n
        )
        costs = read_costs("c=4").costs()
        params = SamplingParams(**{"temperature": 0, "ignore_eos": True, "max_tokens": 24} | params)
        said = []
        with Engine(config, pair=load_pair(config), costs=costs) as engine:
            load = ClosedLoop(engine, given, n, said.append).run(prompts, params)
        assert said == sorted(said)
        assert said[-1] == len(load.outputs)
        return load

    return call


def test_one_sequence_in_flight_has_the_figures_of_a_run_without_the_flag(run):
    for one, alone in zip(
        run(*TOY, "--methods", METHODS, "--concurrency", 1),
        run(*TOY, "--methods", METHODS),
        strict=True,
    ):
        rate = one.pop("tokens_per_second")
        assert rate == one.pop("full_tokens") / one.pop("full_seconds")
        assert rate == pytest.approx(alone.pop("tokens_per_second"), rel=1e-9)
        assert one.pop("speedup") == pytest.approx(alone.pop("speedup"), rel=1e-9)
        assert one.pop("concurrency") == 1
        assert one == alone


def test_a_round_of_many_lasts_as_long_as_a_round_of_one(run):
    """In the cost models c=..., 64 rows cost as much as one row. So plain decoding of N sequences
    generates N tokens in the time of one token."""
    lines = run(*TOY, "--methods", "none,pearl:gamma=3", "--concurrency", "1,4,16")
    assert [line["concurrency"] for line in lines] == [1, 1, 4, 4, 16, 16]
    plain, pearl = lines[::2], lines[1::2]
    assert [line["tokens_per_second"] for line in plain] == pytest.approx([0.25, 1, 4])
    assert all(line["identical_to_none"] for line in lines)
    # The 3 = c - 1 draft steps last no longer than a target forward. So the speedup is that of one
    # sequence.
    assert [line["speedup"] for line in pearl] == pytest.approx([pearl[0]["speedup"]] * 3, rel=0.05)


def test_only_rounds_of_all_sequences_count(loop):
    """Every counted round of plain decoding gives N tokens, and lasts as long as c = 4 draft
    forwards."""
    for n in (1, 2, 3):
        load = loop(n, "none")
        assert [len(output.outputs[0].token_ids) for output in load.outputs] == [24] * max(
            3, 2 * n - 1
        )
        assert load.tokens > 0
        assert load.tokens % n == 0
        assert load.seconds == pytest.approx(4 * load.tokens / n)


def test_prompts_come_again_until_every_seat_has_had_company(loop):
    load = loop(4, "pearl:gamma=3", PROMPTS[:2])
    assert len(load.outputs) == closed_loop.count(2, 4) == 7
    assert [output.prompt_token_ids for output in load.outputs] == [
        PROMPTS[i % 2] for i in range(7)
    ]
    answers = [output.outputs[0].token_ids for output in load.outputs]
    assert answers == [answers[i % 2] for i in range(7)]


def test_answers_without_tokens_bring_none(loop):
    load = loop(2, "none", max_tokens=0)
    assert [output.finished for output in load.outputs] == [True] * 3
    assert load.tokens == 0


def test_a_comparison_of_one_number(run, folders):
    pair = ("--target", folders[0], "--draft", folders[1], "--limit", 2, "--max-tokens", 12)
    given = ("compare", *pair, "--methods", "pearl:gamma=2,none", "--simulate", "c=4")
    lines = run(*given, "--concurrency", 2)
    assert [line["concurrency"] for line in lines] == [2, 2]
    assert lines[1]["tokens_per_second"] == pytest.approx(0.5)
    assert all(line["device"] == "sim" and line["identical_to_none"] for line in lines)
    assert "concurrency" not in run(*given)[0]


def test_the_plot_has_a_line_for_each_method(run, tmp_path, monkeypatch):
    """The plot shows the number of sequences on the x axis. The y axis is the speedup over plain
    decoding of the same number of sequences."""
    axes, draw = [], plan._lines
    monkeypatch.setattr(
        plan, "_lines", lambda axis, reports: draw(axes.append(axis) or axis, reports)
    )
    path = tmp_path / "plot.png"
    given = (*TOY, "--methods", "none,pearl:gamma=3", "--concurrency", "1,2,4")
    lines = run(*given, "--png", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    [axis] = axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()[1:]}
    assert drawn == {
        method: [
            [line["concurrency"], line["speedup"]] for line in lines if line["method"] == label
        ]
        for method, label in (("none", "none"), ("pearl", "pearl:gamma=3"))
    }


def test_the_table_has_a_column_for_each_number(capsys):
    assert cli.main([*TOY, "--methods", METHODS, "--concurrency", "1,2,4,8,16"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    header, _, plain, *_ = out.split("\n\n")[1].splitlines()
    assert header.split() == ["sequences", "1", "2", "4", "8", "16"]
    assert (
        plain.split() == "none 0.250 1.00x 0.500 1.00x 1.000 1.00x 2.000 1.00x 4.000 1.00x".split()
    )
    assert [line.split(":")[0] for line in out.splitlines() if ": Choose " in line] == [
        "1 sequence",
        *(f"{n} sequences" for n in (2, 4, 8, 16)),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([*TOY, "--concurrency", "0"], "from 1 to 64, got '0'"),
        ([*TOY, "--concurrency", "1,65"], "'65'"),
        ([*TOY, "--concurrency", "1,,2"], "''"),
        ([*TOY, "--concurrency", "²"], "'²'"),
        ([*TOY, "--concurrency", "9" * 5000], "from 1 to 64"),
        ([*TOY, "--concurrency", "00000000199"], "from 1 to 64"),
        (["compare", "--concurrency", "2"], "--simulate"),
        (["compare", "--concurrency", "2", "--then-simulate", "c=4"], "--simulate"),
        (["compare", "--simulate", "c=4", "--concurrency", "1,2"], "expected one number, got 2"),
        (["compare", "--simulate", "c=4", "--concurrency", "2", "--trace", "x.json"], "--trace"),
    ],
)
def test_what_cannot_be_is_refused(capsys, monkeypatch, words, named):
    def load(*_):
        raise InvalidInputError("models were loaded")

    monkeypatch.setattr(flags, "load", load)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
