"""Contract under test: the H-RAD files. What is written is read back, the same contents are the
same bytes; a file of other models, another gamma, or that is not what it says is refused by one
sentence; a label says what became of the full burst; training is reproducible and learns."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbrt import Engine, InvalidInputError, SamplingParams, cli, demo_pair, hrad, hrad_data, methods
from sbrt.fingerprint import SAMPLE, SAMPLES, fingerprint, sample_offsets
from sbrt.hrad_eval import confusion_of, judge, of_equal_rollback, unseen
from sbrt.hrad_train import Plan, train
from sbrt.measure import Tally
from sbrt.safetensors_file import encode, open_file
from sbrt.simulate import Sweep
from sbrt.trace import Round

HIDDEN = 32  # of the tiny pair


def classifier_at(path, origin, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in hrad.shapes(origin.hidden).items()
    }
    return hrad.Classifier(path, origin, tensors, (1, 2, 3), "d" * 64)


def samples_of(labels_from, prompts=20, each=50, hidden=4):
    """Features of five normal blocks; labels_from(features) -> labels."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((prompts * each, 5 * hidden)).astype(np.float16)
    labels = labels_from(features.astype(np.float32)).astype(np.uint8)
    origin = hrad.Origin(4, hidden, "t" * 64, "d" * 64)
    owners = np.repeat(np.arange(prompts, dtype=np.int64), each)
    digests = np.array([hrad_data.digest_of(f"prompt {i}") for i in range(prompts)], np.int64)
    return hrad_data.Samples(origin, features, labels, owners, digests)


def one_sentence(call, *words):
    with pytest.raises(InvalidInputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text
    return text


@pytest.fixture(scope="module")
def origin(folders):
    return hrad.origin_of(7, *folders)


@pytest.fixture
def file(tmp_path, origin):
    """A classifier's file of the tiny pair, gamma 7."""
    classifier = classifier_at(tmp_path / "h.safetensors", origin)
    classifier.save()
    return classifier.path


def test_a_classifier_is_read_back(file, origin):
    found = hrad.load(file)
    assert (found.origin, found.counts, found.data) == (origin, (1, 2, 3), "d" * 64)
    expected = classifier_at(file, origin).tensors
    assert list(found.tensors) == ["w1", "b1", "w2", "b2", "w3", "b3"]
    for name, value in expected.items():
        assert (found.tensors[name] == value).all()
    assert found.encode() == file.read_bytes()


def test_samples_are_read_back(tmp_path):
    samples = samples_of(lambda x: x[:, 0] > 0)
    samples.save(tmp_path / "x")
    found = hrad_data.load_samples(tmp_path / "x")
    for name in ("features", "labels", "prompts", "digests"):
        one, other = getattr(samples, name), getattr(found, name)
        assert one.dtype == other.dtype
        assert (one == other).all()
    assert found.origin == samples.origin
    assert found.data == samples.data


def test_a_file_can_be_read_by_the_library(file):
    from safetensors import safe_open

    with safe_open(file, "np") as found:
        assert found.metadata()["format"] == "sbrt-hrad-1"
        assert found.get_tensor("w1").shape == (256, 5 * HIDDEN)


def wrong_tensor(name, change):
    def make(tensors, metadata):
        return encode({**tensors, name: change(tensors[name])}, metadata)

    return make


def wrong_metadata(**changes):
    def make(tensors, metadata):
        given = {**metadata, **changes}
        return encode(tensors, {k: v for k, v in given.items() if v is not None})

    return make


def spoiled(value, number):
    found = value.copy()
    found.flat[-1] = number
    return found


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t, m: encode({n: v for n, v in t.items() if n != "b2"}, m), ["b2", "none"]),
        (lambda t, m: encode({**t, "more": t["b3"]}, m), ["more", "no such tensor"]),
        (wrong_tensor("w1", lambda v: v[:, 1:]), ["w1", "[256, 160]", "[256, 159]"]),
        (wrong_tensor("w3", lambda v: v.reshape(-1)), ["w3", "[3, 64]", "[192]"]),
        (wrong_tensor("b3", lambda v: v.astype(np.float16)), ["b3", "F32", "F16"]),
        (wrong_tensor("w2", lambda v: spoiled(v, np.nan)), ["w2", "finite"]),
        (wrong_tensor("b1", lambda v: spoiled(v, -np.inf)), ["b1", "finite"]),
        (wrong_metadata(format="sbrt-hrad-2"), ["sbrt-hrad-1", "sbrt-hrad-2"]),
        (wrong_metadata(format=None), ["sbrt-hrad-1", "None"]),
        (wrong_metadata(gamma="0"), ["gamma", "1"]),
        (wrong_metadata(gamma="64"), ["gamma", "63"]),
        (wrong_metadata(gamma="x"), ["gamma", "'x'"]),
        (wrong_metadata(gamma="7" * 5000), ["gamma"]),
        (wrong_metadata(hidden="31"), ["w1", "[256, 155]"]),
        (wrong_metadata(hidden=None), ["hidden", "None"]),
        (wrong_metadata(target=None), ["target"]),
        (wrong_metadata(draft=""), ["draft"]),
        (wrong_metadata(counts="1 2"), ["counts", "1 2"]),
        (wrong_metadata(temperature="nan"), ["temperature"]),
        (wrong_metadata(temperature="warm"), ["temperature"]),
        (lambda t, m: encode(t, m)[:-1], ["bytes"]),
        (lambda t, m: encode(t, m) + b"x", ["bytes"]),
        (lambda t, m: b"\xff" * 8 + encode(t, m)[8:], ["header"]),
        (lambda t, m: b"", ["8 bytes"]),
    ],
)
def test_a_malformed_file_is_refused(file, make, words):
    found = open_file(file)
    tensors = {n: found.array(n, "F32", e.shape) for n, e in found.tensors.items()}
    file.write_bytes(make(tensors, found.metadata))
    one_sentence(lambda: hrad.load(file), file, *words)


