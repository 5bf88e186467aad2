"""Contract under test: bench.peers gives no figures to a peer whose tokens are wrong, and prints a
message for each peer it leaves out. Its JSON has the promised keys. The peers here are fakes:
processes that speak the workers' protocol."""

import json
import sys
import textwrap

import pytest

from sbrt import Engine, SamplingParams
from sbrt.model import demo_pair

main = pytest.importorskip("bench.peers.__main__", reason="benches run from the checkout").main
from bench.models import traffic  # noqa: E402
from bench.peers import lines, memory, report, settings  # noqa: E402

KEYS = [
    "peer", "checkpoint", "dtype", "mode", "threads", "tokens_per_second", "forward_us_1",
    "forward_us_8", "correct",
]  # fmt: skip
PROMPT = "def add(a, b):\n    return"
TOKENS = 6
FAKE = """
    import json, sys
    sys.path.insert(0, {workers!r})
    from serve import serve

    class Peer:
        def open(self, folder, draft, dtype, mode, threads, build):
            print("noise that is no answer")
            if {opens!r} != "opens":
                raise MemoryError({opens!r})
            self.mode, self.dtype = mode, dtype
            return {{"version": "fake"}}

        def generate(self, ids, max_tokens):
            if {dies!r} == self.mode:
                sys.exit("a fatal signal")
            answers = json.loads({answers!r})
            found = answers.get(f"{{self.dtype}} {{self.mode}}", answers["plain"])
            return {{"ids": found[:max_tokens], "seconds": 0.5, "timed": max_tokens - 1}}

        def generate_batch(self, prompts, max_tokens):
            answers = json.loads({answers!r})
            found = [answers.get("batch", answers["plain"])[:max_tokens] for _ in prompts]
            return {{"ids": found, "seconds": 0.25, "timed": 5, "total": 0.5}}

        def gap(self, ids, token):
            return {{"gap": {gap}}}

        def forward(self, rows, context, times):
            if rows == 8:
                return {{"us": None, "why": "it takes one row at a time"}}
            return {{"us": [100.0] * times}}

    serve(Peer())
"""


@pytest.fixture(scope="module")
def ours():
    """Return the tokens that our engine generates by `none`."""
    with Engine.from_pretrained(demo_pair.demo_folder(demo_pair.TARGET), num_threads=1) as engine:
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        return engine.generate(PROMPT, params)[0].outputs[0].token_ids


@pytest.fixture
def bench(tmp_path, capsys, monkeypatch):
    """Run the bench with a fake peer; returns (exit code, JSON lines by name, stderr)."""
    monkeypatch.setattr(settings, "WORKERS", tmp_path)
    prompts = tmp_path / "prompts.jsonl"

    def run(answers, gap=1.0, opens="opens", dies="", environment=None, argv=(), copies=1, **kinds):
        prompts.write_text(copies * (json.dumps({"prompt": PROMPT}) + "\n"))
        (tmp_path / "fake.py").write_text(
            textwrap.dedent(FAKE).format(
                workers=str(settings.Path(settings.__file__).parent / "workers"),
                answers=json.dumps(answers),
                gap=gap,
                opens=opens,
                dies=dies,
            )
        )
        kinds = {"plain": ("bfloat16",), "speculative": ()} | kinds
        peer = settings.Peer("fake", "fake.py", environment, **kinds)
        monkeypatch.setattr(settings.Peer, "python", python_of(settings.Peer.python))
        given = ["--checkpoints", "demo", "--prompts", str(prompts), "--threads", "1", "--json"]
        given += ["--methods", "lookup"]  # auto would measure costs
        code = main([*given, "--max-tokens", str(TOKENS), *argv], peers=[peer])
        out, err = capsys.readouterr()
        found = json.loads(out) if out else []
        return code, {f"{x['peer']} {x['dtype']} {x['mode']}": x for x in found}, err

    return run


def python_of(real):
    """Return a Peer.python that accepts this process's interpreter, even if torch is missing."""
    return lambda peer: real(peer) if peer.environment else settings.Path(sys.executable)


