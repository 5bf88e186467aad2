"""Contract under test: a forward gives the same bits on every instruction set whose fma rounds
once. NEON is run in an emulator. On each instruction set, the bits of a row do not depend on other
rows or threads."""

import shutil

import numpy as np
import pytest

from sbrt import _core

ROOMS = ("core", "exec", "ring", "ops", "model")
LINES = 6


def lines_of(programs, program, name, *before):
    done = programs.run(*before, program, name)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(set(found)) == LINES
    return found


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "int4"])
def test_every_set_of_this_machine(tools, storage):
    """All instruction sets of this machine must give the same lines. The set `portable` is left
    out, because its fma rounds twice."""
    sets = [name for name in _core.instruction_sets() if name != "portable"]
    tokens = [i * 37 % 67 for i in range(50)]
    found = [
        tools.Sequence(tools.random_decoder(storage=storage, isa=isa)).chunk(tokens) for isa in sets
    ]
    for isa, logits in zip(sets, found, strict=True):
        assert np.array_equal(logits, found[0]), isa


@pytest.mark.exact
def test_neon_under_an_emulator(programs, tmp_path):
    compiler, emulator = (shutil.which(n) for n in ("aarch64-linux-gnu-g++", "qemu-aarch64"))
    if compiler is None or emulator is None:
        pytest.skip("expected aarch64-linux-gnu-g++ and qemu-aarch64 on PATH, found one or none")
    made = programs.cross(compiler, "lane_main", ROOMS, tmp_path)
    neon = lines_of(programs, made, "neon", emulator, "-cpu", "max")
    program = programs.build("lane_main", ROOMS)
    best = programs.run(program).stdout.split()[0]
    if best == "portable":
        pytest.skip("expected an instruction set to compare with, found portable alone")
    assert neon == lines_of(programs, program, best)
