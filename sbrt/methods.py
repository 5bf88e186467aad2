"""Methods are presets of a round's options, written `NAME[:key=value,...]`.

none    draft_model:gamma=6    pearl    specbranch:k_max=1,epsilon=0,hrad=off

hrad: the file of an H-RAD classifier, `off`, or the name of a pair of models that has such a file:
`demo`, `smollm2`.
lookup: 1 adds n-gram look-ups in the text so far to the draft's chains. With lookup=1,
on_miss=lookup means the same as on_miss=continue.
acceptance: an option of every method. With `coupled`, tokens equal those of plain decoding. With
`rejection`, tokens only have the distribution of plain decoding; at temperature 0 they are equal,
too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import check
from ._core import (
    BURST,
    CANDIDATES,
    LOOKUP,
    MAX_BRANCHES,
    MAX_CHAIN,
    RANK_ADAPTIVE,
    RANK_LIKELY,
    Policy,
)
from .errors import InvalidInputError

MAX_GAMMA = MAX_CHAIN
GAMMA = 4
K_MAX = 8
EPSILON = 0.1
HRAD_OFF = "off"
ACCEPTANCE = ("coupled", "rejection")

SERIAL = ("none", "draft_model", "lookup", "adaedl", "tree")  # methods whose lanes take turns
METHODS = (*SERIAL, "pearl", "specbranch", "hedge", "auto")
AUTO = DEFAULT = "auto"
DEFAULT_ON_CUDA = "specbranch"
DRAFTLESS = ("none", "lookup")
MAX_AUTO_GAMMA = 15
OPTIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "draft_model": ("gamma",),
    "lookup": ("gamma",),
    "adaedl": ("gamma", "lambda", "theta"),
    "tree": ("gamma", "width", "nodes", "lookup"),
    "pearl": ("gamma",),
    "specbranch": ("gamma", "k_max", "epsilon", "hrad", "on_miss", "lookup"),
    "hedge": ("gamma", "F", "tree", "nodes", "on_miss", "burst", "burst_width", "lookup"),
    "auto": ("gamma", "k_max"),
}
# Fields of Policy that a method sets in addition to its options.
FORMS: dict[str, dict[str, int]] = {
    "none": {},
    "draft_model": {"on_miss": BURST},
    "lookup": {"on_miss": LOOKUP},
    "adaedl": {"on_miss": BURST},
    "tree": {"on_miss": BURST},
    "pearl": {"branches": 1},
    "specbranch": {"ranking": RANK_ADAPTIVE},
    "hedge": {"ranking": RANK_LIKELY},
}
# Options whose field of Policy has another name. For a serial method, gamma and width describe the
# serial burst.
FIELDS = {
    "k_max": "branches",
    "F": "branches",
    "tree": "width",
    "lambda": "lambda_",
    "acceptance": "rejection",
}
FIELDS_OF_BURSTS = {"gamma": "burst", "width": "burst_width"}
ON_MISS = ("continue", "serial", "lookup")  # in the order of OnMiss (csrc/state/policy.h)

Option = int | float | str


@dataclass(frozen=True)
class Method:
    """A resolved preset: its `text` as the user wrote it, and the value of every option.

    `options` has `acceptance` only if it is not `coupled`, and `lookup` only if it is not 0.
    gamma: number of draft steps of a burst, or of tokens of a look-up; 0 for a method that uses
    neither. branches: maximum number of branches in a round. width: maximum number of nodes that
    one draft step adds to a branch.
    """

    text: str
    name: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def gamma(self) -> int:
        """Number of draft steps of a burst, or of tokens of a look-up; 0 for a method that uses
        neither."""
        return int(self.options.get("gamma", 0))

    @property
    def branches(self) -> int:
        """Maximum number of branches in a round; 0 for a method that prepares none."""
        return int(self.options.get("k_max", self.options.get("F", int(self.name == "pearl"))))

    @property
    def width(self) -> int:
        """Maximum number of nodes that one draft step adds to a branch."""
        if self.name == AUTO:
            return max(arm.width for arm in self.arms)
        return max(1, int(self.options.get("tree", 1)))

    @property
    def drafts(self) -> bool:
        """True if the method uses a draft model. All methods that use one also require one, except
        `auto`."""
        return self.name not in DRAFTLESS

    @property
    def needs_draft(self) -> bool:
        """True if the method requires a draft model."""
        return self.drafts and self.name != AUTO

    @property
    def overlaps(self) -> bool:
        """True if the draft works in parallel with the target."""
        return self.name not in SERIAL

    @property
    def rejection(self) -> bool:
        """True if the method accepts drafted tokens by rejection sampling. The output then has the
        distribution of plain decoding, but not the same tokens."""
        return self.drafts and "acceptance" in self.options

    @property
    def named(self) -> frozenset[str]:
        """Names of the options that the preset's text sets."""
        return frozenset(_split(self.text)[1])

    @property
    def arms(self) -> tuple[Method, ...]:
        """The methods that may run for this preset: all candidates of `auto`, otherwise the method
        itself."""
        if self.name != AUTO:
            return (self,)
        rule = str(self.options.get("acceptance", ACCEPTANCE[0]))
        return _arms(self.gamma, self.branches, rule)

    def having(self, key: str, value: Option) -> Method:
        """Return a copy of the method in which the option `key` has the value `value`. The copy
        keeps the `text`."""
        return replace(self, options={**self.options, key: value})

    def policy(self) -> Policy | None:
        """Return the method as a Policy (csrc/state/policy.h). Returns None for `auto`, whose
        policy the engine chooses."""
        if self.name == AUTO:
            return None
        renamed = FIELDS | (FIELDS_OF_BURSTS if self.name in SERIAL else {})
        fields: dict[str, float] = {"burst": self.gamma, **FORMS[self.name]}
        for key, value in self.options.items():
            fields[renamed.get(key, key)] = _in_policy(key, value)
        if fields.get("on_miss") != BURST:
            fields["burst"] = self.gamma
        if not self.drafts:
            fields.pop("rejection", None)
        return Policy(**fields)


