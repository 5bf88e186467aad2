"""Contract under test, on a CUDA device: Gemma 3. A captured forward gives the same bits as its ops
run one by one. Its logits are those of plain torch on the CPU. A row's bits do not depend on its
index or its neighbours. Engines answer every method like plain decoding, alone and among others,
also with a draft of another family."""

from dataclasses import replace

import pytest
import torch

from sbrt import Engine, EngineConfig, SamplingParams, build_info
from sbrt.gpu.lane import GpuLane
from sbrt.gpu.ops import TORCH, TRITON
from sbrt.gpu.recorder import TapeRecorder
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import load
from sbrt.model.checkpoint import open_checkpoint
from sbrt.triton_kernels import state
from tests.common.tiny import config_of, noisy, random_weights, write_checkpoint

from .test_lane import Scene, check_a_graph, check_rows

pytestmark = pytest.mark.gpu
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# As in Gemma 3, heads are wide, and several share a KV head. Prompts are longer than the window.
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"], "hidden_size": 384, "intermediate_size": 1024,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "layer_types": [LOCAL, LOCAL, GLOBAL], "sliding_window": 64, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256, "max_position_embeddings": 1024,
}  # fmt: skip
LLAMA = {"num_hidden_layers": 1, "head_dim": 64, "max_position_embeddings": 1024}
METHODS = (
    "draft_model", "lookup", "pearl", "specbranch", "specbranch:on_miss=serial", "tree:nodes=15",
    "hedge:gamma=3,F=8,tree=2,nodes=15,burst_width=4",
)  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
KINDS = (GREEDY, replace(GREEDY, temperature=0.8, seed=3, top_p=0.9))
PROMPTS = [[i * 7 % 300 for i in range(first, first + 40 + 11 * first)] for first in range(8)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return {name: folder} of a target, a draft that often agrees with it, and a Llama."""
    base = tmp_path_factory.mktemp("gemma")
    weights = random_weights(config_of(**GEMMA), seed=1)
    others = {"target": weights, "draft": noisy(weights, 0.01, seed=2)}
    found = {
        name: write_checkpoint(base / name, weights=given, dtype="BF16", **GEMMA)
        for name, given in others.items()
    }
    return found | {"llama": write_checkpoint(base / "llama", dtype="BF16", **LLAMA)}


@pytest.fixture
def scene(folders):
    def made(rows, dtype="auto", ops=TRITON):
        weights = load(open_checkpoint(folders["target"]), dtype, torch.device("cuda"))
        return Scene(weights, rows, ops=ops)

    return made


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "int4"])
def test_a_graph_gives_the_bits_of_its_ops(scene, dtype, rows):
    check_a_graph(scene(rows, dtype), rows)


def test_a_graph_of_nine_nodes_a_layer_does(scene):
    check_a_graph(scene(16, ops=replace(TRITON, fused=False)), 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_row_does_not_depend_on_its_index_or_neighbours(scene, dtype):
    check_rows(scene(16, dtype), 16)


def test_logits_are_those_of_the_cpu(folders, scene):
    """The ops of plain torch take the same table and KV on the CPU, in float32."""
    ours = scene(16, "float32")
    ours.set(list(range(9)))
    cpu = torch.device("cpu")
    weights = load(open_checkpoint(folders["target"]), "float32", cpu)
    lane = GpuLane(
        weights, LaneShape(1024, 64, 0, 0, False, False), TORCH, TapeRecorder(), 16, None
    )
    lane.buffers.kv.copy_(ours.kv)
    table = state.words(state.Batch())
    table.copy_(ours.table)
    lane.forward(table.data_ptr(), True)[0].replay()
    want = lane.buffers.logits[:9]
    error = (ours.replayed()[:9].cpu() - want).abs().max() / want.abs().max()
    assert error < 1e-4


def answers(engine, prompts, method):
    """Return the tokens of prompts that share rounds, greedy and then sampled."""
    return [
        [out.outputs[0].token_ids for out in engine.generate(prompts, params, method=method)]
        for params in KINDS
    ]


@pytest.mark.skipif(not build_info()["cuda"], reason="the core was built without CUDA")
@pytest.mark.parametrize("seats", [1, 8])
@pytest.mark.parametrize("draft", ["draft", "llama"])
def test_every_method_answers_like_plain_decoding(folders, draft, seats):
    config = EngineConfig(
        folders["target"], device="cuda", max_num_seqs=seats, skip_tokenizer_init=True,
        speculative={"model": folders[draft], "method": "specbranch"},
    )  # fmt: skip
    prompts = PROMPTS[:seats]
    with Engine(config, methods=METHODS) as engine:
        alone = [answers(engine, [prompt], "none") for prompt in prompts]
        want = [[each[kind][0] for each in alone] for kind in range(len(KINDS))]
        for method in ("none", *METHODS):
            assert answers(engine, prompts, method) == want, method
