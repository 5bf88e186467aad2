"""Contract under test: an H-RAD classifier is for the pair and the gamma that it was trained with.
An engine, a request or a command with another pair or gamma is refused in one sentence."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbrt import Engine, SamplingParams, methods
from sbrt.model import demo_pair, hrad, real_pair
from sbrt.model.fingerprint import SAMPLE, SAMPLES, fingerprint, sample_offsets
from sbrt.tools import cli
from sbrt.tools.simulate import Sweep


def test_a_fingerprint_tells_models_apart(tmp_path, make):
    weights = make.weights(make.config(), seed=1)
    first = make.checkpoint(tmp_path / "a", weights=weights)
    same = make.checkpoint(tmp_path / "b", weights=weights)
    name = "model.layers.1.mlp.down_proj.weight"
    changed = weights[name].copy()
    changed[-1, -1] = 0.5
    other = make.checkpoint(tmp_path / "c", weights=weights | {name: changed})
    config = make.checkpoint(tmp_path / "d", weights=weights, rope_theta=500000.0)
    assert fingerprint(first) == fingerprint(same)
    assert len({fingerprint(folder) for folder in (first, other, config)}) == 3


def test_words_in_config_json_that_mean_nothing_change_nothing(tmp_path, make):
    folder = make.checkpoint(tmp_path / "a")
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "x"}, indent=1))
    assert fingerprint(folder) == before


@given(st.integers(0, 2**20), st.integers(0, 2**40))
def test_samples_lie_in_the_file_from_its_first_to_its_last_byte(begin, length):
    offsets, size = sample_offsets(begin, begin + length), begin + length
    assert len(offsets) <= SAMPLES
    assert offsets == sorted(set(offsets))
    if length:
        assert offsets[0] == begin
        assert offsets[-1] + SAMPLE >= size > offsets[-1]


# --- engines and commands ---


def engine_of(folders, method, **fields):
    speculative = {"method": method, **fields}
    return Engine.from_pretrained(*folders, speculative=speculative, num_threads=1)


def test_an_engine_refuses_another_gamma(folders, hrad_file, one_sentence):
    method = f"specbranch:gamma=4,hrad={hrad_file}"
    one_sentence(lambda: engine_of(folders, method), hrad_file, "gamma 4", "7")
    call = lambda: engine_of(folders, "specbranch", hrad=hrad_file, num_speculative_tokens=4)  # noqa: E731
    one_sentence(call, hrad_file, "gamma 4", "7")


@pytest.mark.parametrize("which", ["target", "draft", "hidden"])
def test_an_engine_refuses_another_pair(folders, hrad_file, hrad_origin, which, make, one_sentence):
    change = {"hidden": 16} if which == "hidden" else {which: "0" * 64}
    make.classifier(hrad_file, replace(hrad_origin, **change)).save()
    one_sentence(lambda: engine_of(folders, f"specbranch:hrad={hrad_file}"), hrad_file, which)


def test_an_engine_refuses_two_files_and_none(folders, hrad_file, tmp_path, one_sentence):
    other = tmp_path / "other"
    other.write_bytes(hrad_file.read_bytes())
    given = [methods.parse(f"specbranch:gamma=7,hrad={path}") for path in (hrad_file, other)]
    one_sentence(lambda: hrad.load_for(given, *folders), "one file", hrad_file, other)
    one_sentence(lambda: hrad.load_for(given[:1], folders[0], None), "draft", "none")
    one_sentence(lambda: hrad.load_for(given[:1], folders[0], None, random=True), "random")
    one_sentence(lambda: engine_of(folders, f"specbranch:hrad={other}x"), "otherx")


def test_a_request_refuses_what_the_engine_was_not_built_for(engine, hrad_file, one_sentence):
    params = SamplingParams(max_tokens=4)
    method = f"specbranch:gamma=4,hrad={hrad_file}"
    one_sentence(lambda: engine.generate("a", params, method=method), "hrad off", hrad_file)


def test_demo_is_the_file_beside_a_demo_draft(folders, one_sentence):
    method = methods.parse("specbranch:hrad=demo")
    for name in (demo_pair.DRAFT, demo_pair.POOR):
        folder = demo_pair.FOLDER / name
        assert hrad.locate(method, folder) == folder / "hrad.safetensors"
    one_sentence(lambda: hrad.locate(method, folders[1]), "hrad=demo", folders[1])
    one_sentence(lambda: hrad.locate(method, None), "hrad=demo")


def test_smollm2_is_the_file_of_its_draft(one_sentence):
    method, folder = methods.parse("specbranch:hrad=smollm2"), real_pair.draft_folder()
    assert hrad.locate(method, folder) == folder / "hrad.safetensors"
    assert (folder / "hrad.safetensors").is_file()
    demo = demo_pair.FOLDER / demo_pair.DRAFT
    one_sentence(lambda: hrad.locate(method, demo), "hrad=smollm2", demo)


def test_gamma_is_the_file_s_where_none_is_given(hrad_file):
    def fitted(text, gamma=None):
        return hrad.fitted(methods.parse(text, gamma=gamma or 4), gamma, None).gamma

    assert fitted(f"specbranch:hrad={hrad_file}") == 7
    assert fitted(f"specbranch:hrad={hrad_file}", gamma=5) == 5  # an engine then refuses gamma 5
    assert fitted(f"specbranch:gamma=3,hrad={hrad_file}") == 3
    assert fitted("specbranch") == 4


def test_a_sweep_keeps_the_gamma_of_a_classifier(hrad_file):
    method = hrad.fitted(methods.parse(f"specbranch:hrad={hrad_file}"), None, None)
    sweep = Sweep(c=16)
    assert [m.gamma for m in sweep.gammas(method)] == [7]
    assert "epsilon" in sweep.others(method)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hrad", "collect", "--prompts", "P", "--out", "/nonexistent/x"], "--out"),
        (["hrad", "collect", "--prompts", "/nonexistent", "--out", "X"], "/nonexistent"),
        (["hrad", "collect", "--prompts", "P", "--out", "X", "--gamma", "64"], "gamma"),
        (["hrad", "collect", "--prompts", "P", "--out", "X", "--limit", "0"], "--limit"),
        (["hrad", "collect", "--prompts", "P", "--out", "X", "--draft", "none"], "none"),
        (["hrad", "collect", "--prompts", "P", "--out", "X", "--draft", "random"], "random"),
        (["hrad", "collect", "--prompts", "P", "--out", "X", "--draft", "/nonexistent"], "/nonex"),
        (["hrad", "train", "/nonexistent", "--out", "X"], "/nonexistent"),
        (["hrad", "train", "P", "--out", "X"], "prompts.jsonl"),
        (["hrad", "train", "P", "--out", "X", "--epochs", "0"], "--epochs"),
        (["hrad", "train", "P", "--out", "X", "--seed", "-1"], "--seed"),
        (["hrad", "train", "P", "--out", "X", "--rate", "nan"], "--rate"),
        (["hrad", "eval", "P"], "--hrad"),
        (["hrad", "eval", "P", "--hrad", "/nonexistent"], "/nonexistent"),
        (["hrad", "eval", "P", "--hrad", "P"], "prompts.jsonl"),
        (["hrad", "eval", "P", "--hrad", "demo", "--draft", "/nonexistent"], "hrad=demo"),
        (["hrad", "boil"], "boil"),
        (["generate", "--prompt", "a", "--method", "specbranch:hrad=/nonexistent"], "/nonexistent"),
        (["generate", "--prompt", "a", "--method", "pearl:hrad=off"], "hrad"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(capsys, tmp_path, words, said):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "def f(x):"}\n')
    known = {"P": str(prompts), "X": str(tmp_path / "x")}
    code = cli.main([known.get(word, word) for word in words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("sbrt: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
