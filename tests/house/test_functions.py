"""Contract under test: functions stay under 40 lines, in C++ and in Python. A docstring does not
count, and a Triton kernel, which cannot be split, is exempt."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 40  # number of lines, from the signature to the closing brace
CXX = ("csrc", "tests")
CXX_SUFFIXES = {".h", ".inc", ".cc", ".cu"}
PYTHON = ("sbrt", "triton_kernels", "bench", "tests", "tools")

# Text that belongs to neither a signature nor a body: comments, literals, preprocessor lines,
# access labels.
SILENT = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
    r"|^[ \t]*#(?:\\\n|[^\n])*|\b(?:public|private|protected):",
    re.MULTILINE | re.DOTALL,
)
SPACE = re.compile(
    r"\b(namespace|class|struct|union|enum|extern)\b(?!.*\)\s*(const\b.*)?$)", re.DOTALL
)


def blanked(match):
    """Return the matched text with every character but line ends replaced by a space."""
    return re.sub(r"[^\n]", " ", match.group())


def cxx_functions(source):
    """Return (name, number of lines) of the functions of a C++ file. A lambda counts as part of its
    function."""
    text, found, scopes, begin = SILENT.sub(blanked, source), [], [], 0
    for at, sign in ((m.start(), m.group()) for m in re.finditer(r"[{};]", text)):
        head = text[begin:at]
        if sign == "{":
            outside = all(kind == "space" for kind, _, _ in scopes)
            is_function = outside and "(" in head and not SPACE.search(head)
            kind = (
                "function"
                if is_function
                else "space"
                if outside and SPACE.search(head)
                else "other"
            )
            scopes.append((kind, head, begin + len(head) - len(head.lstrip())))
        elif sign == "}" and scopes:
            kind, head, first = scopes.pop()
            if kind == "function" and text[at + 1 :].lstrip()[:1] in (",", "{"):
                begin = first  # this was a member's initialiser; the constructor's body follows
                continue
            if kind == "function":
                found.append((name_in(head), text.count("\n", first, at) + 1))
        begin = at + 1
    return found


def name_in(head):
    return (re.findall(r"[\w:~]+(?=\s*\()", head) or [head.strip()])[0]


def python_functions(source):
    """Return (name, number of lines) of the functions of a Python file, without Triton kernels."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if any("jit" in ast.dump(decorator) for decorator in node.decorator_list):
            continue
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
        yield node.name, lines


def too_long(folders, suffixes, functions):
    paths = sorted(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in suffixes)
    found = [(path, *each) for path in paths for each in functions(path.read_text())]
    assert len(found) > 1000
    return [f"{p.relative_to(ROOT)}: {name}: {n}" for p, name, n in found if n >= LIMIT]


SAMPLE = """
namespace a {{
class B : public C {{
 public:
  explicit B(int x) : x_(x), y_{{x}} {{
{body}
  }}
  int small() const {{ return '{{'; }}  // {{
}};
const auto table = std::array{{1, 2}};
template <class T>
void one(const T& t,
         int n) {{
  const auto f = [&] {{
{body}
  }};
}}
struct D e(int x) {{
{body}
}}
}}
"""


def test_what_is_too_long_is_found_in_c():
    body = "    run(0);\n" * 30
    lengths = dict(cxx_functions(SAMPLE.format(body=body.rstrip("\n"))))
    assert lengths == {"B": 32, "small": 1, "one": 36, "e": 32}


def test_what_is_too_long_is_found_in_python():
    body = "    x = 1\n" * 50
    documented = f"class A:\n  def f(self):\n    '''One.\n\n    Two.'''\n{body}"
    source = f"@triton.jit\ndef k():\n{body}\n{documented}"
    assert list(python_functions(source)) == [("f", 51)]


def test_functions_in_c_stay_short():
    assert too_long(CXX, CXX_SUFFIXES, cxx_functions) == []


def test_functions_in_python_stay_short():
    assert too_long(PYTHON, {".py"}, python_functions) == []
