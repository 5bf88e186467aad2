"""Contract under test: a name on the Hugging Face hub is resolved to local files. Only the files
that sbrt reads are downloaded. If the hub library is missing, or does not find the model, the error
is one sentence."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sbrt import Engine, SamplingParams
from sbrt.model.hub import located

REVISION = "0" * 40


class FakeHub:
    """A stand-in for the hub that serves a folder. `snapshot_download` copies the matching files,
    and records their names."""

    def __init__(self, remote, cache):
        self.remote, self.cache, self.fetched, self.calls = remote, cache, [], []

    def snapshot_download(self, repo, *, allow_patterns, revision=None):
        self.calls.append((repo, revision))
        source = self.remote / repo
        if not source.is_dir():
            raise ConnectionError(f"no such repository: {repo}\nhint: log in")
        out = self.cache / repo.replace("/", "--") / REVISION
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.rglob("*")):
            name = str(path.relative_to(source))
            if path.is_file() and any(fnmatch.fnmatch(name, wanted) for wanted in allow_patterns):
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copy(path, out / name)
                self.fetched.append(name)
        return str(out)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "remote", tmp_path / "cache")
    module = SimpleNamespace(snapshot_download=fake.snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.chdir(tmp_path)
    return fake


OTHERS = ("pytorch_model.bin", "consolidated.safetensors", "README.md", "model.gguf", "code.py")


def answer(target, draft=None, **fields):
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with Engine.from_pretrained(target, draft, num_threads=1, **fields) as engine:
        return engine.generate("def quick(", params)[0].outputs[0].token_ids


def test_a_model_is_fetched_and_nothing_else(make, hub):
    folder = make.checkpoint(hub.remote / "org" / "model-1.5B")
    for name in OTHERS:
        (folder / name).write_text("x")
    assert answer("org/model-1.5B") == answer(folder)
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert hub.calls == [("org/model-1.5B", None), ("org/model-1.5B", REVISION)]


def test_of_a_tokenizer_no_weights_are_fetched(make, hub, tmp_path):
    folder = make.checkpoint(hub.remote / "org" / "words", shards=2)
    for name in (*OTHERS, "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    target = make.checkpoint(tmp_path / "target")
    assert answer(target, tokenizer="org/words") == answer(target)
    assert sorted(hub.fetched) == ["tokenizer.json", "tokenizer_config.json"]


def test_shards_are_those_of_the_index(make, hub):
    folder = make.checkpoint(hub.remote / "org" / "model", shards=2)
    (folder / "model-9.safetensors").write_text("x")
    assert answer("org/model", "org/model") == answer(folder)
    assert "model-9.safetensors" not in hub.fetched
    assert {"model-0.safetensors", "model-1.safetensors"} <= set(hub.fetched)


def test_a_file_of_a_repository(hub):
    folder = hub.remote / "org" / "model-GGUF" / "q4"
    folder.mkdir(parents=True)
    names = [f"m-{i:05d}-of-00002.gguf" for i in (1, 2)]
    for name in (*names, "m.gguf", "other.gguf"):
        (folder / name).write_text(name)
    assert located("org/model-GGUF/q4/m.gguf").read_text() == "m.gguf"
    assert hub.fetched == ["q4/m.gguf"]
    assert located(f"org/model-GGUF/q4/{names[0]}").read_text() == names[0]
    assert hub.fetched == ["q4/m.gguf", *(f"q4/{name}" for name in names)]


def test_what_exists_is_not_looked_up(make, hub, tmp_path):
    folder = make.checkpoint(tmp_path / "local" / "model")
    assert answer("local/model") == answer(folder)
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["model", "/no/where", "./no/where", "../no/where", "a/b/c", "no where/x", "a/", "a/.b",
             "dir/file.gguf/", "é/x", "-a/b", "demo"],
)  # fmt: skip
def test_what_is_no_name_stays_a_path(hub, name):
    assert str(located(name)) in (name, name.removesuffix("/"), name.removeprefix("./"))
    assert hub.calls == []


@pytest.mark.parametrize("which", ["target", "draft", "tokenizer"])
def test_what_the_hub_does_not_have_is_one_sentence(make, hub, one_sentence, tmp_path, which):
    names = dict.fromkeys(("target", "draft"), make.checkpoint(tmp_path / "m"))
    names[which] = "org/nothing"
    one_sentence(
        lambda: Engine.from_pretrained(**names), "'org/nothing'", "Hugging Face hub", "log in"
    )


def test_an_index_that_is_none_is_refused(make, hub, one_sentence):
    folder = make.checkpoint(hub.remote / "org" / "model", shards=2)
    index = folder / "model.safetensors.index.json"
    for value in ([], 5, None):
        index.write_text(json.dumps({"weight_map": value}))
        one_sentence(lambda: Engine.from_pretrained("org/model"), "weight_map")


def test_without_the_library_it_is_one_sentence(monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    one_sentence(lambda: Engine.from_pretrained("org/model"), "'org/model'", "huggingface_hub")


def command(tmp_path, *words):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "sbrt", *words], cwd=tmp_path, env=environment, text=True,
        capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def cached(make, tmp_path):
    """Write the model org/model to a cache. As in the library's own cache, its files are links to
    blobs."""
    pytest.importorskip("huggingface_hub")
    folder = make.checkpoint(tmp_path / "source")
    cache = tmp_path / "home" / "hub" / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(REVISION)
    (cache / "blobs").mkdir()
    snapshot = cache / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, cache / "blobs" / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    return folder


def test_a_cached_model_needs_no_network(cached, tmp_path):
    words = ("--prompt", "def quick(", "--max-tokens", "8", "--threads", "1", "--method", "none")
    hub = command(tmp_path, "generate", "--target", "org/model", *words)
    assert hub.returncode == 0, hub.stderr
    local = command(tmp_path, "generate", "--target", str(cached), *words)
    assert hub.stdout == local.stdout
    assert hub.stdout


def test_a_model_that_is_not_cached_is_one_sentence_offline(cached, tmp_path):
    done = command(tmp_path, "generate", "--target", "org/other", "--prompt", "x")
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert "'org/other'" in sentence
    assert "Traceback" not in sentence
