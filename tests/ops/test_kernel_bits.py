"""Contract under test: a kernel has the same bits on every instruction set whose fma rounds once.
These are AVX2, AVX-512 and NEON, which is run in an emulator. Passes over logits use no fma, so
their bits are the same on all sets. On any set, the bits of a row do not depend on adjacent
rows."""

import shutil

import pytest

CORE = ("core", "ops/format.cc", "ops/packed.cc", "ops/quantise.cc", "ops/choose.cc",
        "ops/filter.cc", "ops/shaping.cc", "ops/kernels.cc", "ops/kernels_portable.cc")  # fmt: skip
SETS = ("avx2", "avx512", "neon")  # these files are empty when compiled for another processor
PARTS = (*CORE, *(f"ops/kernels_{name}.cc" for name in SETS))
# Number of lines that are equal on all sets; number of all lines.
EVERY, LINES = 27, 95
PORTABLE = "ops/kernels_portable.cc"


def lines_of(programs, program, name, *before):
    done = programs.run(*before, program, name)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def fused_portable(programs):
    """Return the source of the portable kernels with two changes. An fma rounds once. 16 lanes are
    added in the order of the other sets."""
    text = programs.text("ops/simd_portable.h").replace("#pragma once", "")
    twice = "inline V fma(const V& x, const V& y, const V& z) { return add(mul(x, y), z); }"
    once = """inline V fma(const V& x, const V& y, const V& z) {
      return each([&](int i) { return __builtin_fmaf(x.a[i], y.a[i], z.a[i]); });
    }"""
    halves = """    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) t[i] += t[i + half];
"""
    pairs = """    for (int i = 0; i < 8; ++i) t[i] += t[i + 8];
    for (int n = 4; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) t[i] = t[2 * i] + t[2 * i + 1];
"""
    assert twice in text
    assert halves in text
    text = text.replace(twice, once).replace(halves, pairs)
    return {PORTABLE: programs.text(PORTABLE).replace('#include "ops/simd_portable.h"', text)}


@pytest.fixture(scope="module")
def program(programs):
    return programs.build("kernels_main", PARTS)


@pytest.fixture(scope="module")
def portable(programs, program):
    lines = lines_of(programs, program, "portable")
    assert len(set(lines)) == len(lines) == LINES
    return lines


@pytest.fixture(scope="module")
def expected(programs):
    """Return the lines of the changed portable kernels (fused_portable), which use no vector
    instruction."""
    program = programs.build("kernels_main", PARTS, replaced=fused_portable(programs))
    return lines_of(programs, program, "portable")


def every(lines):
    found = [line for line in lines if line.startswith("every")]
    assert len(found) == EVERY
    return found


def test_every_set_of_this_machine(programs, program, portable, expected):
    for name in programs.run(program).stdout.split():
        lines = lines_of(programs, program, name)
        assert every(lines) == every(portable), name
        assert name == "portable" or lines == expected, name


def test_two_roundings_are_seen(portable, expected):
    """The lines must show whether an fma rounds once or twice."""
    assert every(portable) == every(expected)
    assert portable != expected


@pytest.mark.exact
def test_neon_under_an_emulator(programs, portable, expected, tmp_path):
    compiler, emulator = (shutil.which(n) for n in ("aarch64-linux-gnu-g++", "qemu-aarch64"))
    if compiler is None or emulator is None:
        pytest.skip("expected aarch64-linux-gnu-g++ and qemu-aarch64 on PATH, found one or none")
    made = programs.cross(compiler, "kernels_main", PARTS, tmp_path)
    assert programs.run(emulator, made).stdout.split() == ["neon", "portable"]
    assert lines_of(programs, made, "neon", emulator) == expected
    assert lines_of(programs, made, "portable", emulator) == portable
