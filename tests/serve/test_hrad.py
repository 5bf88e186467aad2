"""Contract under test: H-RAD in the core. The core reads a classifier's file and computes what
plain Python computes. The engine keeps the features that a classifier is trained on. The
classifier's decision shortens chains, and never changes a token."""

import json
from contextlib import contextmanager

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, SpeculativeConfig, methods
from sbrt.model import hrad
from sbrt.tools import cli
from sbrt.tools.hrad import data as hrad_data

GAMMA, HIDDEN = 3, 32
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
COINS = SamplingParams(temperature=0.8, seed=3, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def origin(folders):
    return hrad.origin_of(GAMMA, *folders)


@pytest.fixture
def opened(folders, origin, tmp_path, make):
    """Return a context manager: `with opened(favourite) as (engine, method)`.

    favourite: the class that the classifier always predicts; None: a random classifier.
    """

    @contextmanager
    def call(favourite=None, epsilon=0.0, keep_features=False):
        path = make.classifier(tmp_path / f"{favourite}", origin, favourite).path
        method = f"specbranch:epsilon={epsilon},k_max=4,gamma={GAMMA},hrad={path}"
        given = SpeculativeConfig(method=method, model=folders[1])
        config = EngineConfig(folders[0], speculative=given, num_threads=2)
        with Engine(config, keep_features=keep_features) as engine:
            yield engine, method

    return call


@pytest.mark.parametrize("hidden", [1, 7, 32, 300])
def test_the_core_computes_what_python_computes(tmp_path, hidden, make):
    given = make.classifier(tmp_path / "h", hrad.Origin(4, hidden, "t", "d"))
    x = np.random.default_rng(1).standard_normal((50, hrad.inputs(hidden)), np.float32)
    expected = given.logits(x.astype(np.float64))
    for row, wanted in zip(x, expected, strict=True):
        found = np.array(given.core.logits(row))
        # A logit is computed by three sums in float32. Together they add at most inputs + 256 + 64
        # products of order 1.
        assert np.abs(found - wanted).max() < 2**-23 * (hrad.inputs(hidden) + 320) * 4
        assert given.core.classify(row) == found.argmax()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("w1", lambda v: v[:, 1:]),
        ("b2", lambda v: v[1:]),
        ("w3", lambda v: v.T),
        ("b1", lambda v: v + np.float32(np.nan)),
        ("w2", lambda v: v * np.float32(np.inf)),
    ],
)
def test_the_core_refuses_tensors_that_cannot_be(tmp_path, name, change, make):
    given = make.classifier(tmp_path / "h", hrad.Origin(4, HIDDEN, "t", "d"))
    given.tensors[name] = change(given.tensors[name])
    with pytest.raises(InvalidInputError):
        _ = given.core


@pytest.mark.parametrize("params", [GREEDY, COINS], ids=["greedy", "coupled"])
@pytest.mark.parametrize("favourite", [None, 0, 1, 2])
def test_no_token_changes(opened, prompts, params, favourite):
    with opened(favourite, epsilon=0.3) as (engine, method):
        for prompt in prompts:
            [plain] = engine.generate(prompt, params, method="none")
            [cut] = engine.generate(prompt, params, method=method)
            assert cut.outputs[0].token_ids == plain.outputs[0].token_ids


def rounds_with(engine, prompt, method):
    engine.generate(prompt, GREEDY, method=method)
    return engine.rounds()


def test_nothing_keeps_no_node(opened, prompts):
    """The classifier always predicts class 0, which keeps no node of a tail. So the chain is empty
    after a hit, and nothing is ever rolled back."""
    with opened(0) as (engine, method):
        for prompt in prompts:
            rounds = rounds_with(engine, prompt, method)
            assert {r.depth for r in rounds} == {0}
            assert any(r.is_hit for r in rounds)


def test_all_keeps_every_node(opened, prompts):
    """The classifier always predicts class 2, which keeps the whole tail at any confidence. So the
    rounds are those of chains that nothing shortens."""
    with opened(2, epsilon=1.0) as (engine, method):
        for prompt in prompts:
            rounds = rounds_with(engine, prompt, method)
            plain = f"specbranch:epsilon=0,k_max=4,gamma={GAMMA},hrad=off"
            uncut = rounds_with(engine, prompt, plain)
            shown = [(r.depth, r.n, r.branches, r.is_hit, r.tokens) for r in rounds]
            assert shown == [(r.depth, r.n, r.branches, r.is_hit, r.tokens) for r in uncut]
            assert any(r.depth == GAMMA for r in rounds)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_some_leaves_it_to_confidence(opened, prompts, epsilon):
    with opened(1, epsilon=epsilon) as (engine, method):
        for prompt in prompts:
            rounds = rounds_with(engine, prompt, method)
            alone = f"specbranch:epsilon={epsilon},k_max=4,gamma={GAMMA},hrad=off"
            plain = rounds_with(engine, prompt, alone)
            shown = [(r.depth, r.n, r.branches, r.is_hit, r.tokens) for r in rounds]
            assert shown == [(r.depth, r.n, r.branches, r.is_hit, r.tokens) for r in plain]