@dataclass(frozen=True)
class Range:
    """Allowed values of an option: numbers from `low` to `high`, or one of `words`."""

    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()
    is_float: bool = False


RANGES: dict[str, Range] = {
    "gamma": Range(1, MAX_GAMMA),
    "k_max": Range(1, CANDIDATES),
    "epsilon": Range(0, 1, is_float=True),
    "on_miss": Range(words=ON_MISS),
    "lambda": Range(0, 100, is_float=True),
    "theta": Range(-100, 1, is_float=True),
    "width": Range(1, CANDIDATES),
    "nodes": Range(1, MAX_GAMMA),
    "F": Range(1, MAX_BRANCHES),
    "tree": Range(0, CANDIDATES),
    "burst": Range(1, MAX_GAMMA),
    "burst_width": Range(1, CANDIDATES),
    "lookup": Range(0, 1),
    "acceptance": Range(words=ACCEPTANCE),
}
OWN_RANGES: dict[str, dict[str, Range]] = {"auto": {"k_max": Range(1, MAX_BRANCHES)}}
DEFAULTS: dict[str, Option] = {
    "gamma": GAMMA,
    "k_max": K_MAX,
    "on_miss": "continue",
    "lambda": 0.2,
    "theta": 0.4,
    "width": 8,
    "nodes": 28,
    "F": 16,
    "tree": 2,
    "burst": 2,
    "burst_width": 16,
    "lookup": 0,
}
# Values of options with which `parse` leaves the option out of a method.
UNSEEN: dict[str, Option] = {"acceptance": ACCEPTANCE[0], "lookup": 0}
OWN_DEFAULTS: dict[str, dict[str, Option]] = {
    "hedge": {"on_miss": "serial"},
    "auto": {"gamma": MAX_AUTO_GAMMA, "k_max": MAX_BRANCHES},
}


