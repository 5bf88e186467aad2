"""Contract under test: with cpu_affinity each thread of a lane is pinned to a core of its own. Each
lane has a memory of its own. The tokens are those of any engine. Weights are read on the lane's
cores. EngineConfig refuses that both lanes share a core, but EngineCore allows it. So most tests
need only one core."""

import os
import sys
from dataclasses import replace

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, _core, _probe
from sbrt.model.checkpoint import Checkpoint
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.pair import load_pair
from tests.common import toys

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are pinned on Linux")
ALLOWED = sorted(os.sched_getaffinity(0))
FIRST, LAST = ALLOWED[0], ALLOWED[-1]  # equal if only one core is allowed
SIZES = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8, "max_width": 2}
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def threads():
    return {int(name) for name in os.listdir("/proc/self/task")}


def cores_of(tids):
    """Return a sorted list with the cores on which each thread may run."""
    return sorted(sorted(os.sched_getaffinity(tid)) for tid in tids)


def toy_core(**fields):
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
    return _core.EngineCore(*pair, **SIZES, **fields)


def pinned_core(target, draft):
    counts = {"num_threads": len(target) + len(draft), "draft_threads": len(draft)}
    return toy_core(target_cores=target, draft_cores=draft, draft_device=_core.ON_HOST, **counts)


@pytest.mark.parametrize("name", toys.POLICIES)
def test_two_teams_on_their_cores_have_the_same_tokens(name):
    def tokens(core):
        policy = _probe.policy(**toys.POLICIES[name])
        core.begin([1, 2, 3] * 20, _core.Sampling(temperature=0.8, seed=3), policy, 40)
        return core.run()

    before = threads()
    core = pinned_core([FIRST, LAST], [LAST])
    assert cores_of(threads() - before) == sorted([[FIRST], [LAST], [LAST]])
    assert tokens(core) == tokens(toy_core())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target_cores": [FIRST]}, "^draft_cores: expected some if there is a draft, got 0$"),
        ({"draft_cores": [FIRST], "draft_device": 1}, "^target_cores: expected some next to"),
        ({"draft_cores": [FIRST]}, "^draft_cores: expected a draft on the CPU with a memory"),
        (
            {"target_cores": [FIRST], "draft_cores": [FIRST], "draft_device": 1, "num_threads": 3},
            "^num_threads next to cores: expected 2 but got 3$",
        ),
        (
            {"target_cores": [1 << 12], "draft_cores": [FIRST], "draft_device": 1}
            | {"num_threads": 2},
            "^cores: expected those that this process may use, got 4096$",
        ),
        ({"backend": "cuda", "target_cores": [FIRST]}, "^target_cores: expected none on cuda"),
    ],
)
def test_the_core_refuses_other_sets(fields, said):
    with pytest.raises(InvalidInputError, match=said):
        toy_core(**fields)


def test_an_engine_without_a_draft_is_pinned():
    config = EngineConfig(demo_folder("target"), cpu_affinity=str(FIRST))
    before = threads()
    with Engine(config) as engine:
        assert engine.num_threads == 1
        assert cores_of(threads() - before) == [[FIRST]]
        assert engine.generate("def f(", GREEDY)[0].outputs[0].token_ids
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@pytest.fixture
def lanes_may_share_cores(monkeypatch):
    """EngineConfig refuses that both lanes share a core, which a machine with one core needs."""
    monkeypatch.setattr("sbrt.config.check_teams", lambda name, target, draft: None)


@pytest.mark.usefixtures("lanes_may_share_cores")
def test_an_engine_with_a_draft_answers_the_same(monkeypatch):
    """With pinned threads the tokens are those of plain decoding. If only one core is allowed, the
    teams of both lanes share it."""
    speculative = {"model": demo_folder("draft")}
    config = EngineConfig(demo_folder("target"), speculative=speculative, num_threads=2)
    with Engine(replace(config, speculative=None)) as engine:
        plain = engine.generate("def f(", GREEDY)[0].outputs[0].token_ids
    read = []
    decoder = Checkpoint.decoder

    def seen(self, *args, **more):
        read.append(sorted(os.sched_getaffinity(0)))
        return decoder(self, *args, **more)

    monkeypatch.setattr(Checkpoint, "decoder", seen)
    monkeypatch.setattr(EngineConfig, "cores", lambda self: ((FIRST,), (LAST,)))
    config = EngineConfig(demo_folder("target"), speculative=speculative)
    assert (config.is_apart, config.threads()) == (True, (2, 1))
    before = threads()
    with Engine(config) as engine:
        assert cores_of(threads() - before) == sorted([[FIRST], [LAST]])
        assert engine.method.name == "specbranch"
        assert engine.generate("def f(", GREEDY)[0].outputs[0].token_ids == plain
    assert read == [[FIRST], [LAST]]
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@pytest.mark.usefixtures("lanes_may_share_cores")
def test_a_pinned_engine_accepts_by_rejection_as_any_engine(monkeypatch):
    """Pinned threads give the same tokens as other threads. If only one core is allowed, the teams
    of both lanes share it."""
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=24)
    speculative = {"model": demo_folder("draft"), "method": "specbranch:acceptance=rejection"}
    config = EngineConfig(demo_folder("target"), speculative=speculative, num_threads=2)
    found = []
    for cores in (((), ()), ((FIRST,), (LAST,))):
        monkeypatch.setattr(EngineConfig, "cores", lambda self, cores=cores: cores)
        with Engine(replace(config, num_threads=2)) as engine:
            outputs = engine.generate(["def f(", "import os\n"], params)
        found.append([output.outputs[0].token_ids for output in outputs])
    assert found[0] == found[1]


def test_each_lane_reads_its_weights_on_cores_of_its_own(monkeypatch):
    """The test replaces the process's affinity mask by a variable, so that one core is enough."""
    mask, read = {0, 1}, []
    decoder = Checkpoint.decoder

    def set_mask(_, cores):
        mask.clear()
        mask.update(cores)

    def seen(self, *args, **more):
        read.append(sorted(mask))
        return decoder(self, *args, **more)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(mask))
    monkeypatch.setattr(os, "sched_setaffinity", set_mask)
    monkeypatch.setattr(Checkpoint, "decoder", seen)
    speculative = {"model": demo_folder("draft"), "cpu_affinity": "1"}
    config = EngineConfig(demo_folder("target"), cpu_affinity="0", speculative=speculative)
    assert load_pair(config).draft is not None
    assert (read, mask) == ([[0], [1]], {0, 1})
