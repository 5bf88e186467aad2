"""Fixtures for all tests, most of them for the C++ programs that lie next to the tests."""

import gc
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from sbrt.config import usable_cores

# triton reads TRITON_INTERPRET once, when it is imported. So this module sets the variable before
# any test module is imported.
if not Path("/dev/nvidiactl").exists():  # no GPU: kernels run in Triton's interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ["tests.common.nvcc", "tests.common.processor_time", "tests.common.tiny"]

TESTS = Path(__file__).parent
CSRC = TESTS.parent / "csrc"
BUILD = TESTS.parent / "build"
KEPT = BUILD / "programs"  # object files stay here, so a second run compiles only what changed
# Programs reuse object files of sbrt's own build for this version of Python. The last step of that
# build writes INSTALLED. If CMakeLists.txt is newer, the flags may have changed.
SHIPPED, INSTALLED = "cp{0}{1}-cp{0}{1}-*", "install_manifest.txt"
OBJECTS = Path("CMakeFiles/sbrt_objects.dir/csrc")

# Without a writable HOME matplotlib warns on stderr and searches for fonts in every process.
os.environ.setdefault("MPLCONFIGDIR", str(TESTS.parent / "build" / "matplotlib"))

# Maps the end of a file's name to compiler flags, as in CMakeLists.txt. A file for another
# processor compiles to nothing, so it needs no flags.
ISA_FLAGS: dict[str, tuple[str, ...]] = {}
AARCH64_FLAGS = {"_dotprod": ("-march=armv8.2-a+dotprod",)}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["_avx2"] = ("-mavx2", "-mfma", "-mf16c")
    ISA_FLAGS["_avx512"] = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
    ISA_FLAGS["_vnni256"] = (*ISA_FLAGS["_avx2"], "-mavxvnni")
    ISA_FLAGS["_vnni512"] = (*ISA_FLAGS["_avx512"], "-mavx512vnni")
elif platform.machine() in ("aarch64", "arm64"):
    ISA_FLAGS |= AARCH64_FLAGS


