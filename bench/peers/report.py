"""The table of the lines, and what the figures ask for: ours beside the best of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.checkpoints import DEMO, INFLATED
from bench.peers.lines import OURS
from sbrt.table import aligned

Found = dict[str, Any]
COLUMNS = (
    *("peer", "dtype", "mode", "tokens/s", "spread", "us, 1 row", "us, 8 rows", "ids differ"),
    "at ties",
)
HALVES = ("float16", "bfloat16")
LLAMA = "llama-cpp-python"


@dataclass(frozen=True)
class Question:
    """Our line at `dtype`, `mode` against the best line of `peer` at `dtypes`, `modes`.

    figure: a key of the JSON; of a time, the ratio is how many times quicker ours is.
    """

    checkpoints: tuple[str, ...]
    dtype: str
    mode: str
    peer: str
    dtypes: tuple[str, ...]
    modes: tuple[str, ...]
    figure: str
    at_least: float

    def sentence(self, lines: Sequence[Found]) -> str | None:
        """None if one of the two has no figure."""
        is_rate = self.figure == "tokens_per_second"
        ours = self._best(lines, OURS, (self.dtype,), (self.mode,))
        theirs = self._best(lines, self.peer, self.dtypes, self.modes)
        if ours is None or theirs is None:
            return None
        ratio = ours[self.figure] / theirs[self.figure]
        ratio = ratio if is_rate else 1 / ratio
        return (
            f"{self.figure}: ours {self.dtype} {self.mode} is {ratio:.2f} times {self.peer} "
            f"{theirs['dtype']} {theirs['mode']} (asked for: {self.at_least})"
        )

    def _best(
        self, lines: Sequence[Found], peer: str, dtypes: Sequence[str], modes: Sequence[str]
    ) -> Found | None:
        found = [
            line
            for line in lines
            if (line["peer"], line["dtype"] in dtypes, line["mode"] in modes) == (peer, True, True)
            and line[self.figure]
        ]
        sign = -1 if self.figure == "tokens_per_second" else 1
        return min(found, key=lambda line: sign * line[self.figure], default=None)


RATE, ONE, EIGHT = "tokens_per_second", "forward_us_1", "forward_us_8"
PAIRS = (DEMO, INFLATED)
QUESTIONS = (
    Question(("m37",), "bfloat16", "none", LLAMA, HALVES, ("plain",), RATE, 1.35),
    Question(("m37",), "float32", "none", LLAMA, ("float32",), ("plain",), RATE, 1.0),
    Question(("m37",), "int8", "none", LLAMA, ("q8_0",), ("plain",), RATE, 1.3),
    Question(("m37",), "bfloat16", "none", LLAMA, HALVES, ("plain",), EIGHT, 2.0),
    Question(
        ("m2",), "bfloat16", "none", LLAMA, (*HALVES, "float32", "q8_0"), ("plain",), ONE, 1.5
    ),
    Question(PAIRS, "bfloat16", "auto", OURS, ("bfloat16",), ("none",), RATE, 1.8),
    Question(PAIRS, "bfloat16", "auto", LLAMA, HALVES, ("plain",), RATE, 2.5),
    Question(
        *(PAIRS, "bfloat16", "auto", "transformers"),
        *(("float32", "bfloat16"), ("assistant_model",), RATE, 6.0),
    ),
    Question(
        *(PAIRS, "bfloat16", "auto", "openvino-genai"),
        *(("float32", "bfloat16"), ("draft_model",), RATE, 1.5),
    ),
)


def render(lines: Sequence[Found]) -> str:
    """A table for each checkpoint, and the answers to the questions about it."""
    parts = []
    for name in dict.fromkeys(line["checkpoint"] for line in lines):
        mine = [line for line in lines if line["checkpoint"] == name]
        threads, prompts = mine[0]["threads"], max(line["prompts"] for line in mine)
        parts.append(f"{name}: {threads} threads, {prompts} prompts, medians")
        parts += aligned([COLUMNS, *map(_row, mine)])
        parts += [f"{x['peer']} {x['dtype']} {x['mode']}: {x['error']}" for x in mine if x["error"]]
        parts += [*_answers(name, mine), ""]
    return "\n".join(parts[:-1])


def _answers(name: str, lines: Sequence[Found]) -> Iterator[str]:
    for question in QUESTIONS:
        if name in question.checkpoints and (sentence := question.sentence(lines)):
            yield sentence


def _row(line: Found) -> tuple[str, ...]:
    low, high = line["spread"] or (None, None)
    return (
        line["peer"],
        line["dtype"],
        line["mode"],
        _shown(line["tokens_per_second"], 1),
        f"{_shown(low, 0)}-{_shown(high, 0)}" if low is not None else "-",
        _shown(line["forward_us_1"], 0),
        _shown(line["forward_us_8"], 0),
        str(line["prompts_that_differ"]),
        str(line["of_them_at_ties"]),
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
