"""Contract under test: a GGUF header is untrusted. Every fault raises an error of one sentence. No
memory is allocated only because a count or a size in the header is large. Nothing outside the file
is read."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.gguf.header import open_gguf

TEXT, ARRAY, U32, U64, F32, I32 = 8, 9, 4, 10, 6, 5
SCRIPT = Path(__file__).with_name("mutants.py")


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def tensor(name, sizes=(4,), kind=0, offset=0, rank=None):
    rank = len(sizes) if rank is None else rank
    numbers = b"".join(struct.pack("<Q", size) for size in sizes)
    return text(name) + struct.pack("<I", rank) + numbers + struct.pack("<IQ", kind, offset)


def build(entries=(), tensors=(), data=b"", magic=b"GGUF", version=3, counts=None):
    """Return the bytes of a file, which may be invalid. The data begins at a multiple of 32."""
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


ONE = tensor("a")
SIXTEEN = bytes(16)
MANY = 2**63 - 1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["GGUF"]),
        (b"GGU", ["GGUF"]),
        (build(magic=b"ggjt"), ["b'GGUF'"]),
        (b"GGUF\x03", ["version"]),
        (build(version=1), ["version", "got 1"]),
        (build(version=3 << 24), ["version"]),  # a file with the opposite byte order
        (build(counts=(0, MANY)), ["metadata"]),
        (build(counts=(MANY, 0)), ["tensor"]),
        (build([struct.pack("<Q", 2**64 - 1) + b"key"]), ["at most", 2**64 - 1]),
        (build([text(b"\xff\xfe")]), ["UTF-8", "0xff"]),
        (build([entry("a", U32, bytes(4))] * 2), ["'a' appears twice"]),
        (build([entry("a", 13, bytes(4))]), ["'a'", "13"]),
        (build([entry("a", TEXT, text(b"x" * 9)[:-1])])[:40], ["'a'"]),
        (build([entry("a", TEXT, struct.pack("<Q", 2**40))]), ["'a'", 2**40]),
        (build([entry("a", ARRAY, struct.pack("<IQ", U32, MANY))]), ["'a'", "at most"]),
        (build([entry("a", ARRAY, struct.pack("<IQ", U64, 2**61))]), ["'a'", "at most"]),
        (build([entry("a", ARRAY, struct.pack("<IQ", TEXT, MANY))]), ["'a'", "at most"]),
        (build([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), ["'a'", "array of arrays"]),
        (build([entry("a", ARRAY, struct.pack("<IQ", 99, 1))]), ["'a'", "99"]),
        (build([entry("general.alignment", U32, struct.pack("<I", 0))]), ["alignment", "got 0"]),
        (build([entry("general.alignment", U32, struct.pack("<I", 24))]), ["power of two", "24"]),
        (build([entry("general.alignment", U32, struct.pack("<I", 2**31))]), ["alignment"]),
        (build([entry("general.alignment", TEXT, text("32"))]), ["alignment", "'32'"]),
        (build(tensors=[ONE, ONE], data=SIXTEEN), ["'a' appears twice"]),
        (build(tensors=[tensor("a", rank=0)], data=SIXTEEN), ["'a'", "dimensions", "got 0"]),
        (build(tensors=[tensor("a", rank=5)], data=SIXTEEN), ["'a'", "dimensions", "got 5"]),
        (build(tensors=[tensor("a", rank=2**32 - 1)]), ["'a'", "dimensions"]),
        (build(tensors=[tensor("a", (0,))]), ["'a'", "above 0"]),
        (build(tensors=[tensor("a", (4, 0))]), ["'a'", "above 0"]),
        (build(tensors=[tensor("a", (2**63,))], data=SIXTEEN), ["'a'", "bytes"]),
        (build(tensors=[tensor("a", (2**32, 2**32))], data=SIXTEEN), ["'a'", "bytes"]),
        (build(tensors=[tensor("a", (2**62, 4, 1, 1))], data=SIXTEEN), ["'a'", "bytes"]),
        (build(tensors=[tensor("a", (5,))], data=SIXTEEN), ["20 bytes", "16"]),
        (build(tensors=[tensor("a", (3,))], data=SIXTEEN * 2 + b"x"), ["12 bytes", "33"]),
        (build(tensors=[tensor("a", (33,), kind=2)], data=bytes(36)), ["multiple of 32", "Q4_0"]),
        (build(tensors=[tensor("a", (256,), kind=2, rank=1)]), ["144"]),
        (build(tensors=[tensor("a", kind=4)], data=SIXTEEN), ["'a'", "type 4"]),
        (build(tensors=[tensor("a", kind=2**31)], data=SIXTEEN), ["'a'", 2**31]),
        (build(tensors=[tensor("a", offset=2**63)], data=SIXTEEN), ["'a'", 2**63]),
        (build(tensors=[tensor("a", offset=32)], data=bytes(48)), ["'a'", "byte 0", "got 32"]),
        (build(tensors=[tensor("a", offset=1)], data=bytes(17)), ["'a'", "byte 0", "got 1"]),
        (build(tensors=[ONE, tensor("b", offset=16)], data=bytes(32)), ["'b'", "byte 32"]),
        (build(tensors=[ONE, tensor("b")], data=SIXTEEN), ["'b'", "byte 32", "got 0"]),
        (build(tensors=[tensor("a", (16,)), tensor("b", offset=32)], data=bytes(64)), ["'b'"]),
        (build(tensors=[ONE, tensor("b", offset=64)], data=bytes(80)), ["'b'", "byte 32"]),
        (build(tensors=[ONE, tensor("b", offset=32)], data=bytes(47)), ["48 bytes", "47"]),
        (build(tensors=[tensor("x" * 2**20)], data=bytes(15)), ["16 bytes", "15"]),
    ],
)  # fmt: skip
def test_a_wrong_header_is_refused(tmp_path, refused, raw, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    refused(lambda: open_gguf(path), "m.gguf", *words)


def test_a_header_of_more_than_64_megabytes_is_refused(tmp_path, refused):
    """The file is sparse. It is long enough for the 2 GiB that its only string claims."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(build([entry("a", TEXT, struct.pack("<Q", 2**31))]))
        file.truncate(2**32)
    refused(lambda: open_gguf(path), "'a'", "at most", 2**31)


