"""Reads and writes the file of an H-RAD classifier: three layers that predict how much of an
adopted tail is accepted.

The file is a safetensors file of w1 [256, inputs] (bf16), b1, w2 [64, 256], b2, w3 [3, 64], b3
(f32). Its metadata name the gamma and the models for which the classifier was trained. The
classifier is refused for any other gamma or model.

The inputs are 5 hidden vectors of the target, and two numbers for each of a tail's first 16 nodes.
These two numbers describe the draft's confidence (csrc/round/hrad.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _core, check
from ..errors import InvalidInputError
from ..files import write_file
from ..methods import HRAD_OFF, MAX_GAMMA, Method
from . import demo_pair, real_pair
from .checkpoint import open_checkpoint
from .draft import open_draft
from .fingerprint import fingerprint_of
from .safetensors_file import TensorFile, bfloat16, encode, open_file, widened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

FORMAT = "sbrt-hrad-2"
# Number of blocks of `hidden` inputs: one per feature layer, one embedding.
BLOCKS = _core.FEATURE_LAYERS + 1
TAIL = _core.HRAD_TAIL  # number of nodes of a tail whose confidence is an input
WIDTHS = _core.HRAD_WIDTHS
WIDE = "w1"  # the largest tensor; it is stored as bfloat16, because every round reads it
CLASSES = ("nothing", "some", "all")  # the accepted part of the next chain
DEMO = "demo"  # this value means the file that ships with a draft of the demo pair
FILE = "hrad.safetensors"
MOST_HIDDEN = 2**20


@dataclass(frozen=True)
class Origin:
    """The models and settings with which the training samples were collected.

    gamma: draft steps of a burst. hidden: the target's hidden size. target, draft: fingerprints of
    the models.
    """

    gamma: int
    hidden: int
    target: str
    draft: str
    temperature: float = 0.0

    def metadata(self) -> dict[str, str]:
        """Return the origin in the form of a file's metadata."""
        return {name: str(value) for name, value in vars(self).items()}

    def check_same(self, name: str, other: Origin) -> None:
        """Raise InvalidInputError, naming the difference, if `other` has another gamma, hidden
        size, target or draft."""
        for what in ("gamma", "hidden", "target", "draft"):
            mine, given = getattr(self, what), getattr(other, what)
            if mine != given:
                thing = f"the {what} model of fingerprint" if what in ("target", "draft") else what
                raise InvalidInputError(
                    f"{name}: expected {thing} {short(given)}, it was made for {short(mine)}"
                )


def short(value: object) -> str:
    """Return the first characters of a fingerprint; any other value unchanged."""
    return value[:12] if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Classifier:
    """The contents of a classifier's file, as float32. The values of w1 are rounded to bfloat16.

    counts: number of training samples of each class. data: sha256 of the file of samples.
    """

    path: Path
    origin: Origin
    tensors: dict[str, Array]
    counts: tuple[int, int, int]
    data: str

    @cached_property
    def core(self) -> Any:
        """The classifier in the form that the engine's rounds read (`_core.Hrad`)."""
        return _core.Hrad(self.origin.hidden, *self.tensors.values())

    def logits(self, features: Array) -> Array:
        """Return the class scores [n, 3] for features [n, inputs], f32. The C++ core computes the
        same function."""
        import numpy as np

        t = self.tensors
        first = np.maximum(features @ t["w1"].T + t["b1"], 0)
        second = np.maximum(first @ t["w2"].T + t["b2"], 0)
        found: Array = second @ t["w3"].T + t["b3"]
        return found

    def encode(self) -> bytes:
        """Return the bytes of the file. Equal contents give equal bytes."""
        counts = " ".join(map(str, self.counts))
        kept = self.tensors | {WIDE: bfloat16(self.tensors[WIDE])}
        more = {"format": FORMAT, "counts": counts, "data": self.data}
        return encode(kept, self.origin.metadata() | more)

    def save(self) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        write_file(self.path, self.encode())


def load(path: Path) -> Classifier:
    """Read and check a classifier's file. Raises InvalidInputError, naming file and field."""
    file = open_existing(path)
    origin = read_origin(file, FORMAT)
    tensors = {}
    for name, shape in shapes(origin.hidden).items():
        tensors[name] = file.array(name, "BF16" if name == WIDE else "F32", shape)
        if name == WIDE:
            tensors[name] = widened(tensors[name])
        check_finite(f"{path}, tensor {name}", tensors[name])
    for name in file.tensors:
        if name not in tensors:
            raise InvalidInputError(f"{path}, tensor {check.show(name)}: expected no such tensor")
    counts = _counts(path, field(file, "counts"))
    return Classifier(path, origin, tensors, counts, field(file, "data"))


def open_existing(path: Path) -> TensorFile:
    """Open a file. A pipe is refused, because opening it would wait for a writer. Raises
    InvalidInputError."""
    if not check.is_file(path):
        raise InvalidInputError(f"{path}: expected a safetensors file, found none")
    return open_file(path)


def inputs(hidden: int) -> int:
    """Return the number of inputs of a classifier, for a target with hidden size `hidden`."""
    return BLOCKS * hidden + 2 * TAIL


def shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor, in the order of the classifier's file."""
    found: dict[str, tuple[int, ...]] = {}
    width = inputs(hidden)
    for i, out in enumerate(WIDTHS, start=1):
        found |= {f"w{i}": (out, width), f"b{i}": (out,)}
        width = out
    return found


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Raise InvalidInputError on a NaN or an infinity."""
    import numpy as np

    if not np.isfinite(values).all():
        raise InvalidInputError(f"{name}: expected finite numbers, got a NaN or an infinity")


def read_origin(file: TensorFile, expected: str) -> Origin:
    """Read the origin in a file's metadata. Raises InvalidInputError on another format."""
    given = file.metadata.get("format")
    if given != expected:
        raise InvalidInputError(f"{file.path}: expected format {expected}, got {check.show(given)}")
    return Origin(
        gamma=_integer(file, "gamma", MAX_GAMMA),
        hidden=_integer(file, "hidden", MOST_HIDDEN),
        target=field(file, "target"),
        draft=field(file, "draft"),
        temperature=_number(file, "temperature"),
    )


