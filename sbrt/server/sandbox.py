"""The sandbox of chat templates: jinja2's immutable sandbox, with limits on steps and on
lengths."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

MOST_STEPS = 200_000  # maximum number of loop iterations and macro calls in one rendering
MOST_TEXT = 4 * 2**20  # maximum characters of a rendering, and maximum length of a value in it


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks a model's text for training. Here the tag has no effect: the text
    inside it is rendered as usual."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        """Return the statements up to the tag `endgeneration`, in a scope of their own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox. Rendering raises SecurityError if a template takes too many steps or its text
    grows too long."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, jinja2.ext.loopcontrols],
        )
        self._state = threading.local()  # several threads may render the same template

    def collected(self, pieces: Iterator[str]) -> str:
        """Join the pieces of a rendering, and return the text. Raises SecurityError if the text is
        too long."""
        self._state.steps = 0
        found, length = [], 0
        for piece in pieces:
            length += len(piece)
            _check_length(length)
            found.append(piece)
        return "".join(found)

    def count_step(self) -> str:
        """Count a step. The compiled template calls this in every iteration of a loop and in every
        call of a macro."""
        self._state.steps += 1
        if self._state.steps > MOST_STEPS:
            raise jinja2.exceptions.SecurityError(f"more than {MOST_STEPS} steps")
        return ""

    def joined(self, *parts: Any) -> str:
        """Apply the operator `~`."""
        found = [str(part) for part in parts]
        _check_length(sum(map(len, found)))
        return "".join(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator that can make a long value out of short ones. Raises SecurityError if
        the result is too long."""
        if operator == "+":
            _check_length(_length(left) + _length(right))
        elif operator == "*":
            _check_length(_product(left, right))
        elif operator == "**":
            _check_length(_power(left, right))
        elif isinstance(left, str):
            _check_length(sum(int(n[:9]) for n in _numbers(left)))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            node.body.insert(0, nodes.Output([self._calling("count_step", [])]))
        _replace(tree, self._calling)
        return tree

    @staticmethod
    def _calling(name: str, given: list[nodes.Expr]) -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute(name), given, [], None, None, lineno=1)


def _replace(tree: nodes.Node, calling: Any) -> None:
    """Replace every `~` by a call of `joined`."""
    for node in list(_below(tree)):
        for name, value in list(node.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(node, name, calling("joined", value.nodes))
            elif isinstance(value, list):
                found = [
                    calling("joined", one.nodes) if isinstance(one, nodes.Concat) else one
                    for one in value
                ]
                setattr(node, name, found)


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield `node` and every node below it, children before their parent. So the operands of a `~`
    are replaced before the `~` itself."""
    for child in node.iter_child_nodes():
        yield from _below(child)
    yield node


def _check_length(length: float) -> None:
    if length > MOST_TEXT:
        raise jinja2.exceptions.SecurityError(f"a value longer than {MOST_TEXT}")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _product(left: Any, right: Any) -> int:
    for text, count in ((left, right), (right, left)):
        if isinstance(text, (str, list, tuple)) and isinstance(count, int):
            return len(text) * max(0, count)
    digits = [v.bit_length() for v in (left, right) if isinstance(v, int)]
    return sum(digits) if len(digits) == 2 else 0


def _power(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * max(0, right)
    return 0


def _numbers(text: str) -> Iterable[str]:
    word = ""
    for letter in text + " ":
        if letter.isdigit() and letter.isascii():
            word += letter
        elif word:
            yield word
            word = ""