def test_the_json_is_the_list_of_the_issue(bench, ours):
    code, found, err = bench({"plain": ours}, argv=["--dtypes", "bfloat16"])
    assert code == 0
    assert list(found) == ["sbrt bfloat16 none", "sbrt bfloat16 lookup", "fake bfloat16 plain"]
    for line in found.values():
        assert list(line)[: len(KEYS)] == KEYS
        assert (line["checkpoint"], line["threads"], line["correct"]) == ("demo", 1, True)
        assert line["tokens"] == TOKENS
    fake = found["fake bfloat16 plain"]
    assert fake["tokens_per_second"] == (TOKENS - 1) / 0.5
    assert (fake["forward_us_1"], fake["forward_us_8"], fake["version"]) == (100.0, None, "fake")
    assert err.count("no forward of 8 rows: it takes one row at a time") == 1
    none = found["sbrt bfloat16 none"]
    assert 0 < none["forward_us_1"] < none["forward_us_8"]
    assert none["tokens_per_second"] > 0


def wrong(ids, at):
    return [*ids[:at], (ids[at] + 1) % 4096, *ids[at + 1 :]]


def test_a_lying_peer_gets_no_figure(bench, ours):
    code, found, _ = bench({"plain": wrong(ours, 3)}, argv=["--dtypes", "bfloat16"])
    line = found["fake bfloat16 plain"]
    assert code == 1
    assert (line["correct"], line["prompts_that_differ"], line["of_them_at_ties"]) == (False, 1, 0)
    for figure in ("tokens_per_second", "forward_us_1", "forward_us_8", "spread", "seconds"):
        assert line[figure] is None
    assert found["sbrt bfloat16 none"]["correct"]


def test_a_peer_may_part_at_a_near_tie_of_its_own(bench, ours):
    tie = lines.TIES["bfloat16"] / 2
    code, found, _ = bench({"plain": wrong(ours, 3)}, gap=tie, argv=["--dtypes", "bfloat16"])
    line = found["fake bfloat16 plain"]
    assert code == 0
    assert (line["correct"], line["prompts_that_differ"], line["of_them_at_ties"]) == (True, 1, 1)
    assert line["tokens_per_second"] > 0


BATCHES = {"in_batches": ("plain",), "speculative": (("good", ("bfloat16",)),), "copies": 5}
IN_BATCHES = ["--dtypes", "bfloat16", "--concurrency", "2"]


def test_full_batches_are_measured_besides(bench, ours):
    code, found, _ = bench({"plain": ours}, argv=IN_BATCHES, **BATCHES)
    assert code == 0
    fake = found["fake bfloat16 plain"]
    assert (fake["batch"], fake["batch_tokens_per_second"]) == (2, 5 / 0.25)
    assert fake["batch_best_tokens_per_second"] == 5 / 0.25
    assert fake["batch_total_tokens_per_second"] == 2 * TOKENS / 0.5
    for mode in ("none", "lookup"):
        line = found[f"sbrt bfloat16 {mode}"]
        assert (line["prompts"], line["batch"], line["batch_prompts_that_differ"]) == (5, 2, 0)
        assert 0 < line["batch_tokens_per_second"] <= line["batch_best_tokens_per_second"]
    good = found["fake bfloat16 good"]
    assert (good["correct"], good["batch"], good["batch_tokens_per_second"]) == (True, None, None)


@pytest.mark.parametrize("is_tie", [False, True])
def test_what_lies_in_a_batch_alone_gets_no_figure(bench, ours, is_tie):
    gap = lines.TIES["bfloat16"] / 2 if is_tie else 1.0
    answers = {"plain": ours, "batch": wrong(ours, 3)}
    code, found, _ = bench(answers, gap=gap, argv=IN_BATCHES, **BATCHES)
    line = found["fake bfloat16 plain"]
    assert (code, line["correct"]) == (0 if is_tie else 1, is_tie)
    assert (line["batch_prompts_that_differ"], line["batch_of_them_at_ties"]) == (4, 4 * is_tie)
    assert (line["prompts_that_differ"], line["batch"]) == (0, 2)
    assert (line["tokens_per_second"] is None) == (not is_tie)
    assert (line["batch_tokens_per_second"] is None) == (not is_tie)


