"""Contract under test: code in the documents runs, and what they say is true. Python blocks run on
a tiny pair, links have targets, and the worked example obeys the rules that it explains."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sbrt import SamplingParams
from sbrt.tools import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CARDS = [ROOT / "csrc" / "README.md", ROOT / "sbrt" / "demo" / "README.md"]
# Only Linux can keep a process on one core.
ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
"""
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|`((?:docs|csrc|sbrt|tests|tools|bench)/[\w/.]+)`")


@pytest.fixture
def models(tmp_path, make):
    """Return a folder with a pair at the paths that the documents name. The pair is tiny, because
    `auto` would measure the demo pair for seconds."""
    sizes = {"max_position_embeddings": 1024}
    weights = make.weights(make.config(**sizes), seed=1)
    for name, share in (("target", 0.0), ("draft", 0.03)):
        noisy = make.noisy(weights, share, seed=2)
        make.checkpoint(tmp_path / "path" / "to" / name, weights=noisy, **sizes)
    return tmp_path


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, models):
    """The blocks run in order and in one program, on one core; a warning is an error."""
    code = "\n".join([ONE_CORE, *BLOCK.findall(page.read_text())])
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=models, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_the_pages_with_code_are_those_that_should_have_it():
    assert {page.name for page in WITH_CODE} >= {"README.md", "embedding.md", "round.md"}


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    named = [a or b for a, b in LINK.findall(page.read_text())]
    missing = [n for n in named if not ((page.parent / n).exists() or (ROOT / n).exists())]
    assert missing == []


def test_the_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"docs/{p.name}" not in readme] == []


def test_the_index_of_figures_names_every_entry():
    folder = ROOT / "docs" / "measured"
    index = (folder / "README.md").read_text()
    months = [page for page in sorted(folder.glob("*.md")) if page.name != "README.md"]
    entries = [
        entry for page in months for entry in re.findall(r"^## (.+)$", page.read_text(), re.M)
    ]
    assert all(f"({page.name})" in index for page in months)
    assert sorted(re.findall(r"^- (\d{4}-.+)$", index, re.M)) == sorted(entries)


def words_of(page):
    """Return the first column of the table whose heading is "word", split at commas."""
    table = page.read_text().split("| word |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {word.strip() for row in rows for word in row.split(",")}


def test_every_word_of_the_contract_has_a_common_name():
    words = words_of(ROOT / "csrc" / "README.md")
    assert {"trunk", "hit", "miss", "sequence"} <= words
    assert words - words_of(ROOT / "docs" / "glossary.md") == set()


COMMAND = re.compile(
    r"^\s*(?:\.venv/bin/|\$\(BIN\)/)?sbrt "
    r"((?:generate|compare|serve|plan|draft|hrad|fetch|demo) .*)$",
    re.MULTILINE,
)
BENCH = re.compile(r"^(?:\.venv/bin/)?python3? -m ((?:bench|tests)\.[\w.]+)(.*)$", re.MULTILINE)


def commands(pattern):
    return [
        found for page in [*PAGES, ROOT / "Makefile"] for found in pattern.findall(page.read_text())
    ]


def test_there_are_commands_to_check():
    assert len(commands(COMMAND)) >= 13
    assert any("--then-simulate" in line and "compare.png" in line for line in commands(COMMAND))
    assert len(commands(BENCH)) >= 4


def command_of(module):
    """Return the module that `python -m` runs: for a package its __main__."""
    found = importlib.import_module(module)
    is_package = hasattr(found, "__path__")
    return importlib.import_module(f"{module}.__main__") if is_package else found


@pytest.mark.parametrize(("module", "flags"), commands(BENCH))
def test_the_benches_of_a_page_have_the_flags_that_exist(module, flags, capsys):
    """The test adds the flag --wrong to each command. The command must report only --wrong, before
    it runs anything."""
    try:
        code = command_of(module).main([*shlex.split(flags), "--wrong"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert capsys.readouterr().err.rstrip().endswith("unrecognized arguments: --wrong")


@pytest.mark.parametrize("line", commands(COMMAND))
def test_the_commands_of_a_page_have_the_flags_that_exist(line):
    words = shlex.split(line)
    assert cli._parser().parse_args(words)
    with pytest.raises(ValueError, match="unrecognized arguments: --wrong"):
        cli._parser().parse_args([*words, "--wrong"])


def test_the_worked_example_obeys_the_rules():
    """A round that accepts n draft tokens commits n + 1 tokens. After a hit the next chain is as
    deep as the row of the table says. After a miss the next chain is empty."""
    text = (ROOT / "docs" / "round.md").read_text()
    rows = re.findall(
        r"^\| (\d+) \| (\d+)[^|]*\| (\d+) \| ([^|]+)\| (\d+) \| ([^|]+)\| (\d+) \|$",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 4
    kept = head = None
    for number, depth, n, committed, branches, outcome, after in rows:
        tokens = len(re.findall("`[^`]+`", committed))
        assert tokens == int(n) + 1 <= int(depth) + 1, number
        assert int(branches) >= 1, number
        assert head is None or int(after) == head + tokens, number
        assert kept is None or int(depth) == kept, number
        is_hit = outcome.startswith("hit")
        kept, head = int(re.findall(r"\d+", outcome)[0]) if is_hit else 0, int(after)


def test_the_keys_of_the_metrics_are_all_explained(engine):
    params = SamplingParams(temperature=0, max_tokens=4)
    [answer] = engine.generate("def", params, method="auto")[0].outputs
    page = (ROOT / "docs" / "profiling.md").read_text()
    assert "auto" in answer.spec_decode_metrics
    assert [key for key in answer.spec_decode_metrics if f"`{key}`" not in page] == []
