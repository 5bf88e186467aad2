"""Contract under test: commands print exactly the promised JSON, and nothing else to stdout. Bad
input gives one sentence and exit code 2."""

import io
import json
import os
import statistics
import subprocess
import sys

import pytest

from sbrt import SamplingParams
from sbrt.methods import METHODS
from sbrt.model import demo_pair
from sbrt.tools import cli, measure
from sbrt.tools.prompts import BUILT_IN, read_prompts

KEYS = """method prompts tokens seconds prefill_seconds tokens_per_second speedup target_passes
tokens_per_pass draft_tokens acceptance_rate rollback_tokens rollback_rate branch_hits branch_rounds
discarded_branch_tokens identical_to_none threads draft_threads placement dtype activation_dtype
device options""".split()
PROMPTS = [{"prompt": "def quick(items):"}, {"question": "für"}, {"turns": ["class Stack:", "x"]}]
FIRST, *_, LAST = sorted(os.sched_getaffinity(0)) * 2


@pytest.fixture
def run(capsys, folders):
    """Run a command on the tiny pair with one thread; returns (exit code, stdout, stderr)."""
    pair = ["--target", str(folders[0]), "--draft", str(folders[1]), "--threads", "1"]

    def call(command, *flags, models=pair, main=cli.main):
        words = [command] if command else []
        code = main([*words, *models, *map(str, flags)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(p) for p in PROMPTS) + "\n\n")
    return path


def bench_decode(argv):
    bench = pytest.importorskip("bench.decode", reason="benches run from the checkout")
    return bench.main(argv)


def check_line(line):
    """Check the relations between the figures of one JSON object."""
    assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"])
    assert line["tokens_per_pass"] == pytest.approx(line["tokens"] / line["target_passes"])
    assert line["rollback_rate"] == pytest.approx(line["rollback_tokens"] / line["tokens"])
    assert line["branch_hits"] <= line["branch_rounds"] <= line["target_passes"]
    accepted = line["draft_tokens"] - line["rollback_tokens"]
    rate = accepted / line["draft_tokens"] if line["draft_tokens"] else 0.0
    assert line["acceptance_rate"] == pytest.approx(rate)
    assert accepted + line["target_passes"] >= line["tokens"]
    assert line["identical_to_none"] is True


def test_the_json_contract(run, prompts):
    given = "none,draft_model,pearl:gamma=2,specbranch,none,specbranch:k_max=1,epsilon=0,hrad=off"
    flags = ["--methods", given, "--prompts", prompts, "--max-tokens", 20, "--threads", 2]
    code, out, err = run("compare", *flags, "--ignore-eos", "--json")
    assert (code, err) == (0, "")
    lines = json.loads(out)
    assert [line["method"] for line in lines] == [
        "none", "draft_model", "pearl:gamma=2", "specbranch", "none",
        "specbranch:k_max=1,epsilon=0,hrad=off",
    ]  # fmt: skip
    for line in lines:
        assert list(line) == KEYS
        assert (line["prompts"], line["tokens"]) == (3, 60)
        assert (line["dtype"], line["device"], line["placement"]) == ("float32", "cpu", "shared")
        assert line["threads"] == 2
        check_line(line)
    assert lines[0]["speedup"] == 1.0
    assert lines[0]["tokens_per_pass"] == lines[4]["tokens_per_pass"] == 1.0
    assert lines[0]["draft_threads"] == 0
    assert lines[0]["options"] == {}
    assert lines[2]["options"] == {"gamma": 2}
    options = {"gamma": 4, "k_max": 1, "epsilon": 0.0, "hrad": "off", "on_miss": "continue"}
    assert lines[5]["options"] == options


def test_one_object_per_mention_and_none_always_runs(run):
    code, out, _ = run("compare", "--methods", "pearl", "--json", "--limit", 2, "--max-tokens", 8)
    [line] = json.loads(out)
    assert code == 0
    assert line["method"] == "pearl"
    assert line["speedup"] > 0
    assert line["identical_to_none"] is True


def test_every_method_feeds_the_whole_prompt(run, monkeypatch):
    """No method reuses another method's KV. Otherwise only the first method would have
    prefill_seconds."""
    cached, add = [], measure.Tally.add

    def noted(self, output, plain):
        cached.append(output.num_cached_tokens)
        add(self, output, plain)

    monkeypatch.setattr(measure.Tally, "add", noted)
    assert run("compare", "--methods", "none,pearl", "--limit", 2, "--max-tokens", 8)[0] == 0
    assert cached == [0] * 4