def test_what_is_no_file_is_refused(tmp_path, refused):
    refused(lambda: open_gguf(tmp_path), "GGUF file")
    refused(lambda: open_gguf(tmp_path / "none.gguf"), "none.gguf", "found none")


@pytest.mark.parametrize("end", [0, 16])
def test_the_padding_of_the_last_tensor_may_be_missing(tmp_path, end):
    path = tmp_path / "m.gguf"
    path.write_bytes(build(tensors=[ONE], data=bytes(16 + end)))
    assert open_gguf(path).tensors["a"].shape == (4,)


def test_what_the_package_writes_is_read_back(tmp_path):
    values = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(32, dtype=np.float16).reshape(1, 32),
        "c": np.ones(5, np.float32),
    }
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_array("texts", ["", "ä", "x" * 300])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("reals", [0.5, -1.25])
    writer.add_array("flags", [True, False])
    writer.add_float64("double", 0.1)
    writer.add_int64("low", -(2**62))
    for name, value in values.items():
        writer.add_tensor(name, value)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    file = open_gguf(tmp_path / "m.gguf")
    found = file.metadata
    assert found["texts"] == ["", "ä", "x" * 300]
    assert found["numbers"].tolist() == [1, -2, 3]
    assert found["reals"].tolist() == [0.5, -1.25]
    assert found["flags"].tolist() == [True, False]
    assert (found["double"], found["low"]) == (0.1, -(2**62))
    assert file.tensors.keys() == values.keys()
    for name, value in values.items():
        assert file.tensors[name].shape == value.shape
        assert bytes(file.bytes_of(name)) == value.tobytes()


