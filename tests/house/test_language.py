"""Contract under test: comments, docstrings and pages are plain English. None begins with a word
like "Of" or "Whether", and none has a retired word. No sentence of a comment or docstring is too
long. Every check is tried on a wrong text first."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("bench", "csrc", "sbrt", "tests", "tools", "triton_kernels")
PAGES = (
    "csrc/README.md", "triton_kernels/README.md", "CONTRIBUTING.md", "docs/glossary.md",
    "docs/gpu-check.md", "docs/gpu-costs.md", "docs/performance.md", "docs/profiling.md",
    "docs/round.md", "docs/structure.md",
)  # fmt: skip
CXX_SUFFIXES = {".h", ".inc", ".cc", ".cu"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# {pattern of a retired word: the words to use instead}. Only words without another correct use are
# listed.
RETIRED = {
    r"(?i:behind)": "after, following",
    r"(?i:beside)": "next to, alongside, compared with",
    r"(?i:bring|brings|brought)": "copy, move, give",
    r"(?i:(cpu|cuda|dry|sim) (body|bodies))": "backend",
    r"(?i:foretell|foretells|foretold)": "predict, forecast",
    r"(?i:hangs|hung)": "is attached, is appended",
    r"(?i:a|any|draft's|each|its|joint|own|same|target's|the|true|whole) laws?": (
        "distribution, probabilities"
    ),
    r"(?i:nobody|somebody|whoever)": "the thread, op or caller that is meant",
    r"(?i:so many)": "N, this number",
    r"(?i:stands? down|chain (stands|falls)|node (stands|falls))": "is accepted, is rejected",
    r"(?i:unseen)": "skipped",
}
CXX_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//(?P<comment>[^\n]*)')
BEGINS = re.compile(r"(Of|What|Whether|Which|Who)\b")  # these words begin a clause, not a sentence
LONGEST = 25  # largest number of words of a sentence
# Pattern of the ends of sentences. A field of a docstring, `name: ...`, is a sentence of its own.
SENTENCE = re.compile(r"(?<=[.:;!?])\s+|\n(?=[\w*, ]+: )")
TABLE = re.compile(r"^ .*|^.*\S {2,}\S.*", re.MULTILINE)  # lines with columns, commands or code
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def cxx_comments(source):
    """Yield (line, code before the comment, text) of the comments of a C++ file. `line` counts from
    1."""
    for match in CXX_COMMENT.finditer(source):
        if match["comment"] is not None:
            before = source[: match.start()]
            yield before.count("\n") + 1, before.rpartition("\n")[2].strip(), match["comment"]


def python_comments(source):
    """Yield (line, code before the comment, text) of the comments of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.line[: token.start[1]].strip(), token.string[1:]


def docstrings(source):
    """Yield (line, text) of the docstrings of a Python file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            yield node.body[0].lineno, ast.get_docstring(node)


def blocks(comments):
    """Return (line, text) of comments. Comments that fill successive lines become one text."""
    found, last = [], None
    for line, code, text in comments:
        if last == line - 1 and not code:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text.strip()}")
        else:
            found.append((line, text.strip()))
        last = None if code else line
    return found


def texts(name, source):
    """Return (line, text) of everything in the file `name` that is written for people."""
    if name.endswith(".md"):
        return [(1, source)]
    if name.endswith((".py", ".pyi")):
        return [*blocks(python_comments(source)), *docstrings(source)]
    return blocks(cxx_comments(source))


def retired(text):
    """Yield a message for each retired word in a text. Code in backquotes does not count."""
    prose = " ".join(CODE.sub(" ", text).split())
    for word, instead in RETIRED.items():
        for match in re.finditer(rf"(?<![\w.:]){word}(?![\w(])", prose):
            yield f"expected {instead}, got {match.group()!r}"


def too_long(text):
    """Yield a message for each sentence of more than LONGEST words. Tables do not count."""
    for paragraph in TABLE.sub("", text).split("\n\n"):
        for sentence in SENTENCE.split(paragraph):
            count = sum(any(map(str.isalnum, word)) for word in sentence.split())
            if count > LONGEST:
                start = " ".join(sentence.split()[:5])
                yield f"expected at most {LONGEST} words, got {count}: {start} ..."


def faults(name, source):
    """Return one sentence for each breach of the rules in the file `name`."""
    found = []
    for line, text in texts(name, source):
        begins = BEGINS.match(text)
        wrong = [f"expected a subject or a verb first, got {begins[0]!r}"] if begins else []
        wrong += [*retired(text), *(() if name.endswith(".md") else too_long(text))]
        found += [f"{name}:{line}: {fault}" for fault in wrong]
    return found


@pytest.mark.parametrize(
    ("name", "source", "reported"),
    [
        (
            "a.h",
            "int a;  // A.\nint b;  // Of it",
            "a.h:2: expected a subject or a verb first, got 'Of'",
        ),
        ("a.cc", "\n// Adds so\n// many.", "a.cc:2: expected N, this number, got 'so many'"),
        ("a.py", "def f():\n  'Of it.'", "a.py:2: expected a subject or a verb first, got 'Of'"),
        ("a.py", "# The law.", "a.py:1: expected distribution, probabilities, got 'The law'"),
        ("a.cc", "// Whether.", "a.cc:1: expected a subject or a verb first, got 'Whether'"),
        (
            "a.py",
            f"# One. Two {'words ' * 25}",
            "a.py:1: expected at most 25 words, got 26: Two words words words words ...",
        ),
        ("a.md", "Beside.", "a.md:1: expected next to, alongside, compared with, got 'Beside'"),
    ],
)
def test_a_wrong_text_is_found(name, source, reported):
    assert faults(name, source) == [reported]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.h", 'f("// so many");  // Counts\n// the rows\n// Of which x.behind(3) is one'),
        ("a.py", "x = 'whoever'  # `behind` and Law: the Law words of a row, so much for many."),
        ("a.py", f"def f():\n  'F.\\n\\n    x  {'y ' * 30}\\n\\n  {'a: b c ' * 20}'"),
        ("a.md", "Write `beside`.\n```\nhangs\n```\nBesides, a function body stands here."),
    ],
)
def test_code_and_true_uses_are_left_alone(name, source):
    assert faults(name, source) == []


def files_of(room):
    found = sorted((ROOT / room).rglob("*"))
    return [path for path in found if path.suffix in {".py", ".pyi", *CXX_SUFFIXES}]


@pytest.mark.parametrize("room", ROOMS)
def test_a_clean_room_stays_clean(room):
    paths = files_of(room)
    assert paths
    assert [
        fault
        for path in paths
        for fault in faults(path.relative_to(ROOT).as_posix(), path.read_text())
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_clean_page_stays_clean(page):
    assert faults(page, (ROOT / page).read_text()) == []
