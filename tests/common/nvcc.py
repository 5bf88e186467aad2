"""Runs the CUDA compiler and makes a log of NVTX ranges, for tests of the cuda backend."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FLAGS = ("-std=c++20", "-O2", "--fmad=false", "-DSBRT_WITH_CUDA=1", "-Xcompiler=-ffp-contract=off")
STRICT = ("-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror")


class Nvcc:
    """Compiles CUDA sources as CMakeLists.txt does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def run(self, *arguments: object, strict: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run nvcc with the build's flags. strict: treat warnings as errors."""
        flags = [*FLAGS, *(STRICT if strict else ())]
        command = [self.path, *flags, f"-I{CSRC}", f"-I{ROOT / 'tests'}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    def build(self, program: Path, *flags: str, strict: bool = True) -> None:
        """Build exec_main.cu with the folders of csrc that it needs; return its path."""
        rooms = [p for room in ("core", "exec") for p in sorted((CSRC / room).rglob("*.c[cu]"))]
        sources = [ROOT / "tests/device/exec_main.cu", *rooms, CSRC / "round/kernels.cu"]
        done = self.run(*flags, *sources, "-o", program, strict=strict)
        assert done.returncode == 0, done.stderr

    def includes(self) -> list[str]:
        """Return flags with which a C++ compiler finds CUDA's headers."""
        said = self.run("--dryrun", "-c", __file__, "-x", "c++").stderr
        found = re.search(r'INCLUDES="(.*?)"', said)
        assert found, said
        return shlex.split(found[1])


@pytest.fixture(scope="session")
def nvtx_log(nvcc: Nvcc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return environment variables that make a program write its NVTX ranges to stderr."""
    log = tmp_path_factory.mktemp("nvtx") / "nvtx_log.so"
    source = ROOT / "tests/exec/cuda/nvtx_log.cc"
    done = nvcc.run("-shared", "-cudart", "none", "-Xcompiler=-fPIC", source, "-o", log)
    assert done.returncode == 0, done.stderr
    return {"NVTX_INJECTION64_PATH": str(log)}


@pytest.fixture(scope="session")
def nvcc() -> Nvcc:
    path = shutil.which("nvcc")
    if not path:
        pytest.skip("no CUDA compiler")
    return Nvcc(path)
