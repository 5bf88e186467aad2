"""Methods are presets of the four knobs of a round, written `NAME[:key=value,...]`.

none    draft_model:gamma=6    pearl    specbranch:k_max=1,epsilon=0,hrad=off
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import check
from ._core import Policy
from .errors import InvalidInputError, not_built

MAX_GAMMA = 63  # nodes of a chain
MAX_BRANCHES = 16  # candidates kept of a draft's law
GAMMA = 4
K_MAX = 8
EPSILON = 0.1

METHODS = ("none", "draft_model", "pearl", "specbranch")
SERIAL = ("none", "draft_model")  # the lanes take turns
LATER = ("auto", "lookup", "adaedl", "tree", "hedge")
DEFAULT = "specbranch"
OPTIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "draft_model": ("gamma",),
    "pearl": ("gamma",),
    "specbranch": ("gamma", "k_max", "epsilon", "hrad"),
}

Option = int | float | str


@dataclass(frozen=True)
class Method:
    """A resolved preset: `text` as it was written, every option with its value.

    gamma: draft steps of a burst, 0 without a draft. branches: most branches of a round.
    """

    text: str
    name: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def gamma(self) -> int:
        return int(self.options.get("gamma", 0))

    @property
    def branches(self) -> int:
        return int(self.options.get("k_max", 1 if self.name != "none" else 0))

    @property
    def drafts(self) -> bool:
        """Whether the method needs a draft model."""
        return self.name != "none"

    @property
    def overlaps(self) -> bool:
        """Whether the draft works beside the target."""
        return self.name not in SERIAL

    @property
    def named(self) -> frozenset[str]:
        """Options that the preset was written with."""
        return frozenset(_split(self.text)[1])

    def having(self, key: str, value: Option) -> Method:
        """The same with one option set, under the same text."""
        return replace(self, options={**self.options, key: value})

    def policy(self) -> Policy:
        """The knobs as the engine's round reads them (csrc/exec/control.h)."""
        special = self.name == "specbranch"
        return Policy(
            gamma=self.gamma,
            branches=self.branches,
            adaptive=int(special),
            epsilon=float(self.options.get("epsilon", 0.0)),
            serial=int(self.drafts and not self.overlaps),
        )


def parse(text: str, *, gamma: int = GAMMA, k_max: int = K_MAX, epsilon: float = EPSILON) -> Method:
    """Read a preset; the keywords are the values of options it does not name.

    Raises InvalidInputError on an unknown method or option, or a value out of range.
    """
    name, given = _split(text)
    defaults: dict[str, Option] = {
        "gamma": check.integer("gamma", gamma, 1, MAX_GAMMA),
        "k_max": check.integer("k_max", k_max, 1, MAX_BRANCHES),
        "epsilon": check.number("epsilon", epsilon, 0, 1),
        "hrad": "off",
    }
    known = OPTIONS[name]
    for key in given:
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidInputError(f"method {name}: unknown option {check.show(key)}; {takes}")
    return Method(
        text=text,
        name=name,
        options={
            key: _option(name, key, given[key]) if key in given else defaults[key] for key in known
        },
    )


def parse_list(text: str) -> list[str]:
    """Split `A,B:x=1,y=2,C`: a comma starts a new method unless what follows is `key=value`."""
    found: list[str] = []
    for part in text.split(","):
        is_option = "=" in part and ":" not in part.split("=", 1)[0]
        if is_option and found and ":" in found[-1]:
            found[-1] += "," + part
        else:
            found.append(part.strip())
    return found


def _split(text: str) -> tuple[str, dict[str, str]]:
    if not isinstance(text, str):
        raise InvalidInputError(f"method: expected NAME[:key=value,...], got {check.show(text)}")
    name, colon, rest = text.partition(":")
    if name in LATER:
        raise not_built(f"method {name}")
    if name not in METHODS:
        raise InvalidInputError(
            f"method: expected one of {', '.join(METHODS)}, got {check.show(name)}"
        )
    given: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InvalidInputError(
                f"method {name}: expected options key=value, got {check.show(part)}"
            )
        if key in given:
            raise InvalidInputError(f"method {name}: option {key} is given twice")
        given[key] = value
    return name, given


def _option(name: str, key: str, value: str) -> Option:
    thing = f"method {name}, option {key}"
    if key == "hrad":
        if value != "off":
            raise not_built(f"{thing}={value}")
        return value
    try:
        if key == "epsilon":
            return check.number(thing, float(value), 0, 1)
        return check.integer(thing, int(value), 1, MAX_GAMMA if key == "gamma" else MAX_BRANCHES)
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{thing}: expected a number, got {check.show(value)}") from None