def parse(
    text: str,
    *,
    gamma: int | None = None,
    k_max: int | None = None,
    epsilon: float = EPSILON,
    hrad: str = HRAD_OFF,
    acceptance: str = ACCEPTANCE[0],
) -> Method:
    """Read a preset. The keywords give the values of options that the text does not set.

    gamma, k_max: None means the method's own default; for `auto` both are upper limits. Raises
    InvalidInputError on an unknown method or option, or a value out of range.
    """
    name, given = _split(text)
    most = int(_range(name, "k_max").high)
    defaults: dict[str, Option] = {
        **DEFAULTS,
        **OWN_DEFAULTS.get(name, {}),
        **({} if gamma is None else {"gamma": check.integer("gamma", gamma, 1, MAX_GAMMA)}),
        **({} if k_max is None else {"k_max": check.integer("k_max", k_max, 1, most)}),
        "epsilon": check.number("epsilon", epsilon, 0, 1),
        "hrad": check.text("hrad", hrad),
    }
    known = (*OPTIONS[name], "acceptance")
    defaults["acceptance"] = check.one_of("acceptance", acceptance, ACCEPTANCE)
    for key in given:
        if key not in known:
            takes = f"it takes {', '.join(known)}"
            raise InvalidInputError(f"method {name}: unknown option {check.show(key)}; {takes}")
    options = {
        key: _option(name, key, given[key]) if key in given else defaults[key] for key in known
    }
    for key, default in UNSEEN.items():
        if options.get(key) == default:
            del options[key]
    return Method(text=text, name=name, options=options)


def _arms(gamma: int, branches: int, acceptance: str) -> tuple[Method, ...]:
    """Return the candidates of `auto`, plain decoding first.

    gamma, branches: upper limits of the candidates' gamma and number of branches.
    """
    paths = sorted({min(g, gamma) for g in (2, 4, 8)})
    trees = [(min(12, gamma), width) for width in (1, 4, 12)]
    overlapped = sorted({min(g, gamma) for g in (3, 7, MAX_AUTO_GAMMA)})
    fans = sorted({min(f, branches) for f in (16, MAX_BRANCHES)})
    texts = (
        "none",
        *(f"lookup:gamma={g}" for g in paths),
        *(f"tree:gamma={g},width={width},nodes=48" for g, width in trees),
        *(f"hedge:gamma={g},F={f}" for g in overlapped for f in fans),
        f"hedge:gamma={min(7, gamma)},F={fans[-1]},on_miss=lookup",
        *(f"tree:gamma={g},width={width},nodes=48,lookup=1" for g, width in trees),
        *(f"hedge:gamma={g},F={fans[-1]},lookup=1" for g in overlapped[:2]),
        # The next candidates have few branches. They are for devices, where draft steps of many
        # rows take longer, and for many sequences.
        *(
            f"hedge:gamma={min(g, gamma)},F={min(f, branches)},lookup=1"
            for g, f in ((2, 2), (3, 2), (3, 4))
        ),
        # The next candidates are for many sequences, when each sequence gets few rows. After a
        # miss they run no serial burst.
        *(f"hedge:gamma={g},F={fans[0]},on_miss=lookup" for g in overlapped[:2]),
    )
    return tuple(parse(text, acceptance=acceptance) for text in dict.fromkeys(texts))


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


def _in_policy(key: str, value: Option) -> float:
    """Return an option's value as a number for Policy. A word becomes its index in the option's
    Range."""
    if key == "hrad":
        return int(value != HRAD_OFF)
    if key == "tree":  # tree=0 means that branches are paths, whose width is 1
        return max(1, int(value))
    span = RANGES[key]
    if span.words:
        return span.words.index(str(value))
    return float(value) if span.is_float else int(value)


def _range(name: str, key: str) -> Range:
    return OWN_RANGES.get(name, {}).get(key, RANGES[key])


def _option(name: str, key: str, value: str) -> Option:
    if key == "hrad":  # a path, or a name that sbrt.model.hrad knows
        return value
    thing, span = f"method {name}, option {key}", _range(name, key)
    if span.words:
        return check.one_of(thing, value, span.words)
    try:
        number = float(value) if span.is_float else int(value)
    except ValueError:
        raise InvalidInputError(f"{thing}: expected a number, got {check.show(value)}") from None
    if span.is_float:
        return check.number(thing, number, span.low, span.high)
    return check.integer(thing, number, int(span.low), int(span.high))
