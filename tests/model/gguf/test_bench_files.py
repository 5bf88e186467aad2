"""Contract under test: bench.peers and bench.peers.quality on a GGUF file, with a fake peer. Each
engine in the table is compared with ours on the same file. If an engine is left out, a message says
so."""

import json
import math
import sys
import textwrap

import numpy as np
import pytest

from sbrt import Engine, SamplingParams

main = pytest.importorskip("bench.peers.__main__", reason="benches run from the checkout").main
from bench.peers import lines, quality, settings  # noqa: E402

PROMPT, TOKENS, ROWS = "for i in range(10)", 6, (1, 2, 4, 8, 16)
FAKE = """
    import array, json, sys
    sys.path.insert(0, {workers!r})
    from serve import serve

    class Peer:
        def open(self, folder, draft, dtype, mode, threads, build):
            if (folder, dtype) != ({path!r}, "gguf"):
                raise ValueError(folder, dtype)
            return {{"version": "fake"}}

        def generate(self, ids, max_tokens):
            return {{"ids": {answer!r}, "seconds": 0.5, "timed": 5, "picking": 0.125}}

        def gap(self, ids, token):
            return {{"gap": {gap}}}

        def forward(self, rows, context, times):
            return {{"us": [10.0 * rows] * times}}

        def logits(self, ids, path):
            with open(path, "wb") as file:
                array.array("f", [0.0] * {vocab} * len(ids)).tofile(file)
            return {{"rows": len(ids), "vocab": {vocab}}}

    serve(Peer())
"""


@pytest.fixture
def path(files, tmp_path):
    return files.write(tmp_path / "tiny.gguf", kind="Q8_0")


@pytest.fixture
def ours(path):
    """Return our engine's answer as tokens, and the size of its vocabulary."""
    with Engine.from_pretrained(path, num_threads=1) as engine:
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        return engine.generate(PROMPT, params)[0].outputs[0].token_ids, engine.pair.vocab


@pytest.fixture
def fake(path, ours, tmp_path, monkeypatch):
    """fake(answer, modes): writes a fake peer, a program that answers every prompt with the ids
    `answer`. Returns the peer's description."""
    monkeypatch.setattr(settings, "WORKERS", tmp_path)
    monkeypatch.setattr(quality, "WORKERS", tmp_path)
    monkeypatch.setattr(settings.Peer, "python", lambda peer: settings.Path(sys.executable))

    def write(answer, modes=("plain",), gap=1.0):
        workers = str(settings.Path(settings.__file__).parent / "workers")
        given = {"workers": workers, "path": str(path), "answer": answer, "vocab": ours[1]}
        given["gap"] = gap
        (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE).format(**given))
        return settings.Peer("fake", "fake.py", None, ("float32",), (), file_modes=modes)

    return write


