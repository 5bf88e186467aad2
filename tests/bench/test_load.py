"""Contract under test: bench.decode --concurrency and --rate. The bench keeps the requested load,
times every output, and compares every answer with plain decoding of its prompt alone."""

import json
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest

from bench import decode
from bench.models import traffic
from bench.models.texts import TEXTS
from bench.peers.lines import first_difference
from sbrt import Engine, SamplingParams, methods
from sbrt.errors import EngineError
from sbrt.tools.prompts import read_prompts

NONE = methods.parse("none")
PARAMS = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
KEYS = """method concurrency rate runs requests tokens seconds tokens_per_second
best_tokens_per_second request_tokens_per_second first_token_p50_seconds first_token_p99_seconds
inter_token_p50_seconds inter_token_p99_seconds output_gap_p50_seconds output_gap_p99_seconds
speedup identical_to_none max_num_seqs threads draft_threads dtype activation_dtype device
options""".split()


@pytest.fixture
def work(folders):
    """An engine with four seats, and seven prompts of different lengths."""
    with Engine.from_pretrained(folders[0], num_threads=1, max_num_seqs=4) as engine:
        yield engine, traffic.Work([[n + 1] * (n + 2) for n in range(7)], PARAMS)


class Watched:
    """An engine that records how many requests it has at the beginning of each round."""

    def __init__(self, engine):
        self.engine, self.sizes = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def step(self):
        self.sizes.append(len(self.engine.unfinished_requests()))
        return self.engine.step()


@pytest.mark.parametrize("concurrency", [1, 3, 4])
def test_a_closed_loop_has_as_many_in_flight_at_every_round(work, concurrency):
    engine, given = Watched(work[0]), work[1]
    played = traffic.play(engine, NONE, traffic.Load(concurrency=concurrency), given)
    assert set(engine.sizes) == {concurrency}
    assert [answer.prompt for answer in played.counted] == list(range(7))
    assert all(answer.finished and len(answer.ids) == 6 for answer in played.counted)
    assert len(played.answers) <= 7 + concurrency - 1
    assert not engine.has_unfinished_requests()
    assert played.tokens == sum(len(answer.ids) for answer in played.answers) >= 42


@pytest.mark.parametrize("rate", [50.0, 1e6])
def test_at_a_rate_every_prompt_comes_once(work, rate):
    engine, given = work
    played = traffic.play(engine, NONE, traffic.Load(rate=rate), given)
    assert played.tokens == 42
    assert [answer.prompt for answer in played.answers] == list(range(7))
    wanted = traffic.arrivals(rate, 7, given.seed)
    begin = played.answers[0].arrived
    assert [a.arrived - begin for a in played.answers] == pytest.approx(wanted, abs=1e-9)
    # no output comes before its request, and waiting in the queue is part of the latency
    assert all(answer.times[0] > answer.arrived for answer in played.answers)


def test_arrivals_are_a_poisson_process_of_the_seed():
    times = traffic.arrivals(4.0, 4001, seed=3)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert times[0] == 0
    assert times == traffic.arrivals(4.0, 4001, seed=3) != traffic.arrivals(4.0, 4001, seed=4)
    # an exponential distribution has mean 1/4 and standard deviation 1/4; the tolerance is four
    # standard errors
    assert mean == pytest.approx(0.25, abs=4 * 0.25 / 4000**0.5)
    squares = sum(gap**2 for gap in gaps) / len(gaps)
    assert squares == pytest.approx(2 / 16, abs=4 * (20 / 16**2 / 4000) ** 0.5)


def test_figures_of_a_run_are_those_of_its_requests():
    first = traffic.Answer(0, 10.0, times=[11.0, 13.0, 14.0], counts=[1, 4, 1], ids=[1] * 6)
    other = traffic.Answer(1, 12.0, times=[16.0], counts=[2], ids=[1] * 2)
    extra = traffic.Answer(0, 14.0, is_ballast=True, times=[20.0], counts=[1], ids=[1])
    played = traffic.Played([first, other, extra], seconds=3.0)
    assert (played.tokens, played.rate) == (9, 3.0)
    assert played.request_rate == 1.0  # the median of 6 tokens in 4 s and 2 tokens in 4 s
    assert (played.first(0.5), played.first(0.99)) == (1.0, 4.0)
    assert first.token_gaps == [0.5, 0.5, 0.5, 0.5, 1.0]
    assert (played.between_tokens(0.5), played.between_tokens(0.99)) == (0.5, 1.0)
    assert (played.between_outputs(0.5), played.between_outputs(0.99)) == (1.0, 2.0)
    assert traffic.percentile([], 0.5) == 0.0
    assert traffic.percentile(list(range(1, 101)), 0.99) == 99


def test_the_time_that_all_share_is_that_between_the_last_first_token_and_the_first_last():
    first = traffic.Answer(0, 0.0, times=[1.0, 3.0, 4.0, 6.0], counts=[1, 2, 3, 5])
    other = traffic.Answer(1, 0.0, times=[2.0, 4.0, 5.0], counts=[1, 7, 4])
    assert traffic.Played([first, other], 6.0).shared() == (2 + 3 + 7 + 4, 3.0)
    late = traffic.Answer(2, 0.0, times=[5.0, 7.0], counts=[1, 1])
    assert traffic.Played([first, other, late], 7.0).shared() == (0, 0.0)


def test_an_answer_is_compared_as_far_as_it_came():
    cut, whole = traffic.Answer(0, 0.0, ids=[1, 2]), traffic.Answer(0, 0.0, ids=[1, 2])
    whole.finished = True
    assert cut.agrees([1, 2, 3])
    assert not whole.agrees([1, 2, 3])
    assert whole.agrees([1, 2])
    assert not cut.agrees([1, 3, 3])