def test_ours_must_give_in_a_batch_what_it_gives_alone(bench, ours, monkeypatch):
    leaked = property(lambda self: wrong(ours, 2), lambda *_: None)
    monkeypatch.setattr(traffic.Answer, "ids", leaked, raising=False)
    code, found, _ = bench({"plain": ours}, gap=0.0, argv=IN_BATCHES, **BATCHES)
    line = found["sbrt bfloat16 none"]
    assert (code, line["correct"], line["batch_prompts_that_differ"]) == (1, False, 4)
    assert line["batch_of_them_at_ties"] == 0


def test_a_batch_needs_as_many_prompts(bench, ours):
    code, found, err = bench({"plain": ours}, argv=IN_BATCHES, in_batches=("plain",))
    assert (code, found) == (2, {})
    assert "--concurrency: expected at most one for each of 1 prompts that fit, got 2" in err


def test_too_few_tokens_are_not_an_answer(bench, ours):
    code, found, _ = bench({"plain": ours[:-1]}, gap=0.0, argv=["--dtypes", "bfloat16"])
    assert (code, found["fake bfloat16 plain"]["correct"]) == (1, False)


def test_a_quantised_peer_is_compared_with_itself_alone(bench, ours):
    other = [(token + 7) % 4096 for token in ours]
    answers = {"plain": other, "q8_0 good": other, "q8_0 bad": ours}
    code, found, _ = bench(
        answers,
        plain=("q8_0",),
        speculative=(("good", ("q8_0",)), ("bad", ("q8_0",))),
        argv=["--dtypes", "q8_0,int8"],
    )
    assert code == 1
    assert {name: line["correct"] for name, line in found.items()} == {
        "sbrt bfloat16 none": True,
        "sbrt bfloat16 lookup": True,
        "sbrt int8 none": True,
        "sbrt int8 lookup": True,
        "fake q8_0 plain": True,
        "fake q8_0 good": True,
        "fake q8_0 bad": False,
    }