@pytest.fixture
def bench(path, tmp_path, capsys):
    """bench(*peers): runs the benchmark. Returns (exit code, JSON lines by name, stderr)."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPT}) + "\n")

    def run(*peers, argv=()):
        given = ["--target", str(path), "--prompts", str(prompts), "--threads", "1"]
        given += ["--methods", "lookup,draft_model", "--max-tokens", str(TOKENS), "--json"]
        code = main([*given, *argv], peers=peers)
        out, err = capsys.readouterr()
        found = json.loads(out)
        return code, {f"{x['peer']} {x['dtype']} {x['mode']}": x for x in found}, err

    return run


def wrong(ids, at):
    return [*ids[:at], (ids[at] + 1) % 200, *ids[at + 1 :]]


def test_lines_of_a_file(bench, fake, ours):
    blind = settings.Peer("blind", "fake.py", None, ("float32",), ())
    peer = fake(wrong(ours[0], 3), ("plain", "draft_model"), lines.TIES["gguf"] / 2)
    code, found, err = bench(peer, blind)
    assert code == 0
    assert list(found) == [
        "sbrt gguf none", "sbrt gguf lookup", "sbrt gguf/float32 none",
        "sbrt gguf/float32 lookup", "fake gguf plain",
    ]  # fmt: skip
    line = found["fake gguf plain"]
    assert (line["correct"], line["parts_at"], line["of_them_at_ties"]) == (True, [3], 1)
    assert line["picking_share"] == 0.25
    assert [line[f"forward_us_{n}"] for n in ROWS] == [10.0 * n for n in ROWS]
    assert found["sbrt gguf lookup"]["parts_at"] == [None]
    assert "tiny: blind reads no GGUF file: left out" in err


def test_a_peer_that_reads_a_file_wrongly_gets_no_figure(bench, fake, ours):
    code, found, _ = bench(fake(wrong(ours[0], 0)), argv=["--dtypes", "gguf"])
    line = found["fake gguf plain"]
    assert (code, line["correct"], line["parts_at"]) == (1, False, [0])
    assert line["tokens_per_second"] is line["forward_us_4"] is None
    assert "sbrt gguf/float32 none" not in found


def test_divergences_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 50)).astype(np.float32) * 4
    for p, q, found in zip(a, b, quality.divergences(a, b), strict=True):
        p, q = (np.exp(x.astype(np.longdouble)) for x in (p, q))
        p, q = p / p.sum(), q / q.sum()
        assert math.isclose(found, (p * np.log(p / q)).sum(), rel_tol=1e-9)
    assert list(quality.divergences(a, a)) == [0, 0, 0]


def test_the_error_is_that_of_windows():
    """The standard error must be computed from the means of windows, not from single positions. In
    this test all positions of a window have the same value."""
    assert quality.error_of([np.full(512, 1.0), np.full(512, 3.0)]) == 1.0
    assert quality.error_of([np.arange(5.0)]) == 0.0


@pytest.fixture
def text(tmp_path):
    written = tmp_path / "text.txt"
    written.write_text("def quick(items):\n    return sorted(items)\n" * 20)
    return written


def test_quality_of_ours_and_of_a_peer(path, fake, ours, text, monkeypatch, capsys):
    """The fake peer gives all tokens equal logits. Its divergence from our model must be log(vocab)
    minus our model's entropy."""
    monkeypatch.setattr(quality, "LLAMA", fake(ours[0]))
    argv = ["--target", str(path), "--text", str(text), "--positions", "70", "--threads", "1"]
    assert quality.main([*argv, "--json"]) == 0
    mine, theirs = json.loads(capsys.readouterr().out)
    assert (mine["positions"], theirs["positions"]) == (70, 70)
    pair = quality.load_pair(quality.EngineConfig(model=path, activation_dtype="float32"))
    [ids] = quality.windows_of(text, pair, 70)
    logs = [quality.log_softmax(row) for row in quality.reader(pair.target, 1)(ids)]
    entropy = -np.mean([np.exp(p) @ p for p in logs])
    assert math.isclose(theirs["mean_kl"], math.log(ours[1]) - entropy, rel_tol=1e-6)
    assert theirs["top1_agreement"] == np.mean([p.argmax() == 0 for p in logs])
    assert 0 < mine["mean_kl"] < theirs["mean_kl"]
    assert mine["top1_agreement"] > theirs["top1_agreement"]


def test_windows_begin_anew(path, text, monkeypatch):
    """Logits from forwards of 64 rows must equal those from forwards of one row. They must do so
    even after another window was read."""
    pair = quality.load_pair(quality.EngineConfig(model=path))
    [ids] = quality.windows_of(text, pair, 80)
    rows = quality.reader(pair.target, 1)(ids)
    monkeypatch.setattr(quality, "ROWS", 1)
    read = quality.reader(pair.target, 1)
    read(ids[40:])
    assert np.array_equal(read(ids), rows)


def test_a_text_that_is_too_short_is_refused(path, text, capsys):
    argv = ["--target", str(path), "--text", str(text), "--positions", "100000"]
    assert quality.main(argv) == 2
    assert "expected 100000 tokens, got" in capsys.readouterr().err
