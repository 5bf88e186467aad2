"""Mutated model folders: `python tests/model/mutants.py headers FOLDER --count 20000`.

FOLDER holds a valid checkpoint. The program overwrites one of its files and restores it at the end.
Each mutant must be refused with InvalidInputError, or load and generate. No memory may be allocated
only because a size in a file is large. The limits are:
  address space while a mutant is read: HEADROOM more than before, else malloc fails (MemoryError)
  Python's own memory while it is read: BASE and PER_BYTE times its JSON (every SAMPLED-th mutant)
  resident memory, with the C++ side and generations: RESIDENT more than after the first load

Mutant i of seed s is always the same. The last line on stdout is a JSON summary.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import struct
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sbrt import Engine, InvalidInputError, SamplingParams, _core
from sbrt.model import safetensors_file
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.config import read_config

MIB = 2**20
HEADROOM, RESIDENT = 64 * MIB, 32 * MIB
BASE, PER_BYTE, SAMPLED = 256 * 2**10, 64, 16
ESCAPES = 5  # largest number of escaped exceptions that are printed
EDGES = tuple(
    sign * (2**bits + near) for bits in (7, 15, 16, 24, 31, 32, 62, 63, 64) for near in (-1, 0, 1)
    for sign in (1, -1)
)  # fmt: skip
NUMBERS = (*EDGES, 0, 1, 2, 3, 4, 7, 8, 16, 64, 10**400, 0.0, -0.5, 1e-300, 1e300, 2.0, 1e999)
WHATEVER = (
    None, True, False, "", "8", "NaN", "\ud800", "yarn", [], [1], [[[]]], {}, {"a": {}},
    float("nan"), float("-inf"), "full_attention", ["sliding_attention"], *NUMBERS,
)  # fmt: skip
DTYPES = (*safetensors_file.BITS, "F31", "f32", "", "F4")


def nested(rng: random.Random) -> bytes:
    depth = rng.choice((5, 500, 970, 990, 1100, 20_000))
    return b"[" * depth + b"]" * rng.choice((depth, 0))


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """Return `raw` with one fault: a changed bit or byte, a missing end, or bytes inserted or
    repeated."""
    out, at = bytearray(raw), rng.randrange(len(raw))
    kind = rng.randrange(7)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = rng.randrange(256)
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        out[at:at] = rng.choice((b"\xff", b"\0", b"\xef\xbb\xbf", b"NaN", b"9" * 5000, b'"'))
    elif kind == 4:
        out[at:at] = out[at : at + rng.randrange(1, 200)]
    elif kind == 5:
        at = rng.choice([i for i, byte in enumerate(out) if 48 <= byte < 58])
        out[at : at + 1] = rng.choice(
            (nested(rng), b"-1", b"1e400", b"00", b"18446744073709551616")
        )
    else:
        out += rng.choice((b"{}", b" ", b"\0", raw[:at]))
    return bytes(out)


# --- config.json ---

ROPES = (
    {"rope_type": "linear", "factor": 2.0},
    {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 1.0},
)  # fmt: skip
HARMLESS = {
    "max_position_embeddings": (8, 1000, 2**20, 2**29), "rms_norm_eps": (0, 1, 1e-9),
    "rope_theta": (1.0, 1e12, 500), "eos_token_id": (0, [1, 2], None), "comment": WHATEVER[:12],
    "torch_dtype": ("bfloat16", 5), "rope_scaling": ROPES, "head_dim": (8, None),
    "use_cache": (True, "x"), "sliding_window": (1, 8, 2**20, 2**29, None),
}  # fmt: skip
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "vocab_size", "max_position_embeddings", "sliding_window",
)  # fmt: skip


def mutated_config(rng: random.Random, good: dict[str, Any]) -> bytes:
    config = copy.deepcopy(good)
    if rng.random() < 0.3:
        config["rope_scaling"] = copy.deepcopy(rng.choice(ROPES))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(6)
        part = config.get("rope_scaling") if rng.random() < 0.2 else config
        part = part if isinstance(part, dict) and part else config
        if kind < 2:
            key = rng.choice(list(HARMLESS))
            config[key] = copy.deepcopy(rng.choice(HARMLESS[key]))
        elif kind == 2:
            part[rng.choice(list(part))] = copy.deepcopy(rng.choice(WHATEVER))
        elif kind == 3:
            part.pop(rng.choice(list(part)))
        elif kind == 4:  # several sizes grow alike, so a check of one against another may pass
            factor = rng.choice((2, 2**10, 2**31, 2**62))
            for key in rng.sample(SIZES, rng.choice((1, 2, 4))):
                if isinstance(config.get(key), int):
                    config[key] *= factor
        else:
            config[rng.choice(SIZES)] = rng.choice(NUMBERS)
    raw = json.dumps(config).encode()
    return damaged(rng, raw) if rng.random() < 0.25 else raw


# --- headers ---


def mutated_entry(rng: random.Random, entry: dict[str, Any]) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        entry[rng.choice(list(entry))] = copy.deepcopy(rng.choice(WHATEVER))
    elif kind == 1:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == 2:
        entry["shape"] = rng.choice(
            ([2**32, 2**32], [2**62, 4], [1] * 9, entry["shape"][::-1], [*entry["shape"], 1], [0],
             [-1, -1], [rng.choice(NUMBERS)] * 2, [])
        )  # fmt: skip
    elif kind == 3:
        entry[rng.choice(("shape", "data_offsets"))][-1] += rng.choice((-1, 1, 4, 2**40))
    elif kind == 4:
        by = rng.choice((-4, 4, 2**40, 2**62))
        entry["data_offsets"] = [at + by for at in entry["data_offsets"]]
    elif kind == 5:  # shape and offsets agree with each other, but not with the size of the file
        more = rng.choice((2, 2**20, 2**31, 2**58))
        begin, end = entry["data_offsets"]
        entry["shape"][0] *= more
        entry["data_offsets"] = [begin, begin + (end - begin) * more]
    else:
        entry.pop(rng.choice(list(entry)))


def mutated_tensors(rng: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in header if name != "__metadata__"]
    one, two = rng.sample(names, 2)
    kind = rng.randrange(-4, 9)
    if kind < 3:
        mutated_entry(rng, header[one])
    elif kind == 3:  # swap two tensors of one size: a valid file of another model
        header[one]["data_offsets"], header[two]["data_offsets"] = (
            header[two]["data_offsets"],
            header[one]["data_offsets"],
        )
    elif kind == 4:
        header[rng.choice((one + "x", "", "\ud800", two))] = header.pop(one)
    elif kind == 5:
        header[rng.choice(("x", "lm_head.weight", "a.rotary_emb.inv_freq"))] = dict(header[one])
    elif kind == 6:
        del header[one]
    elif kind == 7:
        header["__metadata__"] = copy.deepcopy(rng.choice(WHATEVER))
    else:
        header = dict(rng.sample(list(header.items()), len(header)))
    return header


def mutated_file(rng: random.Random, good: bytes) -> bytes:
    (length,) = struct.unpack("<Q", good[:8])
    raw, data = good[8 : 8 + length], good[8 + length :]
    for _ in range(rng.choice((1, 1, 2, 3)) if rng.random() < 0.7 else 0):
        try:
            raw = json.dumps(mutated_tensors(rng, json.loads(raw))).encode()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            break  # after this mutation the header is too broken for a second one
    if rng.random() < 0.3:
        raw = damaged(rng, raw)
    if rng.random() < 0.1:
        raw += b" " * rng.randrange(20)
    length = len(raw)
    if rng.random() < 0.15:
        length = rng.choice((0, 1, length - 1, length + 1, len(raw + data) + 1, 2**63, 2**64 - 1))
    if rng.random() < 0.1:
        data = rng.choice((data[:-1], data + b"x", b"", data * 2))
    return struct.pack("<Q", length % 2**64) + raw + data


# --- limits of memory ---


def resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def bounded() -> Iterator[None]:
    """Limit address space to HEADROOM bytes more than is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def read(folder: Path, size: int, measured: bool, seen: Counter) -> None:
    """Open a model folder within the limits of memory. size: number of bytes of JSON in the
    folder's files."""
    if not measured:
        with bounded():
            open_checkpoint(folder)
        return
    peaks: list[int] = []
    try:
        open_traced(folder, peaks)
    finally:
        bound = BASE + PER_BYTE * size
        # The memory may be a table of the interpreter, which grows only once.
        if peaks[0] > bound:
            with suppress(Exception):
                open_traced(folder, peaks)
        seen["measured"] += 1
        seen["python_peak"] = max(seen["python_peak"], min(peaks))
        seen["over_bound"] += min(peaks) > bound


