"""Contract under test: a run's output for people. Progress goes only to stderr. A table has at most
100 columns and names the best method. Bad output files are refused before the work begins. The
report on the environment has no path and no person's name."""

import getpass
import json
import os
import platform
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbrt import collect_env, methods
from sbrt.tools import advice, flags, picture, progress, table
from sbrt.tools.cli import main
from sbrt.tools.costs import cost_model, read_costs
from sbrt.tools.measure import Report, Tally
from sbrt.tools.prompts import read_prompts

LONG = "specbranch:k_max=1,epsilon=0,hrad=off"


@pytest.fixture
def pair(folders):
    return ["--target", str(folders[0]), "--draft", str(folders[1]), "--threads", "1"]


@pytest.fixture
def run(capsys, pair):
    def call(*words):
        code = main(["compare", *pair, "--limit", "1", "--max-tokens", "8", *map(str, words)])
        return code, *capsys.readouterr()

    return call


# --- the table ---


def tally(name, rate, **figures):
    """Return the tally of a method that generated a thousand tokens at `rate` tokens/s."""
    return Tally(methods.parse(name), 2, 1, prompts=1, tokens=1000, seconds=1000 / rate, **figures)


def report_of(*others, passes=1000):
    plain = tally("none", 100.0, passes=passes)
    return Report([plain, *others], plain, "shared", "float32", 0)


def test_no_line_of_the_table_is_wider_than_100(run):
    names = f"none,{LONG},specbranch:gamma=4,k_max=16,epsilon=0.125,pearl"
    _, out, _ = run("--methods", names)
    assert max(map(len, out.splitlines())) <= 100
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "specbranch:k_max=1," in out
    assert "\n  epsilon=0,hrad=off\n" in out


def test_a_long_name_is_cut_at_its_commas_and_lost_nowhere():
    assert "".join(table._pieces(LONG)) == LONG
    assert all(len(piece) <= table.NAME for piece in table._pieces(LONG))
    assert table._pieces("pearl") == ["pearl"]
    assert [table.counted(n, "token") for n in (0, 1, 2)] == ["0 tokens", "1 token", "2 tokens"]


def test_the_conclusion_names_the_fastest_method():
    said = advice.conclusion(report_of(tally("pearl", 150.0), tally("specbranch", 230.0)))
    assert said == "Fastest here: specbranch, 2.30 times plain decoding."


def test_the_conclusion_says_why_nothing_was_faster():
    serial = tally("draft_model", 80.0, passes=250, verify_seconds=9.0, draft_seconds=3.5)
    said = advice.conclusion(report_of(serial, tally("pearl", 50.0)))
    assert said == (
        "Nothing beat plain decoding here; draft_model came closest, 0.80x. "
        "Why: its round commits 4.0 tokens but lasts 5.0 times a pass of plain decoding; "
        "verifying takes 3.6 of these, drafting before it 1.4."
    )
    same = tally("pearl", 99.0, passes=500, verify_seconds=9.0, draft_seconds=3.5)
    said = advice.conclusion(report_of(same))
    assert said.startswith("Nothing beat plain decoding here: pearl was as fast. ")
    assert "drafting at the same time" in said


def test_the_conclusion_says_when_neither_lane_worked():
    slow = tally("pearl", 80.0, passes=250, verify_seconds=4.0, draft_seconds=3.0)
    slow.overlap_seconds = 2.0
    said = advice.conclusion(report_of(slow))
    assert said.endswith(" For 60% of the time neither worked: is the machine busy?")


def test_the_conclusion_of_nothing_and_of_a_defect():
    assert advice.conclusion(report_of()).startswith("Nothing to compare")
    wrong = tally("pearl", 500.0, is_identical=False)
    assert "defect" in advice.conclusion(report_of(wrong))


def simulated_of(model, *others):
    """Return a report as report_of does, in simulated time. Plain decoding makes 0.125 tokens in
    the time of a draft step."""
    plain = tally("none", 0.125, passes=1000)
    return Report([plain, *others], plain, "shared", "float32", 0, simulated=model)


def test_the_second_table_says_why_it_differs_from_the_first():
    hedge, other = tally("hedge", 20.0, passes=400), tally("auto", 150.0, passes=600)
    better = tally("hedge", 0.25, passes=400), tally("auto", 0.5, passes=250)
    clock, simulated = report_of(hedge, other), simulated_of(read_costs("c=8"), *better)
    said = table.render_next_to(clock, simulated)
    head, rows, why = said.split("\n\n")
    assert " ".join(head.split()) == (
        "The same prompts and settings in simulated time, c=8: "
        "a target pass costs 8 draft steps and each model has its own hardware."
    )
    assert rows.splitlines()[3:] == [
        "hedge     2.00x         0.20x         2.50       0%",
        "auto      4.00x         1.50x         4.00       0%",
    ]
    assert " ".join(why.split()) == (
        "Why they differ: by the clock a round of hedge commits 2.5 tokens and lasts 12.5 times a "
        "pass of plain decoding; in simulated time it commits 2.5 and lasts 1.2 times. "
        "On this machine both models share 2 threads, and every further row costs the target time. "
        "With c=8 each model has hardware of its own, and a pass costs the same up to 64 rows. "
        "auto chooses its methods by the costs it meets."
    )
    assert max(map(len, said.splitlines())) <= table.WIDTH


