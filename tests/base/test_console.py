"""Contract under test: a command copes with bad standard streams. They may be closed, full, without
a reader, or in an encoding that lacks characters. The command still shows what it can, or prints
one sentence about the error."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from sbrt import console
from sbrt.tools import cli

PROMPT = "für 日本"
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252:strict"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]
SHOWS = ["generate", "compare", "collect_env"]


@pytest.fixture
def shell(folders, tmp_path):
    """shell(command, redirections, *flags): runs the command in a new shell; returns the finished
    process."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT, encoding="utf-8")

    def call(command, how, *flags, **environment):
        words = [sys.executable, "-m", "sbrt", command]
        words += ["--target", str(folders[0]), "--threads", "1", "--max-tokens", "8"]
        words += ["--prompt-file", str(prompt), "--ignore-eos"]
        if command == "compare":
            words += ["--draft", str(folders[1]), "--methods", "none,pearl"]
        if command == "collect_env":
            words = [sys.executable, "-m", "sbrt.collect_env"]
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {how}', "sh", *words, *map(str, flags)],
            capture_output=True,
            env=os.environ | environment,
            timeout=120,
        )

    return call


@pytest.fixture(scope="module")
def shown():
    """shown(shell, command, *flags): runs the command once, with working standard streams; returns
    the finished process."""
    found = {}

    def call(shell, *words):
        if words not in found:
            command, *flags = words
            found[words] = shell(command, "", *flags)
            assert found[words].returncode == 0
        return found[words]

    return call


def one_sentence(ran: subprocess.CompletedProcess[bytes], *words: str) -> None:
    assert ran.returncode == 2
    text = ran.stderr.decode()
    assert text.count("\n") == 1, text
    for word in ("error:", *words):
        assert word in text, text


@pytest.mark.parametrize("command", SHOWS)
@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-"])
def test_without_a_place_for_messages_the_work_is_shown(shell, shown, command, how):
    want, ran = shown(shell, command), shell(command, how)
    assert ran.returncode == 0
    end = 40 if command == "compare" else None  # the rest of the output has measured times
    assert ran.stdout[:end] == want.stdout[:end]


@pytest.mark.parametrize("command", SHOWS)
@pytest.mark.parametrize("how", [">&-", ">/dev/full", ">&- <&-"])
def test_without_a_place_for_the_answer_it_says_so(shell, command, how):
    one_sentence(shell(command, how), "standard output", "closed" if "&-" in how else "No space")


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_figures_in_a_file_need_no_standard_stream(shell, command, tmp_path):
    out = tmp_path / "out.json"
    ran = shell(command, "<&- >&- 2>&-", "--json", out)
    assert ran.returncode == 0
    assert json.loads(out.read_text(encoding="utf-8"))[0]["tokens"] == 8


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_figures_for_a_closed_stdout_are_refused_before_the_work(shell, command):
    one_sentence(shell(command, ">&-", "--json", "--trace", "/nonexistent/t.json"), "--json")


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda e: next(iter(e.values())))
def test_an_encoding_that_lacks_a_character_shows_an_escape(shell, shown, environment):
    want, ran = shown(shell, "generate"), shell("generate", "", **environment)
    assert ran.returncode == 0
    encoding = environment.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    text = want.stdout.decode("utf-8")
    assert ran.stdout.decode(encoding) == text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda e: next(iter(e.values())))
@pytest.mark.parametrize("command", ["generate", "compare"])
def test_json_needs_no_encoding(shell, shown, command, environment):
    ran = shell(command, "", "--json", **environment)
    assert ran.returncode == 0
    encoding = environment.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    want = json.loads(shown(shell, command, "--json").stdout)
    found = json.loads(ran.stdout.decode(encoding))
    assert [line["tokens"] for line in found] == [line["tokens"] for line in want]
    if command == "generate":
        assert (found[0]["text"], found[0]["prompt"]) == (want[0]["text"], PROMPT)


def test_a_reader_that_has_gone_is_no_traceback(shell):
    ran = shell("generate", "| true")
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr


def test_help_for_a_full_device_is_one_sentence(shell):
    one_sentence(shell("generate", ">/dev/full", "--help"), "No space")


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BytesIO())])
def test_no_prompt_and_no_stdin_is_one_sentence(folders, monkeypatch, capsys, stdin):
    if stdin is not None:
        stdin.close()
    monkeypatch.setattr(sys, "stdin", stdin)
    assert cli.main(["generate", "--target", str(folders[0])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "sbrt: error: prompt: expected an open standard input, got a closed one\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_program_that_has_no_such_stream_may_call_main(folders, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, name, None)
    code = cli.main(["generate", "--target", str(folders[0]), "--prompt", "x", "--max-tokens", "2"])
    assert code == (2 if name == "stdout" else 0)
    assert getattr(sys, name) is None


def test_messages_never_reach_stdout(monkeypatch, capsys):
    """If sys.stderr is None, `print(file=sys.stderr)` would print to stdout."""
    monkeypatch.setattr(sys, "stderr", None)
    with console.prepared():
        print("a message", file=sys.stderr)
    assert capsys.readouterr().out == ""


def test_a_command_may_call_another_one(capsys):
    with console.prepared(), console.prepared():
        print("the answer", flush=True)
        print("a message", file=sys.stderr)
    assert capsys.readouterr() == ("the answer\n", "a message\n")
