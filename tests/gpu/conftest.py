"""What tests of this folder share: nvcc."""

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
        """nvcc with the build's flags. strict: warnings are errors."""
        flags = [*FLAGS, *(STRICT if strict else ())]
        command = [self.path, *flags, f"-I{CSRC}", f"-I{ROOT / 'tests'}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    def build(self, program: Path, *flags: str, strict: bool = True) -> None:
        """exec_main.cu with the rooms it needs."""
        rooms = [p for room in ("core", "exec") for p in sorted((CSRC / room).rglob("*.c[cu]"))]
        sources = [Path(__file__).parent / "exec_main.cu", *rooms, CSRC / "spec/round_kernels.cu"]
        done = self.run(*flags, *sources, "-o", program, strict=strict)
        assert done.returncode == 0, done.stderr

    def build_without_device(self, program: Path) -> None:
        """trace_main.cc with the cuda body, over the runtime of fake_cuda.cc."""
        tests = Path(__file__).parent
        rooms = ("core", "exec/cuda")
        shared = [CSRC / "exec" / f"{stem}.cc" for stem in ("exec", "effects", "order")]
        bodies = [p for room in rooms for p in sorted((CSRC / room).glob("*.cc"))]
        sources = [tests / "trace_main.cc", tests / "fake_cuda.cc", *bodies, *shared]
        done = self.run("-cudart", "none", f"-I{tests}", *sources, "-o", program)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def nvtx_log(nvcc: Nvcc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a program whose NVTX ranges are to be written to stderr."""
    log = tmp_path_factory.mktemp("nvtx") / "nvtx_log.so"
    source = Path(__file__).parent / "nvtx_log.cc"
    done = nvcc.run("-shared", "-cudart", "none", "-Xcompiler=-fPIC", source, "-o", log)
    assert done.returncode == 0, done.stderr
    return {"NVTX_INJECTION64_PATH": str(log)}


@pytest.fixture(scope="session")
def nvcc() -> Nvcc:
    path = shutil.which("nvcc")
    if not path:
        pytest.skip("no CUDA compiler")
    return Nvcc(path)
