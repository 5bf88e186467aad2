"""Contract under test: H-RAD's files and training. A written file is read back, equal contents give
equal bytes, and a wrong file is refused in one sentence. Labels come only from chains that nothing
shortens. Training is reproducible and learns."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sbrt import SamplingParams, methods
from sbrt.model import hrad
from sbrt.model.safetensors_file import encode, open_file
from sbrt.tools import cli
from sbrt.tools.hrad import data as hrad_data
from sbrt.tools.hrad.eval import confusion_of, judge, of_equal_rollback, unseen
from sbrt.tools.hrad.train import Plan, train
from sbrt.tools.measure import Tally
from sbrt.trace.spans import Round

HIDDEN = 32  # hidden size of the tiny pair


def samples_of(labels_from, prompts=20, each=50, hidden=4):
    """Return samples with random features. labels_from maps features to labels."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((prompts * each, hrad.inputs(hidden))).astype(np.float16)
    labels = labels_from(features.astype(np.float32)).astype(np.uint8)
    origin = hrad.Origin(4, hidden, "t" * 64, "d" * 64)
    owners = np.repeat(np.arange(prompts, dtype=np.int64), each)
    digests = np.array([hrad_data.digest_of(f"prompt {i}") for i in range(prompts)], np.int64)
    return hrad_data.Samples(origin, features, labels, owners, digests)


def test_a_classifier_is_read_back(hrad_file, hrad_origin, make):
    found = hrad.load(hrad_file)
    assert (found.origin, found.counts, found.data) == (hrad_origin, (1, 2, 3), "d" * 64)
    expected = make.classifier(hrad_file, hrad_origin).tensors
    assert list(found.tensors) == ["w1", "b1", "w2", "b2", "w3", "b3"]
    for name, value in expected.items():
        assert (found.tensors[name] == value).all()
    assert found.encode() == hrad_file.read_bytes()


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


def test_a_file_can_be_read_by_the_library(hrad_file):
    from safetensors import safe_open

    with safe_open(hrad_file, "pt") as found:
        assert found.metadata()["format"] == "sbrt-hrad-2"
        assert found.get_tensor("w1").shape == (256, hrad.inputs(HIDDEN))


def wrong_tensor(name, change):
    def spoil(tensors, metadata):
        return encode({**tensors, name: change(tensors[name])}, metadata)

    return spoil


def wrong_metadata(**changes):
    def spoil(tensors, metadata):
        given = {**metadata, **changes}
        return encode(tensors, {k: v for k, v in given.items() if v is not None})

    return spoil


def spoiled(value, number):
    found = value.copy()
    found.flat[-1] = number
    return found


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t, m: encode({n: v for n, v in t.items() if n != "b2"}, m), ["b2", "none"]),
        (lambda t, m: encode({**t, "more": t["b3"]}, m), ["more", "no such tensor"]),
        (wrong_tensor("w1", lambda v: v[:, 1:]), ["w1", "[256, 192]", "[256, 191]"]),
        (wrong_tensor("w3", lambda v: v.reshape(-1)), ["w3", "[3, 64]", "[192]"]),
        (wrong_tensor("b3", lambda v: v.astype(np.float16)), ["b3", "F32", "F16"]),
        (wrong_tensor("w2", lambda v: spoiled(v, np.nan)), ["w2", "finite"]),
        (wrong_tensor("b1", lambda v: spoiled(v, -np.inf)), ["b1", "finite"]),
        (wrong_metadata(format="sbrt-hrad-9"), ["sbrt-hrad-2", "sbrt-hrad-9"]),
        (wrong_metadata(format=None), ["sbrt-hrad-2", "None"]),
        (wrong_metadata(gamma="0"), ["gamma", "1"]),
        (wrong_metadata(gamma="64"), ["gamma", "63"]),
        (wrong_metadata(gamma="x"), ["gamma", "'x'"]),
        (wrong_metadata(gamma="7" * 5000), ["gamma"]),
        (wrong_metadata(hidden="31"), ["w1", "[256, 187]"]),
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
def test_a_malformed_file_is_refused(hrad_file, spoil, words, one_sentence):
    found = open_file(hrad_file)
    tensors = {n: found.array(n, e.dtype, e.shape) for n, e in found.tensors.items()}
    hrad_file.write_bytes(spoil(tensors, found.metadata))
    one_sentence(lambda: hrad.load(hrad_file), hrad_file, *words)


def test_metadata_of_another_kind_is_refused(hrad_file, make, one_sentence):
    make.write_file(hrad_file, {"__metadata__": ["sbrt-hrad-2"]})
    one_sentence(lambda: hrad.load(hrad_file), "sbrt-hrad-2")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind, one_sentence):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    one_sentence(lambda: hrad.load(path), path, "none")
    one_sentence(lambda: hrad_data.load_samples(path), path, "none")


def test_joined_samples_hold_out_the_same_prompts_of_every_file():
    warm = samples_of(lambda x: x[:, 0] > 0, prompts=7)
    warm = replace(warm, origin=replace(warm.origin, temperature=0.8))
    cold = samples_of(lambda x: x[:, 0] > 0, prompts=12)  # its first 7 prompts are those of `warm`
    both = hrad_data.joined([cold, warm])
    assert both.origin == warm.origin
    assert len(both.labels) == len(cold.labels) + len(warm.labels)
    assert sorted(both.digests) == sorted(cold.digests)
    owners = both.digests[both.prompts]
    assert (owners == np.concatenate([p.digests[p.prompts] for p in (cold, warm)])).all()
    held = set(owners[both.held_out()])
    assert held
    assert not held & set(owners[~both.held_out()])


