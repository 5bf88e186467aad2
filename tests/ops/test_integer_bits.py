"""Contract under test: integer products have the same bits on every instruction set. The tests run
the sets of this machine. They also run AVX-VNNI code that is compiled for AVX-512, and NEON in an
emulator."""

import platform
import shutil

import pytest

CORE = ("core", "ops/format.cc", "ops/packed.cc", "ops/quantise.cc", "ops/integers.cc")
X86 = ("avx2", "vnni256", "vnni512")
SETS = X86 if platform.machine() in ("x86_64", "AMD64") else ("dotprod",)
PARTS = (*CORE, *(f"ops/integers_{part}.cc" for part in (*SETS, "portable")))


def lines_of(programs, program, name, *before):
    done = programs.run(*before, program, name)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def program(programs):
    return programs.build("integers_main", PARTS)


@pytest.fixture(scope="module")
def expected(programs, program):
    lines = lines_of(programs, program, "portable")
    assert len(set(lines)) == len(lines) == 45
    return lines


def test_every_set_of_this_machine(programs, program, expected):
    names = programs.run(program).stdout.split()
    assert "portable" in names
    for name in names:
        assert lines_of(programs, program, name) == expected, name


def test_avx_vnni_by_the_instructions_of_avx512(programs, program, expected):
    """Few machines have AVX-VNNI. AVX-512 VNNI has the same 256-bit products, so the AVX-VNNI code
    is compiled for it."""
    if "vnni512" not in programs.run(program).stdout.split():
        pytest.skip("this machine has no AVX-512 VNNI")
    text = programs.text("ops/integers_vnni256.cc")
    replaced = {"ops/integers_vnni512.cc": text.replace("ntegersVnni256", "ntegersVnni512")}
    parts = [part for part in PARTS if "vnni256" not in part]
    own = "if (avx2 && has_avx_vnni()) found.push_back(&kIntegersVnni256);"
    text = programs.text("ops/integers.cc")
    assert own in text
    replaced["ops/integers.cc"] = text.replace(own, "static_cast<void>(has_avx_vnni);")
    made = programs.build("integers_main", parts, programs.plain, replaced, ("-mf16c",))
    assert "vnni256" in programs.run(made).stdout.split()
    assert lines_of(programs, made, "vnni256") == expected


@pytest.mark.exact
def test_neon_under_an_emulator(programs, expected, tmp_path):
    compiler, emulator = (shutil.which(n) for n in ("aarch64-linux-gnu-g++", "qemu-aarch64"))
    if compiler is None or emulator is None:
        pytest.skip("expected aarch64-linux-gnu-g++ and qemu-aarch64 on PATH, found one or none")
    made = programs.cross(compiler, "integers_main", (*CORE, "ops/integers_dotprod.cc",
                          "ops/integers_portable.cc"), tmp_path)  # fmt: skip
    assert programs.run(emulator, "-cpu", "max", made).stdout.split() == ["dotprod", "portable"]
    for name in ("dotprod", "portable"):
        assert lines_of(programs, made, name, emulator, "-cpu", "max") == expected, name