def test_metadata_of_another_kind_is_refused(file, make):
    make.write_file(file, {"__metadata__": ["sbrt-hrad-1"]})
    one_sentence(lambda: hrad.load(file), "sbrt-hrad-1")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    one_sentence(lambda: hrad.load(path), path, "none")
    one_sentence(lambda: hrad_data.load_samples(path), path, "none")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.full(1000, 3, np.uint8)}, ["labels", "below 3", "3"]),
        ({"labels": np.zeros(999, np.uint8)}, ["labels", "1000", "999"]),
        ({"prompts": np.full(1000, -1, np.int64)}, ["prompts", "-1"]),
        ({"prompts": np.full(1000, 20, np.int64)}, ["prompts", "20"]),
        ({"features": np.full((1000, 20), np.nan, np.float16)}, ["features", "finite"]),
        ({"features": np.zeros((1000, 21), np.float16)}, ["features", "20", "21"]),
        (
            {
                "features": np.zeros((0, 20), np.float16),
                "labels": np.zeros(0, np.uint8),
                "prompts": np.zeros(0, np.int64),
            },
            ["at least one sample"],
        ),
    ],
)
def test_malformed_samples_are_refused(tmp_path, change, words):
    replace(samples_of(lambda x: x[:, 0] > 0), **change).save(tmp_path / "x")
    one_sentence(lambda: hrad_data.load_samples(tmp_path / "x"), *words)


def test_a_classifier_is_no_samples_and_the_reverse(file, tmp_path):
    one_sentence(lambda: hrad_data.load_samples(file), "sbrt-hrad-samples-1", "sbrt-hrad-1")
    samples_of(lambda x: x[:, 0] > 0).save(tmp_path / "x")
    one_sentence(lambda: hrad.load(tmp_path / "x"), "sbrt-hrad-1", "sbrt-hrad-samples-1")


# --- labels ---


def rounds_of(*entries):
    """Rounds of (depth, n, is_hit) or (depth, n, is_hit, tokens)."""
    return [
        Round(i, depth, n, 3, bool(hit), more[0] if more else n + 1)
        for i, (depth, n, hit, *more) in enumerate(entries)
    ]


@pytest.mark.parametrize(
    ("rounds", "labels"),
    [
        ([], []),
        ([(0, 0, 1)], []),  # nothing is known of what it adopted
        ([(0, 0, 1), (4, 0, 0)], [(0, 0)]),
        ([(0, 0, 1), (4, 1, 0)], [(0, 1)]),
        ([(0, 0, 1), (4, 3, 0)], [(0, 1)]),
        ([(0, 0, 1), (4, 4, 0)], [(0, 2)]),
        ([(0, 0, 0), (0, 0, 1), (4, 4, 1), (4, 2, 0), (0, 0, 0)], [(1, 2), (2, 1)]),  # a miss
        ([(0, 0, 1), (3, 3, 0)], []),  # the budget shortened the tail
        ([(0, 0, 1), (4, 4, 0, 4)], []),  # the sequence ended inside the chain
        ([(0, 0, 1), (4, 2, 0, 1)], []),
        ([(0, 0, 1), (4, 2, 0, 3)], [(0, 1)]),  # it ended with the target's own token
    ],
)
def test_labels_of_rounds(rounds, labels):
    assert hrad_data.labels_of(rounds_of(*rounds), 4) == labels


def test_labels_of_a_burst_of_one():
    assert [hrad_data.label(n, 1) for n in (0, 1)] == [0, 2]


def test_labels_are_collected_with_uncut_chains():
    options = hrad_data.uncut(7).options
    assert (options["gamma"], options["epsilon"], options["hrad"]) == (7, 0.0, "off")