def open_traced(folder: Path, peaks: list[int]) -> None:
    """Open a model folder within the limits. Append the peak of Python's memory, in bytes, to
    `peaks`."""
    tracemalloc.start()
    try:
        with bounded():
            open_checkpoint(folder)
    finally:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def answer(folder: Path) -> None:
    with Engine.from_pretrained(folder, skip_tokenizer_init=True, num_threads=1) as engine:
        params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
        [output] = engine.generate([1, 2], params)[0].outputs
        assert output.finish_reason in ("length", "error"), output


def overwrite(path: Path, raw: bytes) -> None:
    """Overwrite a file in place. If it were truncated first, file systems would write to the disk,
    which takes a millisecond."""
    with path.open("r+b") as file:
        file.write(raw)
        file.truncate()


def file_of(kind: str, folder: Path) -> Path:
    return folder / ("model.safetensors" if kind == "headers" else "config.json")


def folder_mutants(kind: str, folder: Path) -> Callable[[random.Random, bool, Counter], None]:
    """Return a function that makes one mutant of `folder`, reads it, and generates if it loads."""
    path = file_of(kind, folder)
    good, other = path.read_bytes(), (folder / "config.json").stat().st_size
    config = json.loads(good) if kind == "configs" else {}

    def one(rng: random.Random, measured: bool, seen: Counter) -> None:
        raw = mutated_config(rng, config) if config else mutated_file(rng, good)
        overwrite(path, raw)
        read(folder, other + len(raw), measured, seen)
        answer(folder)

    answer(folder)
    return one