def test_all_that_exist_by_default(run):
    _, out, _ = run("compare", "--json", "--limit", 1, "--max-tokens", 4)
    assert tuple(line["method"] for line in json.loads(out)) == METHODS


def test_sampled_runs_are_identical_too(run, prompts):
    flags = ["--prompts", prompts, "--max-tokens", 30, "--temperature", 0.8, "--seed", 3]
    _, out, _ = run("compare", *flags, "--top-p", 0.95, "--top-k", 40, "--json")
    assert [line["identical_to_none"] for line in json.loads(out)] == [True] * len(METHODS)


def test_rejection_need_not_be_identical_when_sampling(run):
    given = ["--methods", "specbranch,specbranch:acceptance=rejection", "--limit", 2]
    for temperature in (0, 1):
        flags = [*given, "--temperature", temperature, "--max-tokens", 30]
        code, out, _ = run("compare", *flags, "--json")
        assert code == 0
        coupled, rejection = json.loads(out)
        assert (coupled["identical_to_none"], "acceptance" in coupled["options"]) == (True, False)
        assert rejection["options"]["acceptance"] == "rejection"
        assert rejection["identical_to_none"] == (temperature == 0)
        code, out, _ = run("compare", *flags)
        assert code == 0
        assert "defect" not in out


def test_the_table_explains_itself(run):
    code, out, _ = run("compare", "--limit", 1, "--max-tokens", 8)
    assert code == 0
    for word in (*METHODS, "tokens/s", "speedup", "tokens/pass", "rollback", "yes"):
        assert word in out
    for column in ("accepted", "hits", "same"):
        assert f"\n{column}  " in out
    assert "none" in run("compare", "--methods", "pearl", "--limit", 1, "--max-tokens", 8)[1]


def test_prompts_that_do_not_fit_are_skipped_and_counted(run, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "def"}\n{"prompt": "%s"}\n' % ("word " * 300))
    flags = ["--prompts", path, "--max-tokens", 8, "--json"]
    code, out, err = run("compare", "--methods", "pearl", *flags)
    assert code == 0
    assert json.loads(out)[0]["prompts"] == 1
    assert err.startswith("skipped 1 of 2 prompts")
    code, out, err = run("compare", "--methods", "pearl", *flags, "--max-tokens", 256)
    assert (code, out) == (2, "")


def test_pictures_and_traces(run, tmp_path):
    pytest.importorskip("matplotlib")
    png, trace, out = tmp_path / "x.png", tmp_path / "x.json", tmp_path / "lines.json"
    flags = ["--limit", 1, "--max-tokens", 20, "--png", png, "--trace", trace, "--json", out]
    code, table, _ = run("compare", *flags)
    assert code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "tokens/s" in table
    assert len(json.loads(out.read_text())) == len(METHODS)
    events = json.loads(trace.read_text())["traceEvents"]
    named = {e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    assert named == set(METHODS)
    work = [e for e in events if e["ph"] == "X"]
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in work)
    assert {"verify", "step"} <= {e["name"] for e in work}


def test_generate_writes_the_text_alone(run, engine):
    flags = ["--prompt", "def quick(", "--max-tokens", 20, "--method", "pearl"]
    code, out, err = run("generate", *flags)
    params = SamplingParams(temperature=0, seed=0, max_tokens=20)
    assert code == 0
    assert out == engine.generate("def quick(", params)[0].outputs[0].text + "\n"
    assert "tokens per target pass" in err


@pytest.mark.parametrize("method", METHODS)
def test_generate_says_the_same_whatever_method_and_draft(run, folders, method):
    flags = ["--prompt", "def quick(", "--max-tokens", 20]
    wanted = run("generate", *flags, "--method", "none")[1]
    assert run("generate", *flags, "--method", method)[1] == wanted
    random = ["--target", str(folders[0]), "--draft", "random"]
    assert run("generate", *flags, "--method", method, models=random)[1] == wanted


def test_generate_json(run):
    flags = ["--prompt", "def quick(", "--max-tokens", 20, "--json"]
    code, out, err = run("generate", *flags)
    [line] = json.loads(out)
    assert (code, err) == (0, "")
    assert list(line) == [*KEYS, "prompt", "text", "token_ids", "finish_reason"]
    assert line["method"] == "auto"
    assert len(line["token_ids"]) == line["tokens"] == 20
    check_line(line)


