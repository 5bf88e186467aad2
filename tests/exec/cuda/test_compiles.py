"""Contract under test: the CUDA sources compile for every supported architecture, with warnings as
errors. The test needs a CUDA compiler but no device. One architecture takes seconds; `make exact`
compiles the others."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CSRC = ROOT / "csrc"
SOURCES = sorted(CSRC.rglob("*.cu"))
ARCHITECTURES = ("80", "90", "100")
OF_ALL = [
    pytest.param(("90",), id="sm_90"),
    pytest.param(ARCHITECTURES, id="every architecture", marks=pytest.mark.exact),
]


def test_there_are_sources():
    assert {"kernels", "publish"} <= {source.stem for source in SOURCES}


@pytest.mark.parametrize("architectures", OF_ALL)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiles(nvcc, source, architectures, tmp_path):
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    done = nvcc.run(*codes, "-c", source, "-o", tmp_path / "made.o")
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("source", ["canary.cu"])
def test_a_program_of_the_gpu_check_compiles(nvcc, source, tmp_path):
    path = ROOT / "tests" / "device" / source
    done = nvcc.run("-arch=sm_90", "-c", path, "-o", tmp_path / "made.o")
    assert done.returncode == 0, done.stderr


def test_a_warning_is_an_error(nvcc, tmp_path):
    source = tmp_path / "warns.cu"
    source.write_text("__global__ void f() { int unused; }\n")
    done = nvcc.run("-arch=sm_90", "-c", source, "-o", tmp_path / "made.o")
    assert done.returncode != 0


@pytest.mark.exact
def test_the_program_of_the_gpu_tests_links(nvcc, tmp_path):
    nvcc.build(tmp_path / "exec_main", "-arch=sm_90")
