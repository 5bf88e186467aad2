"""Contract under test: a recording is frozen. Between replays all Python state of a lane may
change, and every activation may become NaN: no token may change. Padding rows write nothing. The
two lanes write disjoint memory. A method uses no larger graph than it needs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from sbrt import EngineError, _probe
from sbrt.gpu import decoder, fused, ops
from sbrt.gpu.recorder import Piece, Tape, TapeRecorder
from sbrt.triton_kernels import state
from sbrt.triton_kernels.linear import Terms

HEDGE = "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# Parts of a lane's memory that every forward or token choice writes before it reads them.
SCRATCH = ("activations", "logits", "features", "attention", "products", "choice")


@pytest.fixture(scope="module")
def lanes():
    """Return the list of the two lanes of `play`, target first."""
    return []


@pytest.fixture(scope="module")
def play(tools, checkpoints, lanes):
    found = tools.Play(*(tools.recorded(c, lanes) for c in checkpoints["Llama"]))
    yield found
    found.close()


@pytest.fixture
def table():
    """Return a row table in the CPU's memory. A test may give a lane its address."""
    return state.Batch()


def poison(lane):
    """Write NaN to the float buffers of a lane that are in SCRATCH. KV and weights keep their
    values."""
    for part in SCRATCH:
        for name in lane.arena.names(part):
            if lane.arena[name].dtype in (*FLOATS, torch.float64):
                lane.arena[name].fill_(float("nan"))


@pytest.mark.parametrize("method", ["none", "pearl", HEDGE])
def test_nan_in_every_buffer_changes_no_token(tools, play, lanes, method):
    prompt = tools.prompt(30)
    want = play.answer(prompt, method, 0.8, 8)
    play.begin(prompt, method, 0.8, 8)
    given = play.steps(lambda: [poison(lane) for lane in lanes])
    assert (given, play.core.seat(0).finish_reason) == want


def test_nothing_of_a_lane_in_python_is_asked_again(tools, checkpoints):
    seen = []
    models = [tools.recorded(c, seen) for c in checkpoints["Qwen2"]]
    play = tools.Play(*models)
    want = play.answer(tools.prompt(30), HEDGE, 0.0, 8)
    for lane in seen:
        vars(lane.decoder).clear()
        vars(lane).clear()
    del models
    assert play.answer(tools.prompt(30), HEDGE, 0.0, 8) == want
    play.close()


def test_a_tape_keeps_what_it_was_given():
    x, kept = torch.ones(3), []
    tape = Tape()
    tape(lambda tensor, scale: kept.append(float(tensor.sum() * scale)), x, scale=2)
    x.resize_(0)  # changes the Python object, not its memory
    tape.replay()
    assert kept == [6.0]


def bits(tensor):
    return tensor.view(torch.int32 if tensor.dtype.itemsize == 4 else torch.int16).clone()


def test_rows_of_padding_write_nothing(tools, checkpoints):
    seen = []
    probe = _probe.LaneProbe(
        tools.recorded(checkpoints["Qwen3"][0], seen), tools.max_len, 64, 0, 0, 1
    )
    [lane] = seen
    kv = lane.buffers.kv
    kv.fill_(float("nan"))
    before = bits(kv)
    used = [3, 9]
    rows = [(5, 3, 3, -1, 1, 0), (6, 4, -1, -1, 1, 0), (7, 9, 9, -1, 1, 0)]
    probe.forward(3, rows)
    changed = (bits(kv) != before).any(-1).any(0).any(0).any(0).nonzero().flatten().tolist()
    assert changed == used
    kv.fill_(float("nan"))
    probe.forward(3, [])
    assert torch.equal(bits(kv), before)


def test_choices_of_padding_are_not_written(play, lanes, table):
    words, scratch = (state.words(s) for s in (state.Sequence(), state.TargetScratch()))
    out = state.view(scratch, state.TargetScratch, "choice")
    out.fill_(-7)
    rows = state.view(scratch, state.TargetScratch, "batch")
    rows[state.offset(state.Batch, "n")] = 2
    lane = lanes[0]
    lane.buffers.logits.fill_(1.0)
    for piece in lane.choose(
        (rows.data_ptr(), words.data_ptr(), out.data_ptr()), lane.vocab, False, False
    ):
        piece.replay()
    assert out[:4].tolist() == [0, 0, 0, 0]
    assert set(out[4:].tolist()) == {-7}


# --- memory that is written ---