def test_the_prompt_from_a_file_or_standard_input(run, tmp_path, monkeypatch):
    path = tmp_path / "p.txt"
    path.write_text("def quick(\n")
    flags = ["--max-tokens", 8, "--method", "pearl"]
    wanted = run("generate", "--prompt", "def quick(\n", *flags)[1]
    assert run("generate", "--prompt-file", path, *flags)[1] == wanted
    stdin = io.TextIOWrapper(io.BytesIO(b"def quick(\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("generate", *flags)[1] == wanted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", "--max-tokens", "x"], "--max-tokens"),
        (["generate", "--prompt", ""], "prompt"),
        (["generate", "--prompt", "a", "--prompt-file", "b"], "both"),
        (["generate", "--prompt-file", "/nonexistent/x"], "/nonexistent/x"),
        (["generate", "--prompt", "a", "--method", "auto:gamma=0"], "gamma"),
        (["generate", "--prompt", "a", "--method", "pearl", "--branches", "4"], "pearl"),
        (["generate", "--prompt", "a", "--temperature", "nan"], "temperature"),
        (["generate", "--prompt", "a", "--threads", "0"], "threads"),
        (["generate", "--prompt", "a", "--gamma", "64"], "gamma"),
        (["generate", "--prompt", "a", "--draft", "none", "--method", "pearl"], "pearl"),
        (["generate", "--prompt", "a", "--draft", "/nonexistent"], "/nonexistent"),
        (["generate", "--prompt", "a", "--wrong"], "--wrong"),
        (["generate", "--prompt", "a", "--dtype", "int3"], "int3"),
        (["compare", "--methods", "none,foo"], "foo"),
        (["compare", "--methods", ""], "''"),
        (["compare", "--prompts", "/nonexistent.jsonl"], "/nonexistent.jsonl"),
        (["compare", "--limit", "0"], "--limit"),
        (["compare", "--prompt", "a", "--prompts", "b"], "--prompts"),
        (["hrad"], "collect|train|eval"),
        (["hrad", "collect"], "--prompts, --out"),
        (["server"], "server"),
        ([], "arguments"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(run, folders, words, sentence):
    pair = ["--target", str(folders[0]), "--draft", str(folders[1])]
    command = words[0] if words else ""
    models = pair if command in ("generate", "compare") else []
    code, out, err = run(command, *words[1:], models=models)
    assert (code, out) == (2, "")
    assert err.startswith("sbrt: error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def parsers(parser, name="sbrt"):
    """Yield (name, parser) of a command and its subcommands."""
    yield name, parser
    for action in parser._actions:
        for word, inner in (action.choices or {}).items() if action.nargs == "A..." else ():
            yield from parsers(inner, f"{name} {word}")


def test_every_command_and_flag_says_what_it_does():
    found = dict(parsers(cli._parser()))
    assert found.keys() >= {
        "sbrt generate",
        "sbrt compare",
        "sbrt plan",
        "sbrt serve",
        "sbrt hrad eval",
    }
    for name, parser in found.items():
        for action in parser._actions:
            texts = [action.help] if action.nargs != "A..." else []
            texts += [choice.help for choice in getattr(action, "_choices_actions", [])]
            assert all(texts), f"{name} {action.option_strings}"


def test_a_demo_pair_that_was_not_installed_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_pair, "FOLDER", tmp_path)
    code, _, err = run("compare", models=[])
    assert code == 2
    assert "demo" in err


@pytest.mark.parametrize("flag", [["--simulate", "c=0"], ["--placement", "x"]])
def test_bench_decode_refuses_what_it_cannot_do(run, flag):
    code, out, err = run("", *flag, main=bench_decode)
    assert (code, out) == (2, "")
    assert flag[0] in err


def test_bench_decode_compares_streams_with_generate(run, prompts, tmp_path):
    flags = ["--methods", "none,pearl", "--max-tokens", 12, "--stream", 2]
    code, table, _ = run("", *flags, main=bench_decode)
    assert code == 0
    assert table.split()[:2] == ["method", "generate"]
    code, out, _ = run("", *flags, "--json", main=bench_decode)
    none, pearl = json.loads(out)
    assert (none["method"], pearl["method"]) == ("none", "pearl")
    for line in (none, pearl):
        assert line["identical"] is True
        assert line["ratio"] > 0
        assert 0 < line["outputs_per_token"] <= 1
    for other in (("--simulate", "c=8"), ("--concurrency", 2)):
        code, out, err = run("", *flags, *other, main=bench_decode)
        assert (code, out) == (2, "")
        assert err.rstrip().endswith(f"--stream: expected no {other[0]} next to it")
    assert run("", "--stream", 0, main=bench_decode)[0] == 2


def test_bench_decode_is_compare(run, prompts, tmp_path):
    out = tmp_path / "out.json"
    flags = ["--prompts", prompts, "--max-tokens", 8, "--threads", 2, "--json", out]
    code, table, _ = run("", *flags, "--placement", "split", main=bench_decode)
    lines = json.loads(out.read_text())
    assert code == 0
    assert "tokens/pass" in table
    assert {line["placement"] for line in lines} == {"split"}
    alone = {line["method"] for line in lines if line["threads"] == 1}
    # methods without a draft use the target's share of the threads only
    assert alone == {"none", "lookup"}
    for line in lines:
        check_line(line)
    longer = ("--methods", "lookup:gamma=7,pearl")  # longer chains than the default
    assert run("", *flags, "--placement", "split", *longer, main=bench_decode)[0] == 0
    code, _, err = run("", *flags, "--placement", "split", "--threads", 1, main=bench_decode)
    assert code == 2
    assert "split" in err


def test_max_tokens_zero_measures_nothing(run):
    code, out, err = run("compare", "--limit", 1, "--max-tokens", 0, "--json")
    lines = json.loads(out)
    assert (code, err) == (0, "")
    assert [line["prompts"] for line in lines] == [1] * len(METHODS)
    for key in KEYS[2:17]:
        wanted = True if key == "identical_to_none" else 0
        assert [line[key] for line in lines] == [wanted] * len(METHODS), key
    assert run("generate", "--prompt", "def", "--max-tokens", 0)[:2] == (0, "\n")


def test_prompts_of_a_file(prompts, tmp_path):
    assert read_prompts(prompts) == ["def quick(items):", "für", "class Stack:"]
    assert read_prompts(prompts, limit=1) == ["def quick(items):"]
    bad = tmp_path / "bad.jsonl"
    for line in ("[1]", "{", '{"text": "x"}', '{"prompt": ""}', '{"turns": []}', '{"prompt": 5}'):
        bad.write_text('{"prompt": "x"}\n' + line)
        with pytest.raises(ValueError, match="line 2"):
            read_prompts(bad)
    bad.write_text("\n")
    with pytest.raises(ValueError, match="at least one"):
        read_prompts(bad)


def test_built_in_prompts_are_raw_python():
    assert len(set(BUILT_IN)) == len(BUILT_IN) >= 5


def test_as_a_module_with_a_broken_pipe_and_bad_input(folders):
    command = [sys.executable, "-m", "sbrt", "generate", "--target", str(folders[0])]
    done = subprocess.run([*command, "--threads", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    piped = f"{' '.join(command)} --prompt def --max-tokens 200 --ignore-eos | head -c 1"
    done = subprocess.run(piped, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_import_is_fast_and_light():
    """The test measures processor time. By wall-clock time it would fail on a busy machine."""
    script = (
        "import time, sys; t = time.process_time(); import sbrt; print(time.process_time() - t);"
        "print([m for m in ('torch', 'numpy', 'tokenizers', 'matplotlib') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    seconds = [float(run.stdout.split()[0]) for run in runs]
    assert statistics.median(seconds) < 0.3, seconds
    assert runs[0].stdout.splitlines()[1] == "[]"


def test_the_lanes_may_have_cores_of_their_own(run):
    """On one core, both sets name it. An engine with a draft refuses that."""
    flags = ["--cpu-affinity", FIRST, "--draft-cpu-affinity", LAST, "--threads", 2]
    flags += ["--methods", "pearl", "--limit", 1, "--max-tokens", 8]
    code, out, err = run("compare", *flags, "--json")
    if FIRST == LAST:
        assert (code, "expected cores that cpu_affinity does not name" in err) == (2, True)
        return
    assert (code, err) == (0, "")
    [line] = json.loads(out)
    assert (line["threads"], line["draft_threads"]) == (2, 1)
    assert line["identical_to_none"] is True


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cpu-affinity", "0-x"], "cpu_affinity: expected "),
        (
            ["--cpu-affinity", FIRST],
            "SpeculativeConfig.cpu_affinity: expected cores for both lanes",
        ),
        (
            ["--draft-cpu-affinity", FIRST],
            "cpu_affinity: expected cores for both lanes or for none",
        ),
        (
            ["--draft-cpu-affinity", FIRST, "--method", "none"],
            "--draft-cpu-affinity: expected a draft",
        ),
        (["--draft-device", "cpu", "--method", "none"], "--draft-device: expected a draft"),
    ],
)
def test_wrong_places_of_the_lanes(run, flags, said):
    code, out, err = run("generate", "--prompt", "a", *flags)
    assert (code, out) == (2, "")
    assert said in err