# The slowest files run first. If one of them ran last, only one process would be busy at the end.
LONG_FILES = (
    "decode/test_same_as_reference.py",
    "triton_kernels/test_offline.py",
    "engine/test_same_tokens.py",
    "model/gguf/test_real.py",
    "decode/test_crowd.py",
    "gpu/test_on_device.py",
    "triton_kernels/test_attention.py",
    "serve/test_streams.py",
    "decode/test_auto.py",
    "triton_kernels/test_linear.py",
    "tools/draft/test_make.py",
    "triton_kernels/test_choose.py",
    "engine/test_real_pair.py",
    "decode/test_order.py",
    "triton_kernels/test_seats.py",
    "gpu/test_fewer_tokens.py",
    "engine/test_batch.py",
    "engine/test_inner_calls.py",
    "gpu/test_seats.py",
    "exec/test_exec.py",
    "server/test_serve.py",
    "engine/test_engine.py",
    "engine/test_exit.py",
    "exec/cuda/test_compiles.py",
    "model/test_checkpoint.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Make later garbage collections skip the objects of torch and of all tests, which take 0.1 s
    to visit."""
    gc.collect()
    gc.freeze()


class Programs:
    """Compiles and runs the programs `tests/**/NAME.cc`. A file is compiled once per set of flags.

    Object files are kept, and reused by later runs of the tests.
    """

    common = ("-std=c++20", "-ffp-contract=off")
    plain = ("-O2", "-Wall", "-Wextra", "-Werror")
    tsan = ("-O1", "-g1", "-fno-omit-frame-pointer", "-DSBRT_CANARY", "-fsanitize=thread")
    asan = (*tsan[:-1], "-fsanitize=address,undefined")
    reported = 66  # exit code of a run in which a sanitizer reports something
    # Parts of csrc that a program links if it runs rounds on the toy lane.
    rounds = (
        *("core", "exec", "state", "ring", "round", "decode", "model/toy.cc"),
        *("ops/choose.cc", "ops/columns.cc", "ops/filter.cc", "ops/logprobs.cc", "ops/shaping.cc"),
        *("ops/packed.cc", "ops/quantise.cc", "ops/format.cc"),
        *("ops/kernels.cc", "ops/kernels_portable.cc"),
        # A file for another processor compiles to nothing.
        *(f"ops/kernels_{part}.cc" for part in ("avx2", "avx512", "neon")),
    )
    longest = 900  # time limit of a run in seconds, because a faulty program may never end

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        headers = [p for top in (CSRC, TESTS) for p in top.rglob("*") if p.suffix in (".h", ".inc")]
        self.newest_header = max(p.stat().st_mtime for p in headers)
        # Up-to-date builds of cmake, keyed by their flags.
        self.builds: dict[tuple[str, ...], Path] = {}

    def has(self, flags: tuple[str, ...]) -> bool:
        """True if this compiler and its linker accept these flags."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "empty.cc").write_text("int main() {}\n")
        command = [self.compiler, *flags, self.folder / "empty.cc", "-o", self.folder / "empty"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def build(self, name, parts, flags=plain, replaced=None, extra=()) -> Path:
        """Build the program NAME with `parts` of csrc and return its path.

        parts: folders ("ring") or files ("model/toy.cc"). replaced: {file in csrc: text to compile
        instead}. extra: additional flags for the files in `replaced`.
        """
        (main,) = TESTS.rglob(f"{name}.cc")
        replaced = {
            CSRC / part: self._written(part, text) for part, text in (replaced or {}).items()
        }
        files = [p for part in parts for p in self._files(CSRC / part)]
        sources = [main, *(replaced.get(p, p) for p in files)]
        folder = self.folder / "".join(flags).replace("/", "")
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2"))) as pool:
            more = {source: extra for source in replaced.values()}
            objects = list(
                pool.map(lambda s: self._object(folder, s, flags, more.get(s, ())), sources)
            )
        program = folder / _named(name, *sources)
        if _is_older(program, max(p.stat().st_mtime for p in objects)):
            self._compile(program, *flags, "-pthread", *objects)
        return program

    def cross(self, compiler, name, parts, folder) -> Path:
        """Build a static program for aarch64 with another compiler, from the same sources as
        `build`. Returns its path."""
        (main,) = TESTS.rglob(f"{name}.cc")
        objects = []
        for source in [main, *(p for part in parts for p in self._files(CSRC / part))]:
            isa = next((f for n, f in AARCH64_FLAGS.items() if source.stem.endswith(n)), ())
            # The number makes the file's name unique.
            objects.append(folder / f"{len(objects)}-{source.stem}.o")
            flags = (*self.common, *self.plain, *isa, f"-I{CSRC}", "-c", source)
            subprocess.run([compiler, *flags, "-o", objects[-1]], check=True)
        program = folder / name
        subprocess.run([compiler, "-static", "-pthread", *objects, "-o", program], check=True)
        return program

    def run(self, *command, **environment) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; return its output and exit code."""
        command = [str(part) for part in command]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=self.longest,
        )

    def text(self, part: str) -> str:
        """Return the text of a file in csrc."""
        return (CSRC / part).read_text()

    def reporting(self, kind: str, leaks: bool = True) -> dict[str, str]:
        """Return environment variables that make the first report of `tsan` or `asan` end a run.

        leaks: report leaks, too. Python itself leaks at its exit, so pass False for a Python
        process.
        """
        common = f"exitcode={self.reported} halt_on_error=1"
        if kind == "tsan":
            return {"TSAN_OPTIONS": common}
        return {
            "ASAN_OPTIONS": f"{common} detect_leaks={int(leaks)} detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": f"{common} print_stacktrace=1",
        }

    def _files(self, part: Path) -> list[Path]:
        return [part] if part.suffix else sorted(part.rglob("*.cc"))

    def _written(self, part: str, text: str) -> Path:
        path = self.folder / _named("replaced", part, text) / part
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return path

    def _object(self, folder: Path, source: Path, flags: tuple[str, ...], extra=()) -> Path:
        if flags == self.plain and (path := self._shipped(source)):
            return path
        if flags in self.builds and source.is_relative_to(CSRC):
            return self.builds[flags] / OBJECTS / f"{source.relative_to(CSRC)}.o"
        isa = next((ISA_FLAGS[part] for part in ISA_FLAGS if source.stem.endswith(part)), ())
        path = folder / f"{_named(source.stem, source, *self.common, *isa, *extra)}.o"
        if _is_older(path, max(self.newest_header, source.stat().st_mtime)):
            self._compile(path, *flags, *isa, *extra, f"-I{CSRC}", "-c", source)
        return path

    def _shipped(self, source: Path) -> Path | None:
        """Return the object file of `source` from sbrt's own build. Return None if the file is
        missing or out of date.

        The object must be newer than the source and all headers. Its build must be newer than
        CMakeLists.txt. A build with CUDA compiles some files differently, so the objects of these
        files are never reused.
        """
        part = source.relative_to(CSRC) if source.is_relative_to(CSRC) else None
        if part is None or part.is_relative_to("exec/cuda"):
            return None
        if any(name in source.read_text() for name in ("nvtx.h", "SBRT_WITH_CUDA")):
            return None
        newest = max(self.newest_header, source.stat().st_mtime)
        flags = (TESTS.parent / "CMakeLists.txt").stat().st_mtime
        builds = BUILD.glob(SHIPPED.format(*sys.version_info))
        builds = [build for build in builds if not _is_older(build / INSTALLED, flags)]
        found = [build / OBJECTS / f"{part}.o" for build in builds]
        return next((path for path in found if not _is_older(path, newest)), None)

    def _compile(self, path: Path, *arguments: object) -> None:
        # Another process may compile the same object at the same time.
        made = path.with_name(f"{path.name}.{os.getpid()}")
        subprocess.run([self.compiler, *self.common, *arguments, "-o", made], check=True)
        made.replace(path)


def _named(stem: str, *of: object) -> str:
    return f"{stem}-{sha256(repr([str(x) for x in of]).encode()).hexdigest()[:12]}"


def _is_older(path: Path, time: float) -> bool:
    return not path.exists() or path.stat().st_mtime < time


@pytest.fixture(scope="session")
def programs() -> Programs:
    return Programs(KEPT)


@pytest.fixture(scope="session")
def run_all():
    """run_all(commands): runs the commands, at most one per core at a time, and returns their
    outputs.

    A command's output must not depend on the other commands. Every command must exit with 0.
    """

    def one(command) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)

    def call(commands) -> list[str]:
        with ThreadPoolExecutor(usable_cores()) as pool:
            done = list(pool.map(one, commands))
        assert not any(each.returncode for each in done), "\n".join(each.stdout for each in done)
        return [each.stdout for each in done]

    return call


@pytest.fixture(scope="session")
def tsan(programs: Programs) -> tuple[str, ...]:
    """Return the flags of ThreadSanitizer. Skips the test if the compiler does not have it."""
    if not programs.has(programs.tsan):
        pytest.skip("this compiler has no ThreadSanitizer")
    return programs.tsan


@pytest.fixture(scope="session")
def patched_once():
    """Make Triton's interpreter patch `triton.language` only once per launch.

    Without this fixture it patches the module again for every function that a kernel calls. That
    takes longer than most of these functions.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    patch_lang, numpy_type = interpreter._patch_lang, interpreter._get_np_dtype
    whole = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})  # all that functions use
    launched: list[Callable] = []
    found = {}  # maps the name of a Triton type to numpy's type

    def patch(_):
        if launched:  # `_` is a function that the kernel calls
            return interpreter._LangPatchScope()
        scope = patch_lang(whole)
        launched.append(scope.restore)
        scope.restore = lambda: launched.pop()()
        return scope

    def numpy_type_of(kind):
        if kind.name not in found:
            found[kind.name] = numpy_type(kind)
        return found[kind.name]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(interpreter, "_patch_lang", patch)
        patches.setattr(interpreter, "_get_np_dtype", numpy_type_of)
        yield


