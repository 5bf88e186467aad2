"""The table of the lines, and sentences that compare our figures with each peer's best figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.models.checkpoints import DEMO, INFLATED
from bench.peers.lines import GGUF, OURS, PLAIN, ROWS, forward_key
from sbrt.tools.table import aligned

Found = dict[str, Any]
COLUMNS = (
    *("peer", "dtype", "mode", "tokens/s", "spread"),
    *("us, 1 row", *(f"{n} rows" for n in ROWS[1:]), "ids differ", "at ties"),
)
TOGETHER = (
    *("peer", "dtype", "mode", "at once", "tokens/s", "best", "with prefill", "x one"),
    *("ids differ", "at ties"),
)
HALVES = ("float16", "bfloat16")
LLAMA = "llama-cpp-python"


@dataclass(frozen=True)
class Question:
    """Compares our line of `dtype` and `mode` with the best line of `peer` in `dtypes` and `modes`.

    checkpoints: names of the checkpoints to compare on. They are empty for questions on GGUF files,
    whose lines have a dtype of their own. figure: a key of the JSON, a rate or a time. at_least:
    the speedup over the peer that our line should reach.
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
        """Return the answer, or None if our line or the peer's line has no figure."""
        is_rate = self.figure in RATES
        ours = self._best(lines, OURS, (self.dtype,), (self.mode,))
        theirs = self._best(lines, self.peer, self.dtypes, self.modes)
        if ours is None or theirs is None:
            return None
        ratio = ours[self.figure] / theirs[self.figure]
        ratio = ratio if is_rate else 1 / ratio
        return (
            f"{self.figure}: ours {self.dtype} {self.mode} is {ratio:.2f} times {self.peer} "
            f"{theirs['dtype']} {theirs['mode']} (asked for: {self.at_least:.3g})"
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
        sign = -1 if self.figure in RATES else 1
        return min(found, key=lambda line: sign * line[self.figure], default=None)


RATE, ONE, EIGHT = "tokens_per_second", forward_key(1), forward_key(8)
BATCH = "batch_tokens_per_second"
RATES = (RATE, BATCH)
LOOKUPS = ("prompt_lookup", "prompt_lookup_bare")
# Maps a number of rows to the longest acceptable time of a forward with this number of rows,
# relative to a forward of one row.
ROW_RATIOS = {8: 1.5, 16: 2.5}
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
    Question((), GGUF, "none", LLAMA, (GGUF,), ("plain",), RATE, 2.5),
    Question((), GGUF, "lookup", LLAMA, (GGUF,), LOOKUPS, RATE, 2.5),
    Question((), GGUF, "none", LLAMA, (GGUF,), ("plain",), ONE, 1 / 0.42),
    Question((), GGUF, "none", LLAMA, (GGUF,), ("plain",), EIGHT, 1 / 0.18),
    Question(("m37", *PAIRS), "bfloat16", "none", LLAMA, HALVES, ("plain",), BATCH, 3.0),
    Question((), GGUF, "none", LLAMA, (GGUF,), ("plain",), BATCH, 3.0),
)


def render(lines: Sequence[Found]) -> str:
    """Return a table for each checkpoint, with the answers to the questions about it."""
    parts = []
    for name in dict.fromkeys(line["checkpoint"] for line in lines):
        mine = [line for line in lines if line["checkpoint"] == name]
        threads, prompts = mine[0]["threads"], max(line["prompts"] for line in mine)
        parts.append(f"{name}: {threads} threads, {prompts} prompts, medians")
        parts += aligned([COLUMNS, *map(_row, mine)])
        if batches := [line for line in mine if line["batch"]]:
            parts += ["", *aligned([TOGETHER, *map(_batch_row, batches)]), ""]
        parts += [f"{x['peer']} {x['dtype']} {x['mode']}: {x['error']}" for x in mine if x["error"]]
        parts += [*_answers(name, mine), ""]
    return "\n".join(parts[:-1])


def _answers(name: str, lines: Sequence[Found]) -> Iterator[str]:
    for question in QUESTIONS:
        asked = name in question.checkpoints or not question.checkpoints
        if asked and (sentence := question.sentence(lines)):
            yield sentence
    yield from _rows_of_files(lines)
    yield from _parts(lines)


def _rows_of_files(lines: Sequence[Found]) -> Iterator[str]:
    """Yield one sentence per plain line on a GGUF file and entry of ROW_RATIOS. It gives the time
    of a forward of several rows, relative to a forward of one row."""
    for line in lines:
        if line["dtype"] != GGUF or line["mode"] not in PLAIN or not line[ONE]:
            continue
        for rows, most in ROW_RATIOS.items():
            if us := line[forward_key(rows)]:
                asked = f" (asked for: at most {most})" if line["peer"] == OURS else ""
                yield f"{rows} rows of {line['peer']} cost {us / line[ONE]:.2f} times one{asked}"


def _parts(lines: Sequence[Found]) -> Iterator[str]:
    """Yield sentences on where other engines' answers first differ from ours on the same GGUF
    file."""
    for line in lines:
        at = line["parts_at"]
        found = sorted(i for i in at if i is not None)
        if found and line["dtype"] == GGUF and line["peer"] != OURS:
            yield (
                f"{line['peer']} {line['mode']}: {len(found)} of {len(at)} answers part from ours, "
                f"at token {', '.join(map(str, found))}; {line['of_them_at_ties']} at near-ties"
            )


def _row(line: Found) -> tuple[str, ...]:
    low, high = line["spread"] or (None, None)
    return (
        line["peer"],
        line["dtype"],
        line["mode"],
        _shown(line["tokens_per_second"], 1),
        f"{_shown(low, 0)}-{_shown(high, 0)}" if low is not None else "-",
        *(_shown(line[forward_key(n)], 0) for n in ROWS),
        str(line["prompts_that_differ"]),
        str(line["of_them_at_ties"]),
    )


def _batch_row(line: Found) -> tuple[str, ...]:
    rate, alone = line[BATCH], line[RATE]
    return (
        *(line[key] for key in ("peer", "dtype", "mode")),
        str(line["batch"]),
        *(_shown(line[f"batch_{part}tokens_per_second"], 1) for part in ("", "best_", "total_")),
        _shown(rate / alone if rate and alone else None, 2),
        str(line["batch_prompts_that_differ"]),
        str(line["batch_of_them_at_ties"]),
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
