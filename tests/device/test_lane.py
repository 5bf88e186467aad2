"""Contract under test, on a CUDA device: a captured forward gives the same bits as its ops run one
by one, even if the row table changes after the capture. A row's bits do not depend on its index or
its neighbours. Every method gives the answers of plain decoding, for any request and any priority
of the streams."""

from dataclasses import replace

import pytest
import torch

from sbrt import Engine, EngineConfig, SamplingParams, build_info
from sbrt.gpu.decoder import Rows
from sbrt.gpu.lane import GpuLane
from sbrt.gpu.ops import TRITON
from sbrt.gpu.recorder import CudaRecorder, Tape, exact_products
from sbrt.gpu.store import LaneShape
from sbrt.gpu.weights import random_weights
from sbrt.model.config import ModelConfig
from sbrt.model.demo_pair import demo_folder
from sbrt.tools.prompts import BUILT_IN
from sbrt.triton_kernels import state

pytestmark = pytest.mark.gpu
HEAD = 300
LLAMA = {
    "architecture": "LlamaForCausalLM", "rms_eps": 1e-5, "rope_theta": 5e5, "tied": True,
    "max_positions": 1024,
}  # fmt: skip
SIZES = {
    "small": ModelConfig(hidden=512, inner=1408, layers=3, heads=8, kv_heads=4, head_dim=64,
                         vocab=5003, **LLAMA),
    "1b": ModelConfig(hidden=2048, inner=8192, layers=2, heads=32, kv_heads=8, head_dim=64,
                      vocab=128_256, **LLAMA),
    "8b": ModelConfig(hidden=4096, inner=14336, layers=2, heads=32, kv_heads=8, head_dim=128,
                      vocab=128_256, **LLAMA),
}  # fmt: skip
METHODS = (
    "draft_model", "lookup", "pearl", "specbranch", "specbranch:on_miss=serial",
    "hedge:gamma=3,F=8,tree=2,nodes=15,on_miss=continue", "tree:nodes=15",
)  # fmt: skip


class Scene:
    """A target lane whose ring has random KV, and a row table that can be changed.

    size: a name of SIZES for random weights, or the weights themselves.
    """

    def __init__(self, size, rows, dtype=torch.bfloat16, ops=TRITON, storage="auto"):
        device, weights = torch.device("cuda"), size
        if isinstance(size, str):
            weights = random_weights(SIZES[size], dtype, device, storage=storage)
        self.config = weights.config
        shape = LaneShape(1024, 64, 0, 0, False, False)
        self.recorder = CudaRecorder(device)
        self.lane = GpuLane(weights, shape, ops, self.recorder, rows, None)
        self.lane.buffers.kv.normal_(generator=torch.Generator(device).manual_seed(1))
        self.kv = self.lane.buffers.kv.clone()
        self.table = state.words(state.Batch(), device)
        self.rows = rows
        self.piece = self.lane.forward(self.table.data_ptr(), True)[0]

    def set(self, tokens, head=HEAD):
        """Write the row table. Each row is a child of the root, so it sees the trunk and itself."""
        table = state.Batch(head=(head,), n=len(tokens))
        for i, token in enumerate(tokens):
            row = table.row[i]
            row.position, row.token, row.branch = head, token, -1
            row.slot, row.chain = (head + i) % self.lane.capacity, state.mask_of(1 << i)
        self.table.copy_(state.words(table))
        self.lane.buffers.kv.copy_(self.kv)

    def replayed(self):
        """Replay the graph; return the logits of its rows."""
        self.lane.buffers.logits.fill_(float("nan"))
        torch.cuda.synchronize()
        with torch.cuda.stream(self.recorder.stream):
            self.piece.replay()
        torch.cuda.synchronize()
        return self.lane.buffers.logits[: self.rows].clone()

    def eager(self):
        """Run the graph's ops one by one; return the logits of the rows."""
        tape = Tape()
        count = self.rows
        rows = Rows(self.table, 0, count, self.lane.sights(count))
        self.lane.few.forward(tape, rows, True)
        torch.cuda.synchronize()
        with exact_products(), torch.cuda.stream(self.recorder.stream):
            tape.replay()
        torch.cuda.synchronize()
        return self.lane.buffers.logits[:count].clone()


def tokens_of(scene, n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, scene.config.vocab, (n,), generator=generator).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [16, 64])
def test_a_graph_gives_the_bits_of_its_ops(rows, dtype):
    check_a_graph(Scene("small", rows, dtype), rows)


def test_a_graph_of_nine_nodes_a_layer_does():
    check_a_graph(Scene("small", 16, ops=replace(TRITON, fused=False)), 16)


@pytest.mark.parametrize("rows", [16, 32, 64])
@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_graph_of_quantised_weights_does(storage, rows):
    check_a_graph(Scene("small", rows, storage=storage), rows)