WRITTEN = {  # {op: indices or names of the arguments that the op writes}
    "embed_torch": ("out", "squares", "angles"),
    "linear_torch": ("out", "work", "terms"),
    "see_torch": (2,),
    "rms_norm_torch": ("out", "residual"),
    "rope_kv_write_torch": (0, 1, 2),
    "branch_attention_torch": ("out", "work"),
    "gate_mul_torch": ("out",),
    "choose_torch": ("out", "work"),
    "ring_settle_torch": (1,),
    **dict.fromkeys(
        ("matmul", "matmul_bias", "matmul_float32", "copy", "add", "subtract"), ("out",)
    ),
    "prefill_attention": ("out",),
}


def tensors(value):
    """Return the tensors of an argument that the op writes. For terms, these are K and V of the
    heads."""
    if isinstance(value, Terms):
        return [] if value.heads is None else [value.heads.k, value.heads.v]
    return [value] if isinstance(value, torch.Tensor) else list(vars(value).values())


def span(tensor):
    """Return the addresses [begin, end) of the memory that a view covers."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.dtype.itemsize


class Spy(TapeRecorder):
    """A recorder that keeps the tapes, the lists of recorded ops."""

    def __init__(self):
        self.tapes = []

    def record(self, function, rows, scratch=0):
        tape = Tape()
        function(tape)
        self.tapes.append(tape)
        return Piece(rows, len(tape.calls), tape.replay)


def result_of(lane, scratch):
    """Return the part of a lane's scratch memory that the token choice writes."""
    if lane.shape.is_draft:
        return state.view(scratch, state.DraftScratch, "dist")
    return state.view(scratch, state.TargetScratch, "choice")


def spans_written(lane, sequence, scratch):
    """Return a set of address ranges [begin, end) that a lane's recordings write."""
    lane.recorder = Spy()
    is_draft = lane.shape.is_draft
    address = sequence.data_ptr()
    rows = scratch.data_ptr()  # scratch memory begins with the batch
    out = result_of(lane, scratch).data_ptr()
    lane.forward(rows, True)
    lane.forward(rows, False)
    for filters in (False, True):
        lane.choose((rows, address, out), lane.vocab, is_draft, filters)
    for which in range(3):
        lane.moves((address, address, address), which)
    found = set()
    for op, args, kwargs in (call for tape in lane.recorder.tapes for call in tape.calls):
        for place in WRITTEN[op.__name__]:
            value = args[place] if isinstance(place, int) else kwargs.get(place)
            if value is not None:
                found |= {span(t) for t in tensors(value) if t.numel()}
    return found


def inside(piece, whole):
    return whole[0] <= piece[0] and piece[1] <= whole[1]


def test_what_the_lanes_write_is_disjoint(play, lanes):
    sequence = state.words(state.Sequence())
    scratch = [state.words(kind()) for kind in (state.TargetScratch, state.DraftScratch)]
    written = [spans_written(*pair) for pair in zip(lanes, [sequence] * 2, scratch, strict=True)]
    arenas = [span(lane.arena.memory) for lane in lanes]
    fields = [span(result_of(lane, s)) for lane, s in zip(lanes, scratch, strict=True)]
    assert arenas[0][1] <= arenas[1][0] or arenas[1][1] <= arenas[0][0]
    for spans, arena, field in zip(written, arenas, fields, strict=True):
        assert len(spans) > 20
        assert any(inside(s, field) for s in spans)
        assert [s for s in spans if not inside(s, arena) and not inside(s, field)] == []


def test_weights_are_never_written(tools, play, lanes):
    before = [bits(lane.weights.embed) for lane in lanes]
    play.answer(tools.prompt(12), HEDGE, 0.0, 6)
    for lane, was in zip(lanes, before, strict=True):
        assert torch.equal(bits(lane.weights.embed), was)


# --- graphs ---


class Counting(TapeRecorder):
    """A recorder that counts the replays of graphs, by their number of rows."""

    def __init__(self):
        self.replayed = {}

    def record(self, function, rows, scratch=0):
        piece = super().record(function, rows)

        def replay():
            self.replayed[rows] = self.replayed.get(rows, 0) + 1
            piece.replay()

        return Piece(rows, piece.nodes, replay)


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("none", set()),
        ("pearl", {1}),
        ("specbranch:k_max=3", {1, 4}),
        ("hedge:gamma=3,F=4,tree=2,nodes=12,on_miss=continue", {16, 64}),
    ],
)
def test_the_method_alone_says_which_graph(tools, checkpoints, method, sizes):
    counts = [Counting(), Counting()]

    def model(checkpoint, counting):
        return tools.recorded(checkpoint, on_lane=lambda lane: setattr(lane, "recorder", counting))

    play = tools.Play(*map(model, checkpoints["Llama"], counts))
    play.answer(tools.prompt(20), method, 0.0, 8)
    play.close()
    target, draft = (counting.replayed for counting in counts)
    assert set(target) == {tools.rows, 64}  # tools.rows: verification; 64: prefill and KV moves
    assert set(draft) - {64} == sizes - {64}


