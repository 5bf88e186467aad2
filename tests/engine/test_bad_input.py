"""Contract under test: every bad argument or model folder raises InvalidInputError, with one
sentence that names the bad value. The command line ends with exit code 2 and no traceback."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, SpeculativeConfig
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.config import read_config
from sbrt.model.safetensors_file import open_file
from sbrt.tools import cli

FILES = ("config.json", "model.safetensors", "tokenizer.json")


def refused(call, *names):
    with pytest.raises(InvalidInputError) as caught:
        call()
    sentence = str(caught.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence
    assert len(sentence) < 600


# --- parameters ---


class Unprintable:
    def __repr__(self):
        raise ZeroDivisionError


class Refusing:
    def __float__(self):
        raise ZeroDivisionError


NO_NUMBER = (math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("-inf"))
ODD = (
    *NO_NUMBER, np.array([1, 2]), np.array(1.5), np.array(1), np.bool_(True), b"ab", "\ud800",
    "x" * 10**6, "a\nb", 10**400, -(10**400), 10**5000, 2**31, 2**63, 2**64, -1, 0.0, 1e308, 5e-324,
    True, [], {}, [[]], [math.nan], [None], {1: math.nan}, {math.nan: 1}, 1j, int, object(),
    Unprintable(), Refusing(), Ellipsis, set(), slice(1), iter([]), np.str_("x"),
)  # fmt: skip
FIELDS = [
    (kind, field.name)
    for kind in (SamplingParams, EngineConfig, SpeculativeConfig)
    for field in dataclasses.fields(kind)
]


def refusal(kind, given):
    """Return the sentence with which `kind(**given)` is refused, or "" if the arguments are
    accepted. Other errors are raised."""
    try:
        kind(**given)
    except InvalidInputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_every_field_takes_or_refuses_anything(kind, field):
    needed = {"model": "x"} if kind is EngineConfig else {}
    for value in ODD:
        sentence = refusal(kind, needed | {field: value})
        assert "\n" not in sentence
        assert len(sentence) < 300
        assert sentence or not any(value is number for number in NO_NUMBER), value


@pytest.mark.parametrize(
    "prompt",
    [np.array(1), np.array([1.5]), {"prompt_token_ids": np.array(3)}, {"prompt_token_ids": {1: 2}},
     [{1: 2}], b"", [b"ab"], [math.nan], [math.inf], [10**400], [2**31], object(), [[], [1]],
     np.array([[]]), Unprintable(), "x" * 10**7, [1] * 10**6, {"prompt": "\udcff"}],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_a_prompt_of_another_kind_is_refused(engine, prompt):
    refused(lambda: engine.generate(prompt), "prompt")
    assert not engine.has_unfinished_requests()


# --- paths that are no files, or links ---


def put_folder(path):
    path.mkdir()


def put_link_to_nothing(path):
    path.symlink_to(path.parent / "nothing")


def put_loop(path):
    path.symlink_to(path)


def put_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "put", [put_folder, os.mkfifo, put_link_to_nothing, put_loop, put_device],
    ids=lambda put: put.__name__,
)  # fmt: skip
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_opened(make, tmp_path, name, put):
    """FIFOs and devices are refused without being opened. Reading a FIFO would wait for ever, and
    reading a device would never end."""
    folder = make.checkpoint(tmp_path / "m")
    (folder / name).unlink()
    put(folder / name)
    refused(lambda: Engine.from_pretrained(folder), str(folder))


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_file_that_may_be_missing_is_read_only_if_it_is_one(make, tmp_path, name):
    folder = make.checkpoint(tmp_path / "m")
    os.mkfifo(folder / name)
    Engine.from_pretrained(folder, num_threads=1).close()


def test_links_to_files_are_read(make, tmp_path):
    """Links are followed, because Hugging Face's cache stores a model as links to files outside the
    folder."""
    store, folder = make.checkpoint(tmp_path / "store"), tmp_path / "m"
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(store / name)
    Engine.from_pretrained(folder, num_threads=1).close()


@pytest.mark.parametrize("name", ["x" * 300, "\ud800", "a\nb"], ids=["long", "surrogate", "line"])
def test_a_folder_that_no_system_has_is_refused(tmp_path, name):
    refused(lambda: Engine.from_pretrained(tmp_path / name), "folder")


class Creates:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_the_folder_is_never_opened(make, tmp_path):
    made = tmp_path / "made"
    names = ("pytorch_model.bin", "model.bin", "consolidated.00.pth", "training_args.bin")
    alone, beside = tmp_path / "alone", make.checkpoint(tmp_path / "beside")
    make.checkpoint(alone)
    (alone / "model.safetensors").unlink()
    for folder in (alone, beside):
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Creates(made)))
        (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')
    script = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "from sbrt import Engine, InvalidInputError\n"
        "Engine.from_pretrained(sys.argv[1], num_threads=1).close()\n"
        "try:\n    Engine.from_pretrained(sys.argv[2])\n"
        "except InvalidInputError as error:\n    assert 'model.safetensors' in str(error)\n"
        "else:\n    raise SystemExit('was loaded')\n"
        "print([p for p in opened if sys.argv[3] in p])\n"
    )
    command = [sys.executable, "-c", script, beside, alone, tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "config.json" in done.stdout
    assert not any(name in done.stdout for name in (*names, "index"))
    assert not made.exists()
    pickle.loads(pickle.dumps(Creates(made))).close()  # shows that unpickling creates the file
    assert made.exists()


# --- shards ---


def test_a_tensor_in_the_wrong_shard_is_named(make, tmp_path):
    folder = make.checkpoint(tmp_path / "m", shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = index["weight_map"]
    name = "model.layers.0.mlp.up_proj.weight"
    files[name] = next(shard for shard in files.values() if shard != files[name])
    path.write_text(json.dumps(index))
    refused(lambda: open_checkpoint(folder), name, "shard")


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": [1]}', b'{"weight_map": null}',
     b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', b'{"weight_map": {"a": {}}}',
     b'{"weight_map": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"weight_map": ' + b"[" * 10**5,
     b'{"weight_map": {"\xff": "x"}}', b'{"weight_map": {"a": "\\ud800.safetensors"}}',
     b'{"weight_map": {"\\ud800\\n": "model-0.safetensors"}}'],
    ids=lambda raw: repr(raw[:40]),
)  # fmt: skip
def test_an_index_that_cannot_be_is_refused(make, tmp_path, raw):
    folder = make.checkpoint(tmp_path / "m", shards=2)
    (folder / "model.safetensors.index.json").write_bytes(raw)
    refused(lambda: open_checkpoint(folder), str(folder))


# --- JSON ---


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_json_that_cannot_be_is_refused_by_every_reader(make, tmp_path, name):
    folder = make.checkpoint(tmp_path / "m")
    path = folder / name
    twice = b'{"a": 1, "b": {"c": 1, "c": 2}}'
    for raw in (b"", b"[]", b"\xff\xfe{}", b'{"a": NaN}', twice, b"[" * 10**5, b'{"a": 1' * 900):
        path.write_bytes(raw)
        refused(lambda: Engine.from_pretrained(folder), name)


def test_a_key_that_appears_twice_among_many_is_found(tmp_path):
    keys = ",".join(f'"k{i}": 1' for i in range(200_000))
    (tmp_path / "config.json").write_text("{" + keys + ',"k199999": 2}')
    refused(lambda: read_config(tmp_path), "'k199999' appears twice")


def test_lists_of_any_depth_are_refused(make, tmp_path):
    """A nested list of any depth is refused in one sentence. Near the interpreter's recursion limit
    reading such a list works, but printing it may fail."""
    text = json.dumps(make.config())
    for depth in (10, 100, *range(850, 1010, 5)):
        nested = "[" * depth + "]" * depth
        changed = text.replace('"hidden_size": 32', f'"hidden_size": {nested}')
        (tmp_path / "config.json").write_text(changed)
        refused(lambda: read_config(tmp_path), "config.json")
        header = f'{{"a": {{"dtype": {nested}, "shape": [1], "data_offsets": [0, 4]}}}}'
        make.write_file(tmp_path / "x.safetensors", header.encode(), b"abcd")
        refused(lambda: open_file(tmp_path / "x.safetensors"), "x.safetensors")


def test_a_json_file_is_read_up_to_its_bound(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: a terabyte that takes no disk space
    refused(lambda: read_config(tmp_path), "at most 16777216 bytes")


# --- the command line ---


@pytest.mark.parametrize(
    ("name", "raw"),
    [("config.json", "{"), ("config.json", "[" * 10**5), ("config.json", None),
     ("model.safetensors", ""), ("model.safetensors", None), ("tokenizer.json", "{}"),
     ("tokenizer.json", None), ("generation_config.json", "[]"),
     ("tokenizer_config.json", "\ud800".encode("utf-16", "surrogatepass").hex())],
)  # fmt: skip
@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["compare", "--limit", "1"]])
def test_a_bad_folder_is_one_sentence(make, tmp_path, capsys, command, name, raw):
    folder = make.checkpoint(tmp_path / "m")
    if raw is None:
        (folder / name).unlink()
        (folder / name).mkdir()
    else:
        (folder / name).write_text(raw)
    code = cli.main([*command, "--target", str(folder), "--draft", "none"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("sbrt: error: ")
    assert name.split(".")[0] in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "flags",
    [["--prompt", "\udcff"], ["--prompt", "x" * 10**6], ["--temperature", "inf"],
     ["--top-p", "nan"], ["--top-k", "-1"], ["--max-tokens", "-1"], ["--max-tokens", "9" * 50],
     ["--seed", "-1"], ["--threads", "99999999999"], ["--gamma", "-1"], ["--branches", "0"],
     ["--target", "x" * 5000], ["--target", ""], ["--draft", "x" * 5000], ["--dtype", "float64"]],
    ids=lambda flags: f"{flags[0]} {flags[1][:12]!r}",
)  # fmt: skip
def test_a_bad_flag_is_one_sentence(folders, capsys, flags):
    given = ["--target", str(folders[0]), "--draft", str(folders[1]), "--prompt", "a", *flags]
    code = cli.main(["generate", *given])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("sbrt: error: ")
    assert err.count("\n") == 1
    assert len(err) < 6000
