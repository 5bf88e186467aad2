"""Contract under test: the names of the installed files, and how much `import sbrt` loads."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()


def python(code, cwd):
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the names of the files in a wheel of the checkout. The wheel reuses the last build's
    compiled files."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    command += ["--no-build-isolation", "--no-cache-dir", "--quiet", "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("sbrt-*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_has_one_top_level_module(wheel):
    top = {name.split("/")[0] for name in wheel}
    assert top == {"sbrt", f"sbrt-{importlib.metadata.version('sbrt')}.dist-info"}


def test_the_wheel_has_everything(wheel):
    for folder, place in (("sbrt", "sbrt"), ("triton_kernels", "sbrt/triton_kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{place}/{path.relative_to(ROOT / folder)}" in wheel
    assert "sbrt/server/page.html" in wheel
    for path in (ROOT / "sbrt" / "demo").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert f"sbrt/{path.relative_to(ROOT / 'sbrt')}" in wheel
    assert sum(bool(re.fullmatch(r"sbrt/_core\..*\.so", name)) for name in wheel) == 1
    assert not any(name.endswith((".cc", ".h", ".pyc")) for name in wheel)
    assert not any("_probe" in name for name in wheel)


def test_triton_kernels_is_mapped_and_is_a_namespace():
    mapping = PROJECT.split("[tool.scikit-build.wheel.force-include]")[1].split("[")[0]
    assert '"triton_kernels" = "sbrt/triton_kernels"' in mapping
    assert not (ROOT / "triton_kernels" / "__init__.py").exists()


def test_no_top_level_module_but_sbrt_can_be_imported(tmp_path):
    code = """
from importlib.util import find_spec
specs = [find_spec(name) for name in ("triton_kernels", "bench", "tests", "tools")]
print([str(list(s.submodule_search_locations or [s.origin])) for s in specs if s])
"""
    assert str(ROOT) not in python(code, tmp_path)


def test_sbrt_and_its_kernels_can_be_imported_from_anywhere(tmp_path):
    code = "import sbrt, sbrt._core, sbrt.triton_kernels; print(list(sbrt.triton_kernels.__path__))"
    assert "triton_kernels" in python(code, tmp_path)


def test_import_sbrt_is_light(tmp_path):
    """The import takes less than 0.3 s of processor time, best of three because the machine may be
    busy. It imports neither torch nor the server."""
    code = """
import sys, time
begin = time.process_time()
import sbrt
seconds = time.process_time() - begin
heavy = {"torch", "triton", "transformers", "matplotlib", "asyncio", "starlette", "uvicorn",
         "jinja2", "prometheus_client"} & sys.modules.keys()
assert not heavy, heavy
print(seconds)
"""
    seconds = min(float(python(code, tmp_path)) for _ in range(3))
    assert seconds < 0.3


def test_the_version_has_one_place(tmp_path):
    (version,) = re.findall(r'^version = "([^"]+)"', PROJECT, re.MULTILINE)
    assert importlib.metadata.version("sbrt") == version
    code = "from sbrt import _core; print(_core.build_info()['version'])"
    assert python(code, tmp_path) == version
    for path in [ROOT / "CMakeLists.txt", *(ROOT / "sbrt").rglob("*.py")]:
        assert f'"{version}"' not in path.read_text(), f"{path} repeats the version"


def test_modules_are_found_under_their_old_names():
    """Each old name gives a warning with the new place, and no module of ours uses an old name."""
    program = """
import importlib, warnings
from sbrt._moved import MOVED
for old, new in MOVED.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = importlib.import_module(old)
    assert [w.category for w in caught] == [DeprecationWarning], old
    assert new in str(caught[0].message)
    real = importlib.import_module(new)
    names = [n for n in vars(real) if not n.startswith("__")]
    assert names and all(getattr(found, n) is getattr(real, n) for n in names), old
from sbrt.trace import Round, Span
print(len(MOVED))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == 43