class Fake:
    """An engine of given rounds, whose features after round i are all i + 1."""

    max_model_len = 100

    def __init__(self, rounds):
        self.given, self.at, self.seeds = rounds, 0, []

    def encode(self, prompt):
        return list(prompt.encode())

    def add_request(self, request_id, prompt, params, *, method):
        self.at = 0
        self.seeds.append(params.seed)

    def has_unfinished_requests(self):
        return self.at < len(self.given)

    def step(self):
        self.at += 1
        answer = SimpleNamespace(finish_reason=None)
        return [SimpleNamespace(outputs=[answer], finished=self.at == len(self.given))]

    def features(self):
        return np.full(20, self.at, np.float32)

    def rounds(self):
        return self.given


def test_features_are_those_at_the_outcome_of_the_labelled_round():
    rounds = rounds_of((0, 0, 0), (0, 0, 1), (4, 4, 1), (4, 2, 0), (0, 0, 1), (4, 0, 0))
    engine, long = Fake(rounds), "x" * 99
    origin = hrad.Origin(4, 4, "t", "d")
    params = SamplingParams(max_tokens=9, seed=5)
    found, skipped = hrad_data.collect(engine, ["a", long, "b"], params, origin)
    assert found.features[:, 0].tolist() == [2, 3, 5] * 2
    assert found.labels.tolist() == [2, 1, 0] * 2
    assert found.prompts.tolist() == [0, 0, 0, 2, 2, 2]
    assert (skipped, engine.seeds, len(found.digests)) == (1, [5, 7], 3)


def test_of_a_long_answer_the_last_rounds_are_known():
    engine = Fake(rounds_of((0, 0, 0), (0, 0, 0), (0, 0, 1), (4, 4, 0)))
    engine.rounds = lambda: engine.given[-2:]
    origin, params = hrad.Origin(4, 4, "t", "d"), SamplingParams(max_tokens=9, seed=5)
    found, _ = hrad_data.collect(engine, ["a"], params, origin)
    assert (found.features[:, 0].tolist(), found.labels.tolist()) == ([3], [2])


# --- training ---


def largest(x):
    """Which of the first three features is the largest."""
    return x[:, :3].argmax(1)


def test_training_learns_what_the_features_say(tmp_path):
    pytest.importorskip("torch", reason="training needs torch")
    samples = samples_of(largest)
    seen = []
    found, best = train(samples, tmp_path / "h", Plan(rate=3e-3), seen.append)
    judgement = judge(found, samples)
    assert [epoch.number for epoch in seen] == list(range(1, 21))
    assert best == min(seen, key=lambda epoch: epoch.held_out_loss)
    assert judgement.held_out is True
    assert judgement.count == 200
    assert judgement.accuracy > 0.9 > 0.5 > judgement.majority
    assert judgement.accuracy == pytest.approx(best.held_out_accuracy)
    assert sum(found.counts) == 800
    assert found.data == samples.data


def test_the_same_samples_give_the_same_bytes(tmp_path):
    torch = pytest.importorskip("torch", reason="training needs torch")
    samples = samples_of(largest, prompts=5)
    files = []
    for threads in (1, 2):
        torch.manual_seed(threads)
        before, previous = torch.random.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(threads)
        files.append(train(samples, tmp_path / "h", Plan(epochs=2))[0].encode())
        assert torch.get_num_threads() == threads
        assert (torch.random.get_rng_state() == before).all()
        torch.set_num_threads(previous)
    assert files[0] == files[1]
    assert files[0] != train(samples, tmp_path / "h", Plan(epochs=2, seed=1))[0].encode()
    assert files[0] != train(samples, tmp_path / "h", Plan(epochs=2, weighted=True))[0].encode()


def test_training_needs_prompts_to_hold_out(tmp_path):
    pytest.importorskip("torch", reason="training needs torch")
    one_sentence(lambda: train(samples_of(largest, prompts=4), tmp_path / "h", Plan()), "5", "4")


# --- evaluation ---


def test_confusion_counts_pairs():
    labels, said = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    assert confusion_of(labels, said) == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_samples_of_another_file_are_all_judged(tmp_path):
    samples = samples_of(largest)
    judgement = judge(classifier_at(tmp_path / "h", samples.origin), samples)
    assert (judgement.held_out, judgement.count) == (False, 1000)


def test_samples_of_others_are_refused(tmp_path):
    samples = samples_of(largest)
    given = classifier_at(tmp_path / "h", replace(samples.origin, gamma=5))
    one_sentence(lambda: judge(given, samples), "gamma 4", "5")