@pytest.mark.parametrize(
    ("products", "expected"), [("fused", fused.LAYER_NODES), ("cublas", decoder.LAYER_NODES)]
)
def test_nodes_of_a_layer(tools, tmp_path, capsys, products, expected):
    counts = []
    for layers in (2, 3):
        seen = []
        checkpoint = tools.write(tmp_path / str(layers), num_hidden_layers=layers)
        _probe.LaneProbe(tools.recorded(checkpoint, seen, products=products), 64, 64, 0, 0, 1)
        rows = state.words(state.Batch())
        counts.append(seen[0].forward(rows.data_ptr(), True)[0].nodes)
    each = counts[1] - counts[0]
    with capsys.disabled():
        print(f"\n{each} graph nodes a layer, {counts[0] - 2 * each} beside them")
    assert each == expected


def test_five_nodes_are_the_default():
    assert fused.LAYER_NODES == 5
    assert ops.TRITON.fused
    assert ops.TORCH.fused


# --- failures ---


class Failing(TapeRecorder):
    """A recorder whose replays raise an error once: when the counter `left` reaches 0."""

    def __init__(self):
        self.left = -1

    def record(self, function, rows, scratch=0):
        piece = super().record(function, rows)

        def replay():
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("the device has gone")
            piece.replay()

        return Piece(rows, piece.nodes, replay)


@pytest.mark.parametrize("at", [1, 5, 17])
@pytest.mark.parametrize("lane", [0, 1])
def test_an_exception_reaches_the_caller(tools, checkpoints, at, lane):
    recorders = [TapeRecorder(), TapeRecorder()]
    recorders[lane] = Failing()

    def model(checkpoint, recorder):
        return tools.recorded(checkpoint, on_lane=lambda lane: setattr(lane, "recorder", recorder))

    play = tools.Play(*map(model, checkpoints["Llama"], recorders))
    want = play.answer(tools.prompt(12), "pearl", 0.0, 6)
    recorders[lane].left = at
    with pytest.raises(EngineError, match=r"^lane: RuntimeError: the device has gone$"):
        play.answer(tools.prompt(12), "pearl", 0.0, 6)
    assert play.answer(tools.prompt(12), "pearl", 0.0, 6) == want
    play.close()


def test_a_chain_of_more_nodes_changes_no_token(tools, checkpoints):
    """A graph of 16 rows holds a chain of 15 nodes. A larger chain uses a larger graph, up to 64
    rows. The answer must be that of plain decoding."""
    play = tools.Play(*map(tools.recorded, checkpoints["Llama"]))
    want = play.answer(tools.prompt(20), "none", 0.0, 8)
    assert play.answer(tools.prompt(20), "lookup:gamma=8", 0.0, 8) == want
    play.close()


DROPPED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    from conftest import Play, prompt_of, recorded, write
    base = Path({base!r})
    for how in ("close", "drop", "exit"):
        play = Play(recorded(write(base / "t")), recorded(write(base / "d", noise=0.03)))
        play.begin(prompt_of(60), "pearl", 0.0, 40)
        play.core.run(seconds=0.001)  # leaves a round, or the prefill, in flight
        if how == "close":
            play.close()
        elif how == "drop":
            del play
    print("ended")
"""


def test_dropping_a_runtime_at_work_does_not_attach(tmp_path, request):
    text = textwrap.dedent(DROPPED).format(folder=str(request.path.parent), base=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ended"), done.stderr


# --- features ---


def test_features_are_those_of_the_cpu_engine(tools, tmp_path):
    for layers in (2, 6):
        checkpoint = tools.write(tmp_path / str(layers), "Llama", num_hidden_layers=layers)
        found = []
        for model in (checkpoint.decoder("float32"), tools.recorded(checkpoint)):
            play = tools.Play(model, None, keep_features=True)
            answer = play.answer(tools.prompt(30), "none", 0.0, 4)
            found.append((answer, np.array(play.core.seat(0).features())))
            play.close()
        (want, rows), (given, mine) = found
        assert given == want
        assert mine.shape == rows.shape
        error = np.abs(mine - rows)
        assert error.max() < 1e-4, f"worst at {error.argmax()}: {mine[error.argmax()]}"