def test_samples_of_another_pair_are_not_joined(one_sentence):
    one = samples_of(lambda x: x[:, 0] > 0)
    other = replace(one, origin=replace(one.origin, draft="e" * 64))
    one_sentence(lambda: hrad_data.joined([one, other]), "draft", "e" * 12)


def test_a_dear_class_is_said_less_often(tmp_path):
    samples = samples_of(lambda x: x[:, 0] + np.random.default_rng(3).normal(size=len(x)) > 0)
    said = []
    for drop_cost in (0.2, 1.0, 5.0):
        found, _ = train(samples, tmp_path / "h", Plan(epochs=2, drop_cost=drop_cost))
        logits = found.logits(samples.features.astype(np.float32))
        said.append(int((logits.argmax(1) == 0).sum()))
    assert said[0] > said[1] > said[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.full(1000, 3, np.uint8)}, ["labels", "below 3", "3"]),
        ({"labels": np.zeros(999, np.uint8)}, ["labels", "1000", "999"]),
        ({"prompts": np.full(1000, -1, np.int64)}, ["prompts", "-1"]),
        ({"prompts": np.full(1000, 20, np.int64)}, ["prompts", "20"]),
        ({"features": np.full((1000, 52), np.nan, np.float16)}, ["features", "finite"]),
        ({"features": np.zeros((1000, 53), np.float16)}, ["features", "52", "53"]),
        (
            {
                "features": np.zeros((0, 52), np.float16),
                "labels": np.zeros(0, np.uint8),
                "prompts": np.zeros(0, np.int64),
            },
            ["at least one sample"],
        ),
    ],
)
def test_malformed_samples_are_refused(tmp_path, change, words, one_sentence):
    replace(samples_of(lambda x: x[:, 0] > 0), **change).save(tmp_path / "x")
    one_sentence(lambda: hrad_data.load_samples(tmp_path / "x"), *words)


def test_a_classifier_is_no_samples_and_the_reverse(hrad_file, tmp_path, one_sentence):
    one_sentence(lambda: hrad_data.load_samples(hrad_file), "sbrt-hrad-samples-2", "sbrt-hrad-2")
    samples_of(lambda x: x[:, 0] > 0).save(tmp_path / "x")
    one_sentence(lambda: hrad.load(tmp_path / "x"), "sbrt-hrad-2", "sbrt-hrad-samples-2")


# --- labels ---


def rounds_of(*entries):
    """Return Rounds with the given entries: (depth, n, is_hit) or (depth, n, is_hit, tokens)."""
    return [
        Round(i, depth, n, 3, bool(hit), more[0] if more else n + 1)
        for i, (depth, n, hit, *more) in enumerate(entries)
    ]


@pytest.mark.parametrize(
    ("rounds", "labels"),
    [
        ([], []),
        ([(0, 0, 1)], []),  # no round verifies the tail that the hit adopts
        ([(0, 0, 1), (4, 0, 0)], [(0, 0)]),
        ([(0, 0, 1), (4, 1, 0)], [(0, 1)]),
        ([(0, 0, 1), (4, 3, 0)], [(0, 1)]),
        ([(0, 0, 1), (4, 4, 0)], [(0, 2)]),
        ([(0, 0, 0), (0, 0, 1), (4, 4, 1), (4, 2, 0), (0, 0, 0)], [(1, 2), (2, 1)]),  # a miss
        ([(0, 0, 1), (3, 3, 0)], []),  # max_tokens shortened the tail
        ([(0, 0, 1), (4, 4, 0, 4)], []),  # the sequence ended inside the chain
        ([(0, 0, 1), (4, 2, 0, 1)], []),
        ([(0, 0, 1), (4, 2, 0, 3)], [(0, 1)]),  # the sequence ended with the target's own token
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
    """An engine with given rounds. After round i, counted from 0, each feature has the value i +
    1."""

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
    """Return for each row the index of the largest of its first three features."""
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


def test_training_needs_prompts_to_hold_out(tmp_path, one_sentence):
    pytest.importorskip("torch", reason="training needs torch")
    one_sentence(lambda: train(samples_of(largest, prompts=4), tmp_path / "h", Plan()), "5", "4")


# --- evaluation ---


def test_confusion_counts_pairs():
    labels, said = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    assert confusion_of(labels, said) == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_samples_of_another_file_are_all_judged(tmp_path, make):
    samples = samples_of(largest)
    judgement = judge(make.classifier(tmp_path / "h", samples.origin), samples)
    assert (judgement.held_out, judgement.count) == (False, 1000)


def test_samples_of_others_are_refused(tmp_path, make, one_sentence):
    samples = samples_of(largest)
    given = make.classifier(tmp_path / "h", replace(samples.origin, gamma=5))
    one_sentence(lambda: judge(given, samples), "gamma 4", "5")


def test_prompts_of_training_are_left_out(tmp_path, make, one_sentence):
    samples = samples_of(largest)
    stranger = make.classifier(tmp_path / "h", samples.origin)
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