@pytest.fixture(scope="session")
def fixed_sums(patched_once):
    """Give Triton's interpreter a `tl.dot` whose bits depend only on the operands, and a `tl.fma`
    that rounds once, as a device does.

    The interpreter's own `tl.dot` is numpy's product. numpy's BLAS picks a kernel by processor and
    shape, and most kernels add the first and last rows of a tile in different orders. Integer sums
    do not depend on the order, so numpy computes them.
    """
    import numpy as np
    from triton.runtime import interpreter

    from tests.common.integers import fma

    def create_fma(_, x, y, z):
        return interpreter.TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)

    def create_dot(_, a, b, acc, input_precision, max_num_imprecise_acc):
        x, y = (np.asarray(operand.data, acc.data.dtype) for operand in (a, b))
        if acc.data.dtype.kind == "i":
            return interpreter.TensorHandle(x @ y + acc.data, acc.dtype.scalar)
        total = np.zeros_like(acc.data)
        for k in range(x.shape[-1]):
            total += x[..., :, k, None] * y[..., k, None, :]
        return interpreter.TensorHandle(total + acc.data, acc.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(interpreter.InterpreterBuilder, "create_fma", create_fma)
        yield


@pytest.fixture(scope="session")
def random_classifier():
    """random_classifier(path, origin, favourite=None): writes a random H-RAD classifier to `path`
    and returns it. favourite: the only class that it predicts; None: no such class."""
    import numpy as np

    from sbrt.model import hrad
    from sbrt.model.safetensors_file import bfloat16, widened

    def call(path, origin, favourite=None):
        """Save random weights of an H-RAD classifier. If `favourite` is given, the classifier
        always predicts the class of this number."""
        rng = np.random.default_rng(0)
        tensors = {
            name: rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
            for name, shape in hrad.shapes(origin.hidden).items()
        }
        # a classifier's file stores w1 as bfloat16
        tensors["w1"] = widened(bfloat16(tensors["w1"]))
        if favourite is not None:
            tensors["w3"][:] = 0
            tensors["b3"] = np.eye(3, dtype=np.float32)[favourite]
        found = hrad.Classifier(path, origin, tensors, (1, 2, 3), "d" * 64)
        found.save()
        return found

    return call


@pytest.fixture(scope="session")
def build_with(programs, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """build_with(program, mutant): builds a program that needs only headers of csrc.

    mutant: (a header, a text that occurs once in it, the replacement of this text), or None.
    """

    def build(program: str, mutant: tuple[str, str, str] | None) -> Path:
        flags = programs.plain
        if mutant:
            part, before, after = mutant
            text = programs.text(part)
            assert text.count(before) == 1
            folder = tmp_path_factory.mktemp("mutant")
            (folder / part).parent.mkdir()
            (folder / part).write_text(text.replace(before, after))
            flags = (*flags, f"-I{folder}")
        return programs.build(program, [], flags)

    return build