# --- parts of a split file ---


@pytest.fixture
def parts(files, tmp_path):
    files.write(tmp_path / "m.gguf", layers=1, split=4)
    return sorted(tmp_path.glob("m-*.gguf"))


def change(path, key, kind, value):
    """Change a number in a file's metadata."""
    raw = path.read_bytes()
    name = text(key) + struct.pack("<I", kind)
    at = raw.index(name) + len(name)
    path.write_bytes(raw[:at] + value + raw[at + len(value) :])


def test_a_part_that_is_missing_is_named(parts, refused):
    assert len(parts) == 3
    assert len(open_checkpoint(parts[0]).files) == 3
    refused(lambda: open_checkpoint(parts[1]), "00001-of-00003")
    parts[1].rename(parts[1].with_name("other.gguf"))
    refused(lambda: open_checkpoint(parts[0]), parts[1].name, "found none")


@pytest.mark.parametrize(
    ("which", "key", "kind", "value", "words"),
    [
        (1, "split.no", 2, struct.pack("<H", 0), ["split.no", "expected 1, got 0"]),
        (2, "split.count", 2, struct.pack("<H", 9), ["split.count", "expected 3, got 9"]),
        (0, "split.count", 2, struct.pack("<H", 65535), ["00001-of-65535"]),
        (0, "split.tensors.count", 5, struct.pack("<i", 99), ["split.tensors.count", "99"]),
        (0, "split.tensors.count", 5, struct.pack("<i", -1), ["split.tensors.count", "-1"]),
    ],
)
def test_parts_that_do_not_agree_are_refused(parts, refused, which, key, kind, value, words):
    change(parts[which], key, kind, value)
    refused(lambda: open_checkpoint(parts[0]), *words)


def test_a_part_in_the_place_of_another_is_refused(parts, refused):
    """The names of all parts are derived from the name of the first part. So parts can refer to
    each other in a cycle only if a wrong file has the name of a part."""
    parts[1].write_bytes(parts[2].read_bytes())
    refused(lambda: open_checkpoint(parts[0]), parts[1].name, "split.no")
    parts[1].write_bytes(parts[0].read_bytes())
    refused(lambda: open_checkpoint(parts[0]), parts[1].name, "split.no")


def test_a_tensor_in_two_parts_is_refused(parts, refused):
    parts[1].write_bytes(parts[0].read_bytes())
    change(parts[1], "split.no", 2, struct.pack("<H", 1))
    total = sum(len(open_gguf(part).tensors) for part in parts)
    change(parts[0], "split.tensors.count", 5, struct.pack("<i", total))
    refused(lambda: open_checkpoint(parts[0]), "expected it in one part")


# --- mutants ---


def run(files, folder, *words):
    """Run mutants.py in a child process, which has its own limits and peak of memory. Return (exit
    code, JSON summary, stdout)."""
    path = files.write(
        folder / "m.gguf", layers=1, hidden=32, inner=32, heads=2, kv_heads=1, head_dim=16,
        kind=lambda name: "Q4_1" if "attn" in name else "Q8_0",
    )  # fmt: skip
    command = [sys.executable, SCRIPT, path, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_mutated_files(files, tmp_path):
    code, seen, said = run(files, tmp_path, "--count", 400)
    assert code == 0, said
    assert seen["mutants"] == 400
    assert seen["ran"] > 20
    assert seen["refused"] > 200


@pytest.mark.exact
@pytest.mark.parametrize("seed", range(4))
def test_many_mutated_files(files, tmp_path, seed):
    code, seen, said = run(files, tmp_path, "--count", 5000, "--seed", seed)
    assert code == 0, said
    assert seen["mutants"] == 5000


def test_a_reader_that_allocates_what_a_header_claims_is_noticed(files, tmp_path):
    code, seen, said = run(files, tmp_path, "--count", 200, "--canary")
    assert code == 1
    assert seen["escaped"] > 2
    assert "MemoryError" in said