def test_prompts_of_training_are_left_out(tmp_path):
    samples = samples_of(largest)
    stranger = classifier_at(tmp_path / "h", samples.origin)
    own = replace(stranger, data=samples.data)
    prompts = [f"prompt {i}" for i in range(10)]
    assert unseen([*prompts, "new"], own, samples) == ["prompt 4", "prompt 9", "new"]
    assert unseen(prompts, stranger, samples) == prompts
    one_sentence(lambda: unseen(prompts[:4], own, samples), "prompts", "4")


def test_the_threshold_of_equal_rollback_is_found():
    def alone(epsilon):
        tally = Tally(methods.parse(f"specbranch:epsilon={epsilon}"), 1, 1)
        tally.tokens, tally.rollback = 1000, round(1000 * (1 - epsilon) ** 2)
        return tally

    found = of_equal_rollback(alone, 0.25)
    assert found.method.options["epsilon"] == 0.5
    assert of_equal_rollback(alone, 2.0).method.options["epsilon"] == 0.0


# --- fingerprints ---


def test_a_fingerprint_tells_models_apart(tmp_path, make):
    weights = make.weights(make.config(), seed=1)
    first = make.checkpoint(tmp_path / "a", weights=weights)
    same = make.checkpoint(tmp_path / "b", weights=weights)
    name = "model.layers.1.mlp.down_proj.weight"
    other = make.checkpoint(tmp_path / "c", weights=weights | {name: spoiled(weights[name], 0.5)})
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


def test_an_engine_refuses_another_gamma(folders, file):
    method = f"specbranch:gamma=4,hrad={file}"
    one_sentence(lambda: engine_of(folders, method), file, "gamma 4", "7")
    call = lambda: engine_of(folders, "specbranch", hrad=file, num_speculative_tokens=4)  # noqa: E731
    one_sentence(call, file, "gamma 4", "7")


@pytest.mark.parametrize("which", ["target", "draft", "hidden"])
def test_an_engine_refuses_another_pair(folders, file, origin, which):
    change = {"hidden": 16} if which == "hidden" else {which: "0" * 64}
    classifier_at(file, replace(origin, **change)).save()
    one_sentence(lambda: engine_of(folders, f"specbranch:hrad={file}"), file, which)


def test_an_engine_refuses_two_files_and_none(folders, file, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    given = [methods.parse(f"specbranch:gamma=7,hrad={path}") for path in (file, other)]
    one_sentence(lambda: hrad.load_for(given, *folders), "one file", file, other)
    one_sentence(lambda: hrad.load_for(given[:1], folders[0], None), "draft", "none")
    one_sentence(lambda: hrad.load_for(given[:1], folders[0], None, random=True), "random")
    one_sentence(lambda: engine_of(folders, f"specbranch:hrad={other}x"), "otherx")


def test_a_request_refuses_what_the_engine_was_not_built_for(engine, file):
    params = SamplingParams(max_tokens=4)
    method = f"specbranch:gamma=4,hrad={file}"
    one_sentence(lambda: engine.generate("a", params, method=method), "hrad off", file)


def test_demo_is_the_file_beside_a_demo_draft(folders):
    method = methods.parse("specbranch:hrad=demo")
    for name in (demo_pair.DRAFT, demo_pair.POOR):
        folder = demo_pair.FOLDER / name
        assert hrad.locate(method, folder) == folder / "hrad.safetensors"
    one_sentence(lambda: hrad.locate(method, folders[1]), "hrad=demo", folders[1])
    one_sentence(lambda: hrad.locate(method, None), "hrad=demo")


def test_gamma_is_the_file_s_where_none_is_given(file):
    def fitted(text, gamma=None):
        return hrad.fitted(methods.parse(text, gamma=gamma or 4), gamma, None).gamma

    assert fitted(f"specbranch:hrad={file}") == 7
    assert fitted(f"specbranch:hrad={file}", gamma=5) == 5  # to be refused
    assert fitted(f"specbranch:gamma=3,hrad={file}") == 3
    assert fitted("specbranch") == 4


def test_a_sweep_keeps_the_gamma_of_a_classifier(file):
    method = hrad.fitted(methods.parse(f"specbranch:hrad={file}"), None, None)
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


def test_train_and_eval_from_the_command_line(capsys, tmp_path):
    pytest.importorskip("torch", reason="training needs torch")
    samples_of(largest).save(tmp_path / "x")
    x, h = str(tmp_path / "x"), str(tmp_path / "h")
    assert cli.main(["hrad", "train", x, "--out", h, "--rate", "3e-3", "--epochs", "5"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("epoch ") for line in out) == 5
    assert cli.main(["hrad", "eval", x, "--hrad", h, "--json"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    assert (line["samples"], line["held_out"]) == (200, True)
    assert line["accuracy"] == sum(line["confusion"][i][i] for i in range(3)) / 200
    assert cli.main(["hrad", "eval", x, "--hrad", h]) == 0
    assert f"accuracy {line['accuracy']:.1%}" in capsys.readouterr().out