# --- the core alone ---


def core_mutants(folder: Path) -> Callable[[random.Random, bool, Counter], None]:
    """Return a function that builds a decoder from one mutated config, without reading files. Users
    may call DecoderConfig and Decoder directly, so these classes must check their arguments."""
    good = {
        name: getattr(read_config(folder), name)
        for name in ("hidden inner layers heads kv_heads head_dim vocab max_positions rms_eps "
                     "rope_theta tied window").split()
    }  # fmt: skip

    def one(rng: random.Random, measured: bool, seen: Counter) -> None:
        given: dict[str, Any] = dict(good)
        for name in rng.sample(list(good), rng.choice((1, 1, 2, 3))):
            given[name] = rng.choice((*NUMBERS, *WHATEVER, 2**20, 2**10, 2**12, 2**30))
        try:
            config = _core.DecoderConfig(**given)
        # The binding raises TypeError for a value that is no integer or has more than 64 bits.
        except TypeError:
            raise InvalidInputError("no integer of 64 bits") from None
        with bounded_unless_reserved():
            decoder = _core.Decoder(config)
            decoder.load("model.norm.weight", "F32", (8,), bytes(32))
            decoder.finish()

    return one


@contextmanager
def bounded_unless_reserved() -> Iterator[None]:
    """Treat a failed reservation of address space as a refusal. Weights reserve address space
    before they touch it, so only their resident memory is limited."""
    try:
        yield
    except _core.EngineError as error:
        if "cannot reserve" not in str(error):
            raise
        raise InvalidInputError(str(error)) from None


def believing_loader(path: Path, tensors: dict[str, Any], size: int) -> None:
    """A faulty loader that the tests must report: it allocates as much memory as a header
    claims."""
    bytearray(max((entry.end for entry in tensors.values()), default=0))


def run(kind: str, folder: Path, count: int, seed: int) -> Counter:
    seen: Counter = Counter()
    one = core_mutants(folder) if kind == "core" else folder_mutants(kind, folder)
    before = resident_peak()
    for i in range(count):
        try:
            one(random.Random(f"{kind}/{seed}/{i}"), i % SAMPLED == 0, seen)
            seen["ran"] += 1
        except InvalidInputError as error:
            seen["refused"] += 1
            seen["lines"] += "\n" in str(error)
        except Exception as error:
            seen["escaped"] += 1
            if seen["escaped"] <= ESCAPES:
                print(f"ESCAPED seed {seed}, mutant {i}: {type(error).__name__}: {error}")
        seen["mutants"] += 1
    seen["resident"] = resident_peak() - before
    seen["over_bound"] += seen["resident"] > RESIDENT
    return seen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("configs", "headers", "core"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--canary", action="store_true", help="with a loader that allocates")
    a = parser.parse_args(argv)
    if a.canary:
        safetensors_file._check_coverage = believing_loader
    good = file_of(a.kind, a.folder).read_bytes()
    try:
        seen = run(a.kind, a.folder, a.count, a.seed)
    finally:
        file_of(a.kind, a.folder).write_bytes(good)
    print(json.dumps(seen))
    return 1 if seen["escaped"] or seen["over_bound"] or seen["lines"] else 0


if __name__ == "__main__":
    sys.exit(main())