def test_features_are_five_blocks_of_unit_mean_square(folders, make):
    given = SpeculativeConfig(method=f"specbranch:gamma={GAMMA},epsilon=0", model=folders[1])
    config = EngineConfig(folders[0], speculative=given, num_threads=1)
    embedding = make.weights(make.config(), seed=1)["model.embed_tokens.weight"]
    with Engine(config, keep_features=True) as engine:
        engine.add_request("a", "def quick(items):", GREEDY)
        while engine.has_unfinished_requests():
            [output] = engine.step()
            if output.finished:
                break
            blocks = engine.features()[: 5 * HIDDEN].reshape(5, HIDDEN)
            assert blocks.dtype == np.float32
            assert np.abs(np.sqrt((blocks**2).mean(1)) - 1).max() < 1e-3
            row = embedding[output.outputs[0].token_ids[-1]]
            assert np.abs(blocks[4] - row / np.sqrt((row**2).mean())).max() < 1e-4
            # The model has only two layers, so the first two blocks are both of the first layer.
            assert (blocks[0] == blocks[1]).all()
            assert (blocks[2] != blocks[3]).any()


def test_behind_them_stands_how_sure_the_draft_was_of_the_adopted_tail(folders):
    """The features end with two log probabilities for each node of the tail that a hit adopts.
    After a miss there is no such tail, and these features are 0."""
    given = SpeculativeConfig(method=f"specbranch:gamma={GAMMA},epsilon=0", model=folders[1])
    config = EngineConfig(folders[0], speculative=given, num_threads=1)
    seen = {True: 0, False: 0}
    with Engine(config, keep_features=True) as engine:
        engine.add_request("a", "def quick(items):", GREEDY)
        while engine.has_unfinished_requests():
            [output] = engine.step()
            if output.finished:
                break
            q, confidence = engine.features()[5 * HIDDEN :].reshape(2, hrad.TAIL)
            is_hit = engine.rounds()[-1].is_hit
            length = GAMMA if is_hit else 0
            assert (q[:length] < 0).all()
            assert (q[:length] >= -8).all()
            assert (confidence[:length] <= 0).all()
            assert (q[length:] == 0).all()
            assert (confidence[length:] == 0).all()
            seen[is_hit] += 1
    assert all(seen.values())


def test_features_do_not_depend_on_the_method(opened, prompts):
    """The target's features at the accepted node have the same bits with every method."""
    with opened(keep_features=True) as (engine, method):
        kept = []
        for name in (method, f"specbranch:gamma={GAMMA},k_max=1,epsilon=0.5,hrad=off"):
            engine.add_request("a", prompts[0], GREEDY, method=name)
            found = {}
            while engine.has_unfinished_requests():
                [output] = engine.step()
                if not output.finished:
                    # Only the target's features are compared, because the draft's confidence
                    # depends on the method.
                    target = engine.features()[: 5 * HIDDEN]
                    found[len(output.outputs[0].token_ids)] = target
            kept.append(found)
        both = kept[0].keys() & kept[1].keys()
        assert len(both) > 5
        for at in both:
            assert (kept[0][at] == kept[1][at]).all()


@pytest.mark.usefixtures("each_round")
def test_with_hrad_alone_features_are_there_when_no_round_is_in_flight(opened, prompts):
    """The next round of a stream runs while the caller reads. That round would overwrite the
    features, so the engine refuses to return them."""
    with opened() as (engine, method):
        stream = engine.stream(prompts[0], GREEDY, method=method)
        next(stream)
        next(stream)
        with pytest.raises(InvalidInputError, match="no round in flight"):
            engine.features()
        stream.close()
        engine.generate(prompts[0], GREEDY, method=method)
        assert engine.features().shape == (hrad.inputs(HIDDEN),)


def test_features_need_someone_who_keeps_them(engine):
    engine.generate("def", GREEDY)
    with pytest.raises(InvalidInputError):
        engine.features()


def test_collecting_twice_gives_the_same_samples(folders, origin, prompts):
    method = hrad_data.uncut(GAMMA)
    found = []
    for threads in (1, 2):
        given = SpeculativeConfig(method=method.text, model=folders[1])
        config = EngineConfig(folders[0], speculative=given, num_threads=threads)
        with Engine(config, keep_features=True) as engine:
            samples, skipped = hrad_data.collect(engine, prompts, GREEDY, origin)
        found.append(samples.encode())
        assert skipped == 0
        assert len(samples.labels) > 0
    assert found[0] == found[1]


def test_from_collect_to_eval(capsys, folders, tmp_path):
    pytest.importorskip("torch", reason="training needs torch")
    lines = [{"prompt": f"for i in range({i}):"} for i in range(12)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    x, h = str(tmp_path / "x"), str(tmp_path / "h")
    pair = ["--target", str(folders[0]), "--draft", str(folders[1]), "--ignore-eos"]
    some = [*pair, "--prompts", str(prompts), "--max-tokens", "32", "--threads", "1"]
    assert cli.main(["hrad", "collect", *some, "--gamma", str(GAMMA), "--out", x]) == 0
    assert cli.main(["hrad", "train", x, "--out", h, "--epochs", "2"]) == 0
    capsys.readouterr()
    assert cli.main(["hrad", "eval", x, "--hrad", h, *some, "--simulate", "--json"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    assert line["held_out"] is True
    simulated = line["simulated"]
    assert all(s["identical_to_none"] and s["device"] == "sim" for s in simulated)
    assert {s["prompts"] for s in simulated} == {2}  # every fifth of twelve prompts is held out
    cut = [s for s in simulated if s["options"].get("hrad", "off") == h]
    assert len(cut) == 6


def test_one_engine_serves_methods_with_and_without(opened):
    with opened() as (engine, method):
        for name in (method, "specbranch:hrad=off,k_max=2", "none", "pearl"):
            [output] = engine.generate("def f(", GREEDY, method=methods.parse(name, gamma=GAMMA))
            assert len(output.outputs[0].token_ids) == 40
