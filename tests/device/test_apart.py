"""Contract under test, on a CUDA device: an engine whose draft has a memory of its own answers
every method like plain decoding in one memory. So does `auto`, which measures its costs. With one
device, both memories are on it. With two devices, each lane has its own device, and mail is
copied between the devices. A draft on the CPU uses the host's memory. Its threads wait for the
device, and the device waits for them."""

from dataclasses import replace

import pytest
import torch

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.demo_pair import demo_folder
from sbrt.tools.prompts import BUILT_IN

pytestmark = pytest.mark.gpu
METHODS = (
    "draft_model", "pearl", "specbranch", "specbranch:on_miss=serial", "tree:nodes=15",
    "hedge:gamma=3,F=8,tree=2,nodes=15,burst_width=4", "specbranch:lookup=1",
)  # fmt: skip
AUTO = ("auto:gamma=6,k_max=8",)
GREEDY = SamplingParams(temperature=0, max_tokens=48)
REQUESTS = {
    "greedy": GREEDY,
    "sampled": replace(GREEDY, temperature=0.8, seed=3, top_p=0.9),
    "shaped": replace(GREEDY, temperature=0.8, seed=4, repetition_penalty=1.2, min_tokens=5),
}


def config(draft_device, seats=1):
    speculative = {"model": demo_folder("draft"), "device": draft_device, "method": "specbranch"}
    return EngineConfig(
        demo_folder("target"), device="cuda:0", max_num_seqs=seats, speculative=speculative
    )


def answers(made, methods, seats=1):
    """Return {(method, kind of request): tokens of the first `seats` prompts}. The prompts share
    rounds."""
    found = {}
    with Engine(made, methods=[*METHODS, *methods]) as engine:
        for method in methods:
            for kind, params in REQUESTS.items():
                out = engine.generate(list(BUILT_IN[:seats]), params, method=method)
                found[method, kind] = [answer.outputs[0].token_ids for answer in out]
    return found


def check_same(draft_device, seats, methods=METHODS):
    plain = answers(config("cuda:0", seats), ["none"], seats)
    found = answers(config(draft_device, seats), methods, seats)
    assert found == {(method, kind): plain["none", kind] for method in methods for kind in REQUESTS}


@pytest.mark.parametrize("seats", [1, 3])
def test_two_memories_on_one_device(monkeypatch, seats):
    monkeypatch.setattr(EngineConfig, "is_apart", True)
    check_same("cuda:0", seats)


@pytest.mark.parametrize("seats", [1, 3])
def test_auto_with_two_memories(monkeypatch, seats):
    monkeypatch.setattr(EngineConfig, "is_apart", True)
    check_same("cuda:0", seats, AUTO)


@pytest.mark.parametrize("seats", [1, 3])
def test_auto_with_a_draft_next_to_it(seats):
    check_same("cpu", seats, AUTO)


@pytest.mark.parametrize("seats", [1, 3])
def test_a_draft_on_the_cpu(seats):
    check_same("cpu", seats)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two devices: expected 2, found fewer")
@pytest.mark.parametrize("seats", [1, 3])
def test_two_devices(seats):
    check_same("cuda:1", seats)
    check_same("cuda:1", seats, AUTO)