def check_a_graph(scene, rows):
    for head, n in ((HEAD, rows), (0, 1), (961, 5), (HEAD, rows - 1)):
        tokens = tokens_of(scene, n, seed=n)
        scene.set(tokens, head)
        want = scene.eager()[:n]
        scene.set(tokens, head)
        assert torch.equal(scene.replayed()[:n], want), (head, n)
        assert want.isfinite().all()


@pytest.mark.parametrize("rows", [16, 32, 64])
@pytest.mark.parametrize("size", ["1b", "8b"])
def test_a_row_does_not_depend_on_its_index_or_neighbours(size, rows):
    check_rows(Scene(size, rows), rows)


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_row_of_quantised_weights_does_not(storage):
    check_rows(Scene("1b", 16, storage=storage), 16)


def check_rows(scene, rows):
    scene.set([7])
    alone = scene.replayed()[0]
    assert alone.isfinite().all()
    for i in range(rows):
        tokens = tokens_of(scene, rows, seed=i)
        tokens[i] = 7
        scene.set(tokens)
        got = scene.replayed()[i]
        assert torch.equal(got, alone), f"row {i}: {(got - alone).abs().max()}"


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("size", ["1b", "8b"])
def test_a_layer_has_at_most_ten_nodes_in_the_graph_itself(size, rows, capsys):
    """A layer has at most ten graph nodes. The test asks the driver for the number of nodes,
    because a matrix product may be more than one kernel."""
    scene = Scene(size, rows)
    layers = scene.config.layers
    fewer = replace(scene.lane.weights.config, layers=layers - 1)
    weights = replace(scene.lane.weights, config=fewer, layers=scene.lane.weights.layers[:-1])
    shape = LaneShape(1024, 64, 0, 0, False, False)
    lane = GpuLane(weights, shape, TRITON, scene.recorder, rows, None)
    other = lane.forward(scene.table.data_ptr(), True)[0]
    each = scene.piece.nodes - other.nodes
    with capsys.disabled():
        print(f"\n{size}, {rows} rows: {each} nodes a layer, {other.nodes - each} beside them")
    assert each <= 10


def test_a_recording_allocates_nothing_and_keeps_pointers():
    scene = Scene("small", 16)
    scene.set([1, 2, 3])
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with torch.cuda.stream(scene.recorder.stream):
        scene.piece.replay()
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert scene.piece.graph != 0


# --- engines ---

on_device = pytest.mark.skipif(not build_info()["cuda"], reason="the core was built without CUDA")
KINDS = {
    "greedy": SamplingParams(temperature=0),
    "sampled": SamplingParams(temperature=0.8),
    "filtered": SamplingParams(temperature=0.8, top_p=0.9, top_k=40, min_p=0.01),
    "shaped": SamplingParams(
        temperature=0.8, repetition_penalty=1.2, frequency_penalty=0.2, logit_bias={40: 2.0},
        min_tokens=8,
    ),
}  # fmt: skip


def engine(eager=False, **more):
    """Return an engine on the demo pair with all methods of METHODS."""
    config = EngineConfig(
        demo_folder("target"), device="cuda", enforce_eager=eager,
        speculative={"model": demo_folder("draft"), "method": "specbranch"},
    )  # fmt: skip
    return Engine(config, methods=METHODS, **more)


def answers(made, method, params, count, tokens):
    """Return the ids of `count` answers, each with a different prompt and seed."""
    prompts = [f"# {i}\n{text}" for i in range(count) for text in BUILT_IN][:count]
    each = [replace(params, seed=i, max_tokens=tokens) for i in range(count)]
    outputs = made.generate(prompts, each, method=method)
    return [o.outputs[0].token_ids for o in outputs]


@on_device
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_answers_like_plain_decoding(kind):
    """This test compares ten prompts; tests.device.exact compares two hundred."""
    with engine() as made:
        plain = answers(made, "none", KINDS[kind], 10, 64)
        assert any(plain)
        for method in METHODS:
            assert answers(made, method, KINDS[kind], 10, 64) == plain, method


@on_device
def test_no_method_depends_on_the_graphs():
    found = []
    for eager in (False, True):
        with engine(eager=eager) as made:
            found.append([answers(made, m, KINDS["sampled"], 3, 32) for m in ("none", *METHODS)])
    assert found[0] == found[1]


@on_device
def test_no_method_depends_on_which_stream_goes_first():
    found = []
    for draft_first in (True, False):
        with engine(draft_first=draft_first) as made:
            found.append([answers(made, m, KINDS["sampled"], 5, 64) for m in ("none", *METHODS)])
    assert found[0] == found[1]
    assert all(each == found[0][0] for each in found[0])


@on_device
def test_two_engines_of_a_method_each_side_by_side():
    want = None
    with engine() as one, engine() as two:
        for _ in range(2):
            given = [answers(made, "pearl", KINDS["sampled"], 3, 64) for made in (one, two)]
            want = want or given[0]
            assert given == [want, want]
