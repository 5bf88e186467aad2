"""Contract under test: the demo streams an answer, compares the methods for each kind of prompt,
and ends with one sentence. Its prompts follow the target's chat template."""

import json
import shutil
from types import SimpleNamespace

import pytest

from sbrt.model import demo_pair, real_pair
from sbrt.tools import cli, demo

KINDS = ("chat", "chat", "code", "maths")
SHIPPED = demo_pair.FOLDER / real_pair.NAME


@pytest.fixture
def run(folders, tmp_path, monkeypatch, capsys):
    """Run `sbrt demo` with the tiny pair instead of the real models; returns (code, stdout,
    stderr)."""
    draft = shutil.copytree(folders[1], tmp_path / "draft")
    texts = ["user\nwhy?<|im_end|>\n", "def f(x):", "class A:", "1 + 1 ="]
    lines = [{"category": k, "prompt": t} for k, t in zip(KINDS, texts, strict=True)]
    (draft / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(real_pair, "target_file", lambda: folders[0])
    monkeypatch.setattr(real_pair, "draft_folder", lambda: draft)

    def call(*flags):
        base = ["demo", "--threads", "1", "--max-tokens", "12", "--methods", "draft_model,lookup"]
        code = cli.main([*base, *map(str, flags)])
        return code, *capsys.readouterr()

    return call


def test_the_demo_ends_with_one_sentence(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("why? \n")
    paragraphs = out.rstrip().split("\n\n")
    rows = [line.split() for line in paragraphs[-2].splitlines()]
    assert rows[0] == ["speedup", "chat", "code", "maths", "all"]
    assert [row[0] for row in rows[2:]] == ["none", "draft_model", "lookup"]
    assert rows[2][1:] == ["1.00x"] * 4
    said = paragraphs[-1].replace("\n", " ")
    assert "plain decoding" in said
    assert said.count(". ") == 0


def test_figures_and_picture_go_where_they_are_asked(run, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run("--json", "--png", tmp_path / "lanes.png")
    assert code == 0
    assert [line["method"] for line in json.loads(out)] == ["draft_model", "lookup"]
    assert (tmp_path / "lanes.png").read_bytes().startswith(b"\x89PNG")
    assert err.rstrip().endswith(f"wrote {tmp_path / 'lanes.png'}")


def test_rates_are_of_the_prompts_of_a_kind():
    def output(tokens, seconds):
        answer = SimpleNamespace(token_ids=list(range(tokens)))
        return SimpleNamespace(outputs=[answer], metrics=SimpleNamespace(decode_seconds=seconds))

    def tally(name, *outputs):
        rate = sum(len(o.outputs[0].token_ids) for o in outputs) / sum(
            o.metrics.decode_seconds for o in outputs
        )
        method = SimpleNamespace(name=name, text=name)
        return SimpleNamespace(method=method, outputs=outputs, rate=rate)

    plain = tally("none", output(10, 1.0), output(30, 1.0), output(10, 1.0))
    fast = tally("tree", output(10, 0.5), output(30, 1.5), output(10, 0.25))
    report = SimpleNamespace(
        plain=plain, tallies=[plain, fast], wrong=[], shown=lambda: [plain, fast]
    )
    table = demo.by_kind(report, ["chat", "chat", "code"]).splitlines()
    assert table[-1].split() == ["tree", "1.00x", "4.00x", "1.33x"]
    assert "1.33 times" in demo.closing(report)
    assert "tree" in demo.closing(report)
    slow = SimpleNamespace(plain=fast, tallies=[plain], wrong=[], shown=lambda: [fast, plain])
    assert (
        demo.closing(slow) == "Nothing is claimed here: no method was compared with plain decoding."
    )
    wrong = SimpleNamespace(plain=plain, tallies=[plain, fast], wrong=[fast])
    assert (
        demo.closing(wrong)
        == "Nothing is claimed here: tokens of tree differ from plain decoding's."
    )


def test_the_shipped_prompts_are_chats_of_three_kinds():
    lines = [json.loads(line) for line in (SHIPPED / "prompts.jsonl").read_text().splitlines()]
    assert {line["category"] for line in lines} == {"chat", "code", "maths"}
    for line in lines:
        assert line["prompt"].startswith("<|im_start|>system\n")
        assert line["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