def field(file: TensorFile, name: str) -> str:
    """Return the value of a metadata field, a text. Raises InvalidInputError if there is none."""
    value = file.metadata.get(name)
    return check.text(f"{file.path}, metadata {name}", value)


def origin_of(gamma: int, target: Path, draft: Path, temperature: float = 0.0) -> Origin:
    """Return the origin for a pair of folders. Raises InvalidInputError if one of them holds no
    model."""
    model = open_checkpoint(target)
    guesser = open_draft(draft, model)
    return Origin(
        gamma, model.config.hidden, fingerprint_of(model), fingerprint_of(guesser), temperature
    )


def is_on(method: Method) -> bool:
    """True if a method uses a classifier."""
    return method.options.get("hrad", HRAD_OFF) != HRAD_OFF


def locate(method: Method, draft: Path | None) -> Path:
    """Return the path of the classifier's file that the option `hrad` of a method means.

    Raises InvalidInputError if the option names a pair of models to which the draft does not
    belong.
    """
    value = str(method.options["hrad"])
    known = {
        DEMO: [demo_pair.FOLDER / name for name in (demo_pair.DRAFT, demo_pair.POOR)],
        real_pair.NAME: [demo_pair.FOLDER / real_pair.NAME],
    }
    if value not in known:
        return Path(value)
    if draft is None or draft.resolve() not in [folder.resolve() for folder in known[value]]:
        raise InvalidInputError(
            f"hrad={value}: expected a draft of the {value} pair, got {check.show(str(draft))}"
        )
    return draft / FILE


def fitted(method: Method, gamma: int | None, draft: Path | None) -> Method:
    """Return the method. If the method uses a classifier and no gamma is given, the result has the
    classifier's gamma."""
    if not is_on(method) or gamma is not None or "gamma" in method.named:
        return method
    origin = read_origin(open_existing(locate(method, draft)), FORMAT)
    return method.having("gamma", origin.gamma)


def load_for(
    methods: Sequence[Method], target: Path, draft: Path | None, random: bool = False
) -> Classifier | None:
    """Load the one classifier that an engine's methods use, and check that it fits the models.

    Returns None if no method uses a classifier. random: True if the draft has random weights, and
    so no folder. Raises InvalidInputError.
    """
    using = [method for method in methods if is_on(method)]
    if not using:
        return None
    if draft is None:
        got = "random weights" if random else "none"
        raise InvalidInputError(f"hrad: expected a draft from a folder, got {got}")
    paths = list(dict.fromkeys(locate(method, draft) for method in using))
    if len(paths) > 1:
        raise InvalidInputError(
            f"hrad: expected one file in an engine, got {paths[0]} and {paths[1]}"
        )
    found = load(paths[0])
    for method in using:
        check_gamma(found, method)
    found.origin.check_same(str(found.path), origin_of(found.origin.gamma, target, draft))
    return found


def check_request(built: Classifier | None, method: Method, draft: Path | None) -> None:
    """Raise InvalidInputError if the method uses another classifier than its engine."""
    if not is_on(method):
        return
    path = locate(method, draft)
    if built is None or path != built.path:
        has = "off" if built is None else str(built.path)
        raise InvalidInputError(
            f"method {method.text}: expected hrad {has}, as the engine was built for, got {path}"
        )
    check_gamma(built, method)


def check_gamma(classifier: Classifier, method: Method) -> None:
    """Raise InvalidInputError if the method's gamma differs from the classifier's gamma."""
    if method.gamma != classifier.origin.gamma:
        raise InvalidInputError(
            f"{classifier.path}: expected gamma {method.gamma}, as method {method.text} has, "
            f"it was made for {classifier.origin.gamma}"
        )


def _integer(file: TensorFile, name: str, most: int) -> int:
    value = file.metadata.get(name)
    if isinstance(value, str) and len(value) < 10 and value.isascii() and value.isdigit():
        return check.integer(f"{file.path}, metadata {name}", int(value), 1, most)
    raise InvalidInputError(
        f"{file.path}, metadata {name}: expected a number from 1 to {most}, got {check.show(value)}"
    )


def _number(file: TensorFile, name: str) -> float:
    where = f"{file.path}, metadata {name}"
    try:
        return check.number(where, float(field(file, name)), 0)
    except ValueError:
        raise InvalidInputError(
            f"{where}: expected a number, got {check.show(file.metadata.get(name))}"
        ) from None


def _counts(path: Path, text: str) -> tuple[int, int, int]:
    words = text.split(" ")
    if len(words) != 3 or not all(len(w) < 16 and w.isascii() and w.isdigit() for w in words):
        raise InvalidInputError(
            f"{path}, metadata counts: expected three numbers, got {check.show(text)}"
        )
    first, second, third = map(int, words)
    return first, second, third


def counted(labels: Sequence[int] | NDArray[Any]) -> tuple[int, int, int]:
    """Return the number of samples of each class."""
    found = [0, 0, 0]
    for label in labels:
        found[int(label)] += 1
    return found[0], found[1], found[2]


def described(counts: Sequence[int]) -> str:
    """Return the counts by class as a text, for example `nothing 10, some 20, all 30`."""
    return ", ".join(f"{name} {count}" for name, count in zip(CLASSES, counts, strict=True))
