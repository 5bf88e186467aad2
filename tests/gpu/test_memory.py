"""Contract under test: the plan of a lane's memory counts every byte, and is checked before any
memory is allocated. A plan above its budget and an impossible lane are refused in one sentence."""

import pytest
import torch

from sbrt import InvalidInputError, _core, _probe
from sbrt.gpu.lane import model_of
from sbrt.gpu.memory import ALIGNED, Arena, MemoryPlan, readable, words_at


def plan_of(*items):
    plan = MemoryPlan("a lane")
    for item in items:
        plan.add(*item)
    return plan


def test_buffers_lie_side_by_side_and_are_zero():
    plan = plan_of(
        ("KV ring", "kv", (2, 3, 5), torch.float32),
        ("activations", "h", (7,), torch.bfloat16),
        ("activations", "n", (), torch.int64),
    )
    assert plan.bytes == 3 * ALIGNED
    assert plan.parts() == {"KV ring": ALIGNED, "activations": 2 * ALIGNED}
    arena = Arena(plan, torch.device("cpu"))
    begin = arena.memory.data_ptr()
    assert [arena[n].data_ptr() - begin for n in ("kv", "h", "n")] == [0, ALIGNED, 2 * ALIGNED]
    assert [tuple(arena[n].shape) for n in ("kv", "h", "n")] == [(2, 3, 5), (7,), ()]
    assert not arena.memory.any()
    assert arena.names("activations") == ["h", "n"]


def test_a_plan_says_what_it_is_made_of():
    plan = plan_of(("KV ring", "kv", (2**20,), torch.float32), ("logits", "l", (3,), torch.int8))
    assert plan.describe() == "a lane: KV ring 4.0 MiB, logits 256 bytes, in all 4.0 MiB"
    assert readable(3 * 2**29) == "1.5 GiB"
    with pytest.raises(ValueError, match="new name but got kv"):
        plan.add("KV ring", "kv", (1,), torch.int8)


@pytest.mark.parametrize("part", ["weights", "target lane", "draft lane"])
def test_what_does_not_fit_is_refused(tools, checkpoints, part):
    target, _ = checkpoints["Llama"]
    lanes = []
    tools.Play(*(tools.recorded(target, lanes) for _ in range(2))).close()
    weights, lane = lanes[0].weights.plan.bytes, lanes[part == "draft lane"].memory.bytes
    enough = weights + lane
    given = {"weights": weights - 1}.get(part, enough - 1)
    with pytest.raises(InvalidInputError, match=r"^memory: expected at most .* in all ") as caught:
        tools.Play(
            tools.recorded(target, memory=given if part != "draft lane" else None),
            tools.recorded(target, memory=given if part == "draft lane" else None),
        )
    assert "\n" not in str(caught.value)
    if part == "target lane":
        tools.Play(tools.recorded(target, memory=enough), None).close()


def test_a_lane_describes_itself(tools, checkpoints):
    lanes = []
    tools.Play(*(tools.recorded(c, lanes) for c in checkpoints["Mistral"])).close()
    lines = [lane.describe().splitlines() for lane in lanes]
    for found, name in zip(lines, ("target lane", "draft lane"), strict=True):
        assert found[0].startswith("MistralForCausalLM of 2 layers: weights ")
        for part in ("KV ring", "activations", "logits", "attention", "products", "choice"):
            assert f" {part} " in found[1]
        assert ", in all " in found[1]
        assert found[1].startswith(name)
    target = lanes[0]
    assert target.capacity == 24 + 64
    assert target.buffers.kv.shape == (2, 2, 2, 88, 16)


def refused(call, *words):
    with pytest.raises(InvalidInputError) as caught:
        call()
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_what_a_lane_cannot_be_is_refused(tools, checkpoints, tmp_path):
    target, _ = checkpoints["Llama"]
    refused(lambda: tools.recorded(target, rows=20), "rows", "16, 32, 64", "20")
    refused(lambda: tools.recorded(target, ops="numpy"), "ops", "triton", "numpy")
    refused(lambda: tools.recorded(target, products="mkl"), "products", "fused, cublas", "mkl")
    refused(lambda: tools.recorded(target, dtype="int2"), "dtype", "int8", "int2")
    packed = {"dtype": "int8"}
    refused(lambda: tools.recorded(target, products="cublas", **packed), "products", "quantised")
    refused(lambda: tools.recorded(target, attention="torch", **packed), "attention", "quantised")
    odd = tools.write(tmp_path, head_dim=24)
    refused(lambda: tools.recorded(odd), "LlamaForCausalLM", "head_dim", "24")
    model = tools.recorded(target)
    refused(lambda: _probe.LaneProbe(model, 10**6, 64, 0, 0, 1), "max_len")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_there_is_one_sentence(checkpoints):
    with pytest.raises(_core.EngineError, match=r"^device: expected a CUDA device .* none \(torch"):
        model_of(checkpoints["Llama"][0], device="cuda")


def test_words_are_the_memory_itself():
    given = torch.tensor([1, 2, 3], dtype=torch.int32)
    seen = words_at(given.data_ptr(), 3, torch.device("cpu"))
    seen[1] = 7
    assert given.tolist() == [1, 7, 3]