def test_an_error_of_a_request_ends_the_bench(work):
    engine, given = work
    wrong = SimpleNamespace(finish_reason="error", stop_reason="logits: expected numbers, got nan")

    class Failing(Watched):
        def step(self):
            return [replace(output, outputs=[wrong]) for output in self.engine.step()]

    with pytest.raises(EngineError, match="method none: logits: expected numbers, got nan"):
        traffic.play(Failing(engine), NONE, traffic.Load(concurrency=1), given)


# ---- the command


@pytest.fixture
def run(capsys, folders):
    """Run bench.decode on the tiny pair; returns (exit code, stdout, stderr)."""

    def call(*flags):
        words = ["--target", folders[0], "--draft", folders[1], "--threads", 1, "--limit", 6]
        code = decode.main([*map(str, words), "--max-tokens", "8", *map(str, flags)])
        return code, *capsys.readouterr()

    return call


def test_a_line_for_each_load_and_method(run):
    flags = ["--methods", "none,pearl:gamma=2,auto", "--concurrency", "1,3", "--rate", "200"]
    code, out, _ = run(*flags, "--runs", 2, "--ignore-eos", "--json")
    lines = json.loads(out)
    assert code == 0
    assert [(x["concurrency"], x["rate"], x["method"]) for x in lines] == [
        (concurrency, rate, method)
        for concurrency, rate in ((1, None), (3, None), (None, 200.0))
        for method in ("none", "pearl:gamma=2", "auto")
    ]
    for line in lines:
        assert list(line) == KEYS
        assert line["identical_to_none"] is True
        assert (line["runs"], line["max_num_seqs"]) == (2, 8)
        assert line["tokens"] >= 2 * 8 * line["requests"]
        assert 0 < line["first_token_p50_seconds"] <= line["first_token_p99_seconds"]
        assert 0 < line["inter_token_p50_seconds"] <= line["inter_token_p99_seconds"]
        assert line["output_gap_p99_seconds"] >= line["inter_token_p99_seconds"]
        assert 0 < line["tokens_per_second"] <= line["best_tokens_per_second"]
    assert lines[0]["speedup"] == 1.0
    assert lines[0]["request_tokens_per_second"] > 0


def test_the_baseline_runs_even_if_it_was_not_asked_for(run):
    code, table, _ = run("--methods", "pearl", "--concurrency", 2, "--runs", 1)
    assert code == 0
    rows = [line.split() for line in table.splitlines()]
    found = [(row[0], row[3], row[-1]) for row in rows if row[1:3] == ["at", "once"]]
    assert found == [("1", "none", "yes"), ("2", "pearl", "yes")]
    _, out, _ = run("--methods", "pearl", "--concurrency", 2, "--runs", 1, "--json")
    [line] = json.loads(out)
    assert (line["method"], line["max_num_seqs"]) == ("pearl", 2)
    assert line["speedup"] > 0


@pytest.mark.parametrize("extra", [[], ["--temperature", 0.9, "--seed", 5]])
def test_a_wrong_token_is_a_defect(run, monkeypatch, extra):
    """Sampled tokens are compared, too, because plain decoding with the same seed samples the same
    tokens."""
    flags = ["--methods", "none,lookup", "--concurrency", "2", "--runs", 1, *extra]
    assert run(*flags)[0] == 0
    before = traffic.Answer.add

    def add(self, ids, now):
        before(self, [ids[0] + 1, *ids[1:]] if self.prompt == 1 and not self.ids else ids, now)

    monkeypatch.setattr(traffic.Answer, "add", add)
    code, out, err = run(*flags, "--json")
    assert code == 1
    assert [line["identical_to_none"] for line in json.loads(out)] == [False, False]
    said = "tokens differ from plain decoding alone: none (1 at once), none (2 at once)"
    assert f"{said}, lookup (2 at once)" in err


def test_no_request_finds_its_prompt_in_the_cache(run, monkeypatch):
    cached = []
    step = Engine.step

    def noted(self):
        outputs = step(self)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(Engine, "step", noted)
    assert run("--methods", "none", "--concurrency", 2, "--runs", 2)[0] == 0
    assert set(cached) == {0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--concurrency", "0"],
            "--concurrency: expected numbers from 1 to 64, got '0'",
        ),
        (["--concurrency", "1,x"], "got 'x'"),
        (["--concurrency", "7"], "expected at most one for each of 6 prompts that fit, got 7"),
        (["--rate", "0"], "--rate: expected requests per second above 0, got '0'"),
        (["--rate", "nan"], "got 'nan'"),
        (["--rate", "inf"], "got 'inf'"),
        (["--runs", "2"], "--runs: expected --concurrency or --rate with it, got neither"),
        (["--rate", "1", "--runs", "0"], "--runs: expected"),
        (["--rate", "1", "--max-tokens", "0"], "--max-tokens: expected at least 1, got 0"),
        (["--rate", "1", "--stream", "2"], "--stream: expected no --rate next to it"),
        (["--concurrency", "1", "--png", "x.png"], "expected no --png next to it"),
        (["--concurrency", "1", "--placement", "split"], "expected --placement shared, got split"),
    ],
)
def test_bad_input_is_one_sentence(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert said in errors[0]


def test_prompts_differ_from_their_beginning():
    texts = read_prompts(TEXTS)
    assert len(texts) == 32
    assert max(first_difference(a, b) for a, b in combinations(texts, 2)) < 20  # characters
    assert all(text.count("\n") >= 4 and len(text) >= 150 for text in texts)