def test_what_cannot_be_compared_has_no_figure(bench, ours):
    kinds = {"plain": ("q8_0",), "speculative": (("good", ("q8_0",)),)}
    argv = ["--dtypes", "q8_0"]
    code, found, _ = bench({"plain": ours}, dies="plain", argv=argv, **kinds)
    line = found["fake q8_0 good"]
    assert code == 1
    assert line["error"] == "nothing to compare with: fake q8_0 plain has no answer"
    assert (line["correct"], line["tokens_per_second"]) == (False, None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"environment": "nowhere"}, "not set up: expected its environment in"),
        ({"opens": "no room"}, "open: MemoryError: no room"),
        ({"dies": "plain"}, "generate: the process ended: a fatal signal"),
    ],
)
def test_a_peer_that_cannot_run_is_named(bench, ours, how, said):
    code, found, err = bench({"plain": ours}, **how, argv=["--dtypes", "bfloat16"])
    line = found["fake bfloat16 plain"]
    assert code == 1
    assert f"demo, fake bfloat16 plain: {said}" in err
    assert line["error"].startswith(said)
    assert (line["correct"], line["tokens_per_second"]) == (False, None)
    assert found["sbrt bfloat16 none"]["correct"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--checkpoints", "m1"],
            "--checkpoints: expected one of m37, m2, demo, demo-75m, demo-1g",
        ),
        (
            ["--peers", "vllm"],
            "--peers: expected one of transformers, llama-cpp-python, openvino-genai",
        ),
        (["--dtypes", "int2"], "--dtypes: expected one of float32, bfloat16, int8"),
        (["--target", "nowhere.gguf"], "nowhere.gguf"),
        (["--target", "a.gguf", "--checkpoints", "m2"], "got both"),
        (["--draft", "a.gguf"], "--draft: expected --target with it, got none"),
        (["--methods", "magic"], "magic"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--limit", "0"], "--limit: expected at least 1, got 0"),
        (["--concurrency", "1"], "--concurrency: expected"),
        (["--max-tokens", "1"], "--max-tokens: expected at least 2, got 1"),
        (
            # No peer has int4, so none is started.
            ["--max-tokens", "5000", "--checkpoints", "m2", "--dtypes", "int4"],
            "prompts: expected one of at most -",
        ),
    ],
)
def test_bad_input_is_one_sentence(capsys, argv, said):
    assert main(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert said in errors[0]


# ---- memory


@pytest.fixture
def opened(monkeypatch):
    """Return a list of the names of the workers' calls, `ask` and `close`, in order."""
    noted = []

    def note(kind, word):
        before = getattr(kind, word)

        def call(self, *given, **more):
            noted.append(word)
            return before(self, *given, **more)

        monkeypatch.setattr(kind, word, call)

    note(settings.Worker, "ask")
    note(settings.Worker, "close")
    return noted


def test_engines_that_do_not_fit_together_are_open_one_after_another(
    bench, ours, opened, monkeypatch
):
    """The results are the same as with all engines open, although a line's reference engine is
    closed before the line runs."""
    kinds = {"speculative": (("good", ("bfloat16",)), ("bad", ("bfloat16",)))}
    answers = {"plain": ours, "bfloat16 bad": wrong(ours, 2)}
    found = []
    for room in (1e15, 1.2 * memory.GIB):
        opened.clear()
        monkeypatch.setattr(memory, "free", lambda room=room: room)
        code, table, err = bench(answers, argv=["--dtypes", "bfloat16"], **kinds)
        assert code == 1
        found.append({name: (line["correct"], line["tokens"]) for name, line in table.items()})
        is_short = room < 1e15
        assert ("one after another" in err) == is_short
        between = opened[opened.index("ask") : len(opened) - opened[::-1].index("ask")]
        assert ("close" in between) == is_short
    assert found[0] == found[1]
    assert [correct for correct, _ in found[0].values()] == [True, True, True, True, False]


def test_one_that_does_not_fit_is_refused(bench, ours, opened, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 2.0 * memory.GIB)
    monkeypatch.setattr(settings, "needed", lambda *given: 3.0 * memory.GIB)
    code, found, err = bench({"plain": ours}, argv=["--dtypes", "bfloat16"])
    line = found["fake bfloat16 plain"]
    assert (code, line["correct"], line["tokens_per_second"]) == (1, False, None)
    assert line["error"] == "memory: expected 3.0 GiB free, got 2.0 GiB"
    assert f"demo, fake bfloat16 plain: {line['error']}" in err
    assert found["sbrt bfloat16 none"]["correct"]
    assert "ask" not in opened


def test_without_room_for_ours_nothing_is_measured(bench, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 1e8)
    code, found, err = bench({}, argv=["--dtypes", "bfloat16"])
    assert (code, found) == (2, {})
    assert "demo, sbrt bfloat16 none: memory: expected 0.3 GiB free, got 0.1 GiB" in err


def test_the_usual_checkpoints_fit_any_machine(capsys):
    assert main(["--methods", "magic"]) == 2  # refused after parsing, before a checkpoint is made
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "of m37,m2,demo,demo-75m,demo-1g (default: m37,m2,demo,demo-75m)" in said


def found(peer, dtype, mode, rate, us=10.0):
    line = lines.Line(peer, "m37", dtype, mode)
    return line.json(2) | {
        "tokens_per_second": rate, "forward_us_1": us, "forward_us_8": us, "spread": [rate, rate],
    }  # fmt: skip


def test_the_table_says_how_ours_stands_beside_the_best_of_theirs():
    text = report.render(
        [
            found("sbrt", "bfloat16", "none", 300.0, us=4.0),
            found("llama-cpp-python", "float16", "plain", 200.0),
            found("llama-cpp-python", "bfloat16", "plain", 150.0, us=12.0),
            found("llama-cpp-python", "float32", "plain", None),
        ]
    )
    assert "ours bfloat16 none is 1.50 times llama-cpp-python float16 plain" in text
    assert "forward_us_8: ours bfloat16 none is 2.50 times llama-cpp-python float16" in text
    assert "ours float32" not in text
    assert "at once" not in text


def test_batches_have_a_table_of_their_own():
    batch = {"batch": 8, "batch_tokens_per_second": 900.0, "batch_best_tokens_per_second": 950.0}
    text = report.render(
        [
            found("sbrt", "bfloat16", "none", 300.0) | batch,
            found("llama-cpp-python", "float16", "plain", 200.0)
            | batch | {"batch_tokens_per_second": 250.0},
        ]
    )  # fmt: skip
    rows = [line.split() for line in text.splitlines()]
    assert ["sbrt", "bfloat16", "none", "8", "900.0", "950.0", "-", "3.00", "0", "0"] in rows
    assert "batch_tokens_per_second: ours bfloat16 none is 3.60 times llama-cpp-python" in text