def test_the_second_table_of_a_cost_file_and_of_methods_without_a_draft():
    file = cost_model("costs.json", {"T": {"1": 80}, "t": {"1": 10}})
    lookup = tally("lookup", 150.0, passes=500), tally("lookup", 0.25, passes=500)
    said = advice.difference(report_of(lookup[0]), simulated_of(file, lookup[1]))
    assert said.endswith("simulated time counts only the costs of that file.")
    assert advice.premise(simulated_of(file)).endswith("costs.json: a forward costs what it says.")
    said = advice.difference(report_of(lookup[0]), simulated_of(read_costs("c=2"), lookup[1]))
    assert "On this machine every further row costs the target time." in said
    assert "one draft step and" in advice.premise(simulated_of(read_costs("c=1")))


def test_the_second_table_of_nothing_and_of_a_defect():
    model = read_costs("c=8")
    assert advice.difference(report_of(), simulated_of(model)).startswith("Nothing to compare")
    wrong = tally("pearl", 0.5, is_identical=False)
    said = advice.difference(report_of(tally("pearl", 50.0)), simulated_of(model, wrong))
    assert "defect" in said


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--methods", "none"], ["none"]),
        (["--methods", "pearl"], ["none", "pearl"]),
        (["--methods", "pearl,pearl"], ["none", "pearl", "pearl"]),
        (["--methods", "none,none"], ["none", "none"]),
        (["--max-tokens", "0"], list(methods.METHODS)),
        (["--max-tokens", "1"], list(methods.METHODS)),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_odd_comparisons(run, tmp_path, words, rows):
    pytest.importorskip("matplotlib")
    png, trace = tmp_path / "x.png", tmp_path / "x.json"
    code, out, err = run(*words, "--png", png, "--trace", trace)
    assert (code, err) == (0, f"wrote {png}\n")
    body = out.split("---\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in body.splitlines()] == rows
    assert out.rstrip().endswith((".", "?"))
    events = json.loads(trace.read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == rows


# --- files ---


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        *(("compare", flag) for flag in ("--png", "--json", "--trace")),
        *(("generate", flag) for flag in ("--json", "--trace")),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    capsys, pair, monkeypatch, tmp_path, flag, command
):
    if flag == "--png":
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(flags, "load", lambda *_: pytest.fail("models were loaded"))
    for path in (tmp_path, tmp_path / "no" / "x"):
        code = main([command, *pair, "--prompt", "def", flag, str(path)])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith(f"sbrt: error: {flag}: expected a file that can be written, got ")
        assert err.count("\n") == 1


def test_matplotlib_missing_is_said_before_the_work(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(flags, "load", lambda *_: pytest.fail("models were loaded"))
    code, out, err = run("--png", tmp_path / "x.png")
    assert (code, out) == (2, "")
    assert err == (
        "sbrt: error: --png: expected matplotlib, found none; "
        "install it with pip install 'sbrt[plot]'\n"
    )


def test_a_failure_leaves_the_old_file(run, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    png = tmp_path / "x.png"
    png.write_text("old")

    def interrupt(report):
        raise KeyboardInterrupt

    monkeypatch.setattr(picture, "figure_of", interrupt)
    code, out, err = run("--png", png)
    assert (code, out, err) == (130, "", "sbrt: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert png.read_text() == "old"


def test_files_are_there_when_the_reader_of_the_table_has_gone(pair, tmp_path):
    words = ["compare", *pair, "--limit", "1", "--max-tokens", "8", "--json", tmp_path / "x.json"]
    command = [sys.executable, "-m", "sbrt", *map(str, words)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 1
    assert len(json.loads((tmp_path / "x.json").read_text())) == len(methods.METHODS)


def test_ctrl_c_ends_a_comparison_with_one_line(pair, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "def"}\n' * 5000)
    words = ["compare", *pair, "--prompts", prompts, "--max-tokens", 200, "--ignore-eos"]
    command = [sys.executable, "-m", "sbrt", *map(str, words), "--json", tmp_path / "x.json"]
    # A program that a shell runs in the background ignores SIGINT, and so do its children.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    with child:
        line = child.stderr.readline()  # the first line of progress, after two seconds
        assert line.startswith(("generating: ", "warming up: ", "loading: ")), line
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "sbrt: interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [prompts]


def test_json_alone_on_stdout_and_progress_on_stderr(run, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    code, out, err = run("--json")
    assert code == 0
    assert len(json.loads(out)) == len(methods.METHODS)
    assert {line.split(":")[0] for line in err.splitlines()} == {
        "loading",
        "warming up",
        "generating",
    }


# --- prompts ---


def test_prompts_with_carriage_returns_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \r\n{"question": "b"}\r\n')
    assert read_prompts(path) == ["a", "b"]
    path.write_bytes(b'{"prompt": "a"}\r\n\r\n{"prompt": "b\r\n')
    with pytest.raises(ValueError, match=r"p\.jsonl, line 3: expected a JSON object"):
        read_prompts(path)


# --- progress ---


def test_progress_is_silent_for_short_work_and_plain_in_files(capsys, monkeypatch):
    bar = progress.Progress("loading")
    bar.update(1, 2)
    bar.close()
    monkeypatch.setattr(progress, "QUIET", 0.0)
    late = progress.Progress("loading")
    late.update(1, 2, "layer 3")
    late.update(2, 2)
    late.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("loading: 50%, ")
    assert err.endswith("left, layer 3\n")
    assert err.count("\n") == 1


def test_work_that_says_nothing_is_shown_all_the_same(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.05)
    bar = progress.Progress("generating")
    bar.update(0, 4, "pearl")
    until = time.monotonic() + 20
    err = ""
    while not err and time.monotonic() < until:
        time.sleep(0.01)
        err = capsys.readouterr().err
    bar.close()
    assert err == "generating: 0%, pearl\n"


SHOW = """
from sbrt.tools import progress
progress.QUIET = 0.0
bar = progress.Progress("loading")
bar.update(1, 4, "a" * 300)
bar.close()
"""


@pytest.mark.parametrize(("term", "is_drawn"), [("xterm", True), ("dumb", False)])
def test_progress_fits_a_narrow_terminal_and_a_dumb_one(term, is_drawn):
    leader, follower = pty.openpty()
    command = ["stty", "cols", "40"]
    subprocess.run(command, stdin=follower, check=True)
    environment = os.environ | {"TERM": term, "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", SHOW], stderr=follower, env=environment, check=True)
    os.close(follower)
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    assert "loading" in shown
    assert ("\r\x1b[K" in shown) == is_drawn
    assert ("\x1b" in shown) == is_drawn
    assert "\x1b[3" not in shown  # no colours anywhere
    if is_drawn:
        lines = [part.removesuffix("\x1b[K") for part in shown.split("\r") if part != "\x1b[K"]
        assert max(map(len, lines)) < 40


# --- the environment ---


def test_collect_env_as_text_and_as_json():
    command = [sys.executable, "-m", "sbrt.collect_env"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert found["build"]["cuda"] in (True, False)
    assert 1 <= found["usable_cores"] <= found["cores"]
    assert found["instruction_sets"][-1] == "portable"
    assert found["gpus"] == [] or Path("/dev/nvidiactl").exists()
    said = dict(line.split(":", 1) for line in text.splitlines())
    for name in ("sbrt", "compiler", "CUDA", "Python", "processor", "instruction set", "GPU"):
        assert said[name].strip()
    assert set(collect_env.PACKAGES) <= said.keys()
    assert found["packages"]["numpy"] == said["numpy"].strip()
    assert text == collect_env.render(found) + "\n"


def test_collect_env_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(collect_env, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(collect_env, "NVIDIA_SMI", ("/nonexistent/nvidia-smi",))
    text = collect_env.render(collect_env.collect())
    assert "no-such-package: not installed" in text
    assert text.splitlines()[-2].split() == ["GPU:", "none"]
    monkeypatch.setattr(collect_env, "NVIDIA_SMI", ("false",))
    assert collect_env.collect()["gpus"] == []
    monkeypatch.setattr(collect_env, "NVIDIA_SMI", ("echo", "A GPU, 1 MiB, 5"))
    assert collect_env.collect()["gpus"] == ["A GPU, 1 MiB, 5"]


def test_collect_env_names_no_path_and_no_person():
    text = json.dumps(collect_env.collect()) + collect_env.render(collect_env.collect())
    forbidden = [str(Path.home()), os.getcwd(), sys.prefix, platform.node(), "/home", "/tmp"]
    if getpass.getuser() != "root":  # "root" may occur in the text for other reasons
        forbidden.append(getpass.getuser())
    assert [word for word in forbidden if len(word) > 2 and word in text] == []


def test_collect_env_refuses_in_one_sentence(capsys):
    assert collect_env.main(["--wrong"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("sbrt.collect_env: error: ")
