"""Generates files from the structs of csrc/state: `python tools/state_fields.py`.

The structs are the one table of fields. The script writes csrc/state/fields.inc (every field by
name, and the offset of each part of the state) and triton_kernels/fields.py (the same structs for
ctypes). tests/house/test_state_fields.py fails if either file is out of date.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATE = ROOT / "csrc" / "state"
HEADERS = ("sizes", "batch", "policy", "sequence", "lanes")
SHAPE = ROOT / "csrc" / "ring" / "shape.h"  # its sizes count, too
INC, PYTHON = STATE / "fields.inc", ROOT / "triton_kernels" / "fields.py"

SIZE = re.compile(r"^constexpr int k(\w+) = ([^;]+);", re.MULTILINE)
ENUM = re.compile(r"^enum (?:class )?(\w+) : int32_t \{(.*?)\};", re.MULTILINE | re.DOTALL)
VALUE = re.compile(r"\bk?(\w+) = (\d+)")
STRUCT = re.compile(r"^(template <class T>\n)?struct (\w+) \{$(.*?)^\};$", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^(?:const )?([\w<>]+)(\*?) (\w+(?:\[[^\]]+\])?(?:, \w+)*)$")
PART = re.compile(r"^SBRT_PART\((\w+)\)\s*")
NUMBERS = {"int16_t": "c_int16", "int32_t": "c_int32", "int64_t": "c_int64", "uint64_t": "c_uint64"}
NUMBERS |= {"uint32_t": "c_uint32", "float": "c_float", "Mask": "Mask"}
CTYPES = ("Structure", *sorted({"c_void_p", "c_uint32", *NUMBERS.values()} - {"Mask"}))


@dataclass
class Struct:
    """name; fields: (name, ctypes type, elements of an array or ""); parts: (first field, part)."""

    name: str
    fields: list[tuple[str, str, str]] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)


def screaming(name: str) -> str:
    """The name in capitals, for example MaxRows as MAX_ROWS."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def statements(body: str) -> list[str]:
    """Declarations of a struct, without comments and functions."""
    body = re.sub(r"//[^\n]*", "", body)
    body = re.sub(r"\{[^{};]*\}", "", body)  # the braces of an expression
    body = re.sub(r"\{[^{}]*\}", ";", body)  # the body of a function
    declared = (" ".join(part.split()) for part in body.split(";"))
    return [text for text in declared if text and "(" not in PART.sub("", text)]


def ctype(kind: str, pointer: str, known: set[str], enums: set[str]) -> str:
    """The ctypes type for a declared type. Raises ValueError for one that kernels cannot read."""
    if pointer:
        return "c_void_p"
    if kind in enums:
        return "c_int32"
    if kind in known or kind.startswith("List<"):
        return kind.split("<")[0]
    if kind not in NUMBERS:
        raise ValueError(f"csrc/state: expected a type of fixed size, got {kind}")
    return NUMBERS[kind]


def read_struct(name: str, body: str, known: set[str], enums: set[str]) -> Struct:
    """A struct from the text between its braces. Raises ValueError for a field that is not
    plain."""
    made = Struct(name)
    for text in statements(body):
        part = PART.match(text)
        text = PART.sub("", text)
        found = FIELD.match(text)
        if not found:
            raise ValueError(f"csrc/state: {name}: expected a plain field, got {text!r}")
        kind = ctype(found[1], found[2], known, enums)
        if part:
            made.parts.append((re.split(r"\W", found[3])[0], part[1]))
        for declared in found[3].split(", "):
            label, _, size = declared.rstrip("]").partition("[")
            made.fields.append((label, kind, re.sub(r"\bk(\w+)", lambda m: screaming(m[1]), size)))
    return made


@dataclass
class State:
    """Sizes by name; the values of every enum; every struct in the order of the headers."""

    sizes: dict[str, str]
    enums: dict[str, dict[str, str]]
    structs: list[Struct] = field(default_factory=list)


def read_state() -> State:
    """All that the headers declare."""
    text = "\n".join((STATE / f"{header}.h").read_text() for header in HEADERS)
    sizes = {
        screaming(name): re.sub(r"\bk(\w+)", lambda m: screaming(m[1]), value)
        for name, value in SIZE.findall(text + SHAPE.read_text())
    }
    made = State(sizes, {name: values_of(body) for name, body in ENUM.findall(text)})
    for _, name, body in STRUCT.findall(text):
        known = {s.name for s in made.structs}
        made.structs.append(read_struct(name, body, known, set(made.enums)))
    return made


def values_of(body: str) -> dict[str, str]:
    """The values of an enum by name, from the text between its braces."""
    plain = re.sub(r"//[^\n]*", "", body)
    return {screaming(name).upper(): value for name, value in VALUE.findall(plain)}


def inc_text(structs: list[Struct]) -> str:
    """The contents of fields.inc."""
    plain = [s for s in structs if s.name != "List"]  # a template has no fixed offsets
    lines = [
        "// Made by tools/state_fields.py from the structs of this folder: do not edit.",
        "// clang-format off",
    ]
    lists = {"SBRT_STRUCTS": [f"X({s.name})" for s in plain]}
    for s in plain:
        lists[f"SBRT_FIELDS_OF_{screaming(s.name)}"] = [f"X({s.name}, {f[0]})" for f in s.fields]
        if s.parts:
            lists[f"SBRT_PARTS_OF_{screaming(s.name)}"] = [
                f"X({s.name}, {label}, {part})" for label, part in s.parts
            ]
    fields = [f"SBRT_FIELDS_OF_{screaming(s.name)}(X)" for s in plain]
    lists["SBRT_FIELDS"] = fields
    for name, items in lists.items():
        lines += ["", f"#define {name}(X) \\", *(f"  {item} \\" for item in items[:-1])]
        lines.append(f"  {items[-1]}")
    return "\n".join(lines) + "\n"


def python_text(state: State) -> str:
    """The contents of fields.py."""
    lines = [
        '"""The structs of csrc/state for ctypes. Made by tools/state_fields.py: do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        f"from ctypes import {', '.join(CTYPES)}",
        "from enum import IntEnum",
        "",
        *(f"{name} = {value}" for name, value in state.sizes.items()),
        "",
        "Mask = c_uint32 * 2",
    ]
    for name, values in state.enums.items():
        lines += ["", "", f"class {name}(IntEnum):", '    """As csrc/state has it."""', ""]
        lines += [f"    {label} = {value}" for label, value in values.items()]
    for s in state.structs:
        lines += ["", "", f"class {s.name}(Structure):", '    """As csrc/state has it."""', ""]
        lines.append("    _fields_ = (")
        for label, kind, size in s.fields:
            name = "lambda_" if label == "lambda" else label
            times = f" * ({size})" if " " in size else f" * {size}" if size else ""
            lines.append(f'        ("{name}", {kind}{times}),')
        lines.append("    )")
    names = [f"    {s.name}," for s in state.structs if s.name != "List"]
    lines += ["", "", "STRUCTS: tuple[type[Structure], ...] = (", *names, ")", ""]
    return "\n".join(lines)


def texts() -> dict[Path, str]:
    """The contents of each file, by path."""
    state = read_state()
    return {INC: inc_text(state.structs), PYTHON: python_text(state)}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
