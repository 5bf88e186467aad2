"""Mutated GGUF files: `python tests/model/gguf/mutants.py FILE --count 20000`.

FILE is a valid file. The program overwrites it and restores it at the end. Each mutant must be
refused with InvalidInputError, or load and generate. No reader may allocate memory only because a
count or a size in the header is large. tests/model/mutants.py has the limits and measures the
memory. Mutant i of seed s is always the same. The last line on stdout is a JSON summary.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import struct
import sys
from collections import Counter
from pathlib import Path

from sbrt import InvalidInputError
from sbrt.model.gguf import header
from sbrt.model.tokenizer import Tokenizer

COMMON = Path(__file__).parents[1] / "mutants.py"
spec = importlib.util.spec_from_file_location("common_mutants", COMMON)
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)

WIDE = (0, 1, 2, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**61, 2**62, 2**63,
        2**63 + 1, 2**64 - 1)  # fmt: skip
REALS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))


def mutated(rng: random.Random, good: bytes, end: int) -> bytes:
    """Return a mutant of the bytes `good`. Most mutations are in the header, which ends at byte
    `end`."""
    out = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(min(end, len(out)))
        kind = rng.randrange(9)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            replace(rng, out, end, "<Q", rng.choice(WIDE))
        elif kind == 3:
            replace(rng, out, end, "<I", rng.choice(WIDE) % 2**32)
        elif kind == 4:
            replace(rng, out, end, "<f", rng.choice(REALS))
        elif kind == 5:
            del out[at : at + rng.choice((1, 4, 8, 100))]
        elif kind == 6:
            out[at:at] = out[at : at + rng.choice((1, 8, 60))]
        elif kind == 7:
            del out[rng.choice((at, len(out) - rng.randrange(1, 64))) :]
        else:
            out += bytes(rng.choice((1, 16, 32, 5000)))
        if not out:
            break
    return bytes(out)


def replace(rng: random.Random, out: bytearray, end: int, code: str, value: float) -> None:
    """Replace a number in the header. Numbers are found by their zero bytes, because most counts
    are below 256."""
    size = struct.calcsize(code)
    small = [at for at in range(min(end, len(out) - size)) if out[at + 1 : at + 4] == b"\0\0\0"]
    at = rng.choice(small) if small else 0
    out[at : at + size] = struct.pack(code, value)


def run(path: Path, count: int, seed: int) -> Counter:
    good, seen = path.read_bytes(), Counter()
    end = header.open_gguf(path).data_begin
    common.answer(path)
    before = common.resident_peak()
    for i in range(count):
        rng = random.Random(f"gguf/{seed}/{i}")
        raw = mutated(rng, good, end)
        common.overwrite(path, raw)
        try:
            common.read(path, min(len(raw), 2 * end), i % common.SAMPLED == 0, seen)
            Tokenizer(path)
            common.answer(path)
            seen["ran"] += 1
        except InvalidInputError as error:
            seen["refused"] += 1
            seen["lines"] += "\n" in str(error)
        except Exception as error:
            seen["escaped"] += 1
            if seen["escaped"] <= common.ESCAPES:
                print(f"ESCAPED seed {seed}, mutant {i}: {type(error).__name__}: {error}")
        seen["mutants"] += 1
    seen["resident"] = common.resident_peak() - before
    seen["over_bound"] += seen["resident"] > common.RESIDENT
    return seen


def believing_texts(cursor: header._Cursor, what: str, count: int) -> list[str]:
    """A faulty reader that the tests must report: it allocates as much memory as the length of a
    text says."""
    found = []
    for _ in range(count):
        size = cursor.number(what, "Q")
        bytearray(size)
        found.append(cursor.take(what, size).decode("utf-8", "replace"))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--canary", action="store_true", help="with a reader that allocates")
    a = parser.parse_args(argv)
    if a.canary:
        header._Cursor.texts = believing_texts
    good = a.file.read_bytes()
    try:
        seen = run(a.file, a.count, a.seed)
    finally:
        a.file.write_bytes(good)
    print(json.dumps(seen))
    return 1 if seen["escaped"] or seen["over_bound"] or seen["lines"] else 0


if __name__ == "__main__":
    sys.exit(main())
