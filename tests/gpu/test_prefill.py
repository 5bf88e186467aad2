"""Contract under test: a recorded lane processes a prompt in wide pieces, which depend only on the
prompt. Wide pieces must leave the same keys and values as narrow pieces, write nothing else, and
give the tokens of the CPU's engine. The requested attention backend is used, or refused with a
sentence."""

import inspect
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sbrt import Engine, EngineConfig, SamplingParams, _probe, methods
from sbrt.errors import InvalidInputError
from sbrt.gpu.memory import Arena, MemoryPlan
from sbrt.gpu.prefill import Lengths, flash_for, flash_plain, flash_torch, prefill_sizes
from sbrt.gpu.recorder import Tape
from sbrt.triton_kernels import state

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3")
CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
# {family: {length of a prompt: rows of its pieces}}. A ring has 160 + 64 slots. Mistral's ring has
# 24 + 64 slots, because the window is 24.
PIECES = {
    "Llama": {2: [64], 65: [64], 66: [128], 129: [128], 130: [256], 152: [256]},
    "Mistral": {2: [64], 65: [64], 66: [128], 89: [128], 90: [64, 64], 152: [64, 64, 64]},
}


def config_of(checkpoints, family, **more):
    return EngineConfig(
        checkpoints[family][0].folder, skip_tokenizer_init=True, num_threads=2, device="cuda",
        dtype="float32", speculative={"model": checkpoints[family][1].folder}, **more,
    )  # fmt: skip


# --- attention ---


def naive(q, k, v, rows, keys, window):
    """Return attention in float64, computed row by row; k and v are [slots, kv_heads, d]."""
    out = torch.zeros(rows, *q.shape[1:], dtype=torch.float64)
    for i in range(rows):
        last = keys - rows + i
        first = 0 if window is None else max(0, last - window + 1)
        for head in range(q.shape[1]):
            own = head // (q.shape[1] // k.shape[1])
            scores = k[first : last + 1, own].double() @ q[i, head].double() / q.shape[2] ** 0.5
            out[i, head] = scores.softmax(0) @ v[first : last + 1, own].double()
    return out


@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (7, 7), (7, 30), (8, 31)])
def test_rows_see_what_is_before_them(rows, keys, window):
    generator = torch.Generator().manual_seed(rows + keys)
    q = torch.randn(8, 6, 16, generator=generator)
    k, v = torch.randn(2, 40, 2, 16, generator=generator)
    k[keys:], v[keys:] = float("nan"), float("nan")
    starts = torch.tensor([0, rows, 0, keys], dtype=torch.int32)
    found = flash_plain(q, k, v, Lengths(starts, 8, 40, window))
    assert torch.allclose(found[:rows].double(), naive(q, k, v, rows, keys, window), atol=1e-5)


def table_of(tokens, first, capacity):
    """Return the row table of a piece of a prompt. `first` is the position of the first token of
    the piece."""
    table = state.Batch(head=(first,), n=len(tokens))
    for i, token in enumerate(tokens):
        row = table.row[i]
        row.position, row.token, row.branch, row.slot = first + i, token, -1, (first + i) % capacity
        row.chain = state.mask_of((1 << min(i + 1, 64)) - 1)
    return table


def fed(lane, words, tokens, width):
    """Process tokens in pieces of `width` rows. Return K and V of the ring, which was all NaN
    before."""
    lane.buffers.kv.fill_(float("nan"))
    pieces = {p.rows: p for p in lane.forward(words.data_ptr(), False)}
    for first in range(0, len(tokens), width):
        part = tokens[first : first + width]
        words.copy_(state.words(table_of(part, first, lane.capacity)))
        for name in ("h", "x", "normed", "qkv", "attended", "gate_up", "gated"):
            getattr(lane.buffers, name).fill_(float("nan"))
        pieces[width].replay()
    return lane.buffers.kv.clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_wide_pieces_leave_what_narrow_ones_leave(tools, checkpoints, family):
    seen = []
    model = tools.recorded(checkpoints[family][0], seen)
    probe = _probe.LaneProbe(model, tools.max_len, 64, 0, 0, 1)
    [lane] = seen
    tokens = tools.prompt(min(150, lane.capacity - 1), seed=2)
    words = state.words(state.Batch())
    want, got = (
        fed(lane, words, tokens, width) for width in (64, 256 if len(tokens) > 128 else 128)
    )
    filled = len(tokens)
    assert torch.isnan(want[..., filled:, :]).all()
    assert torch.isnan(got[..., filled:, :]).all()
    error = (got - want)[..., :filled, :].abs().max() / want[..., :filled, :].abs().max()
    assert error < 1e-5
    del probe


LENGTHS = [(family, length) for family in FAMILIES[:4] for length in (66, 150)] + [("Llama", 129)]
MORE_LENGTHS = [(family, 129) for family in FAMILIES[1:]] + [("Gemma3", 66), ("Gemma3", 150)]


@pytest.mark.parametrize(
    ("family", "length"),
    [*LENGTHS, *(pytest.param(*case, marks=pytest.mark.exact) for case in MORE_LENGTHS)],
)
def test_answers_are_those_of_the_cpu_engine(tools, checkpoints, family, length):
    target, draft = checkpoints[family]
    prompt = tools.prompt(length, seed=length)
    cpu = tools.Play(target.decoder("float32"), draft.decoder("float32"))
    ours = tools.Play(*map(tools.recorded, (target, draft)))
    # Mistral's ring wraps after the wide piece.
    tokens = 30 if (family, length) == ("Mistral", 66) else 6
    want = cpu.answer(prompt, "none", 0.0, tokens)
    for method in ("none", "pearl", "specbranch:k_max=3"):
        assert ours.answer(prompt, method, 0.0, tokens) == want
    assert ours.core.seat(0).prefilled_tokens == length - 1
    cpu.close()
    ours.close()


# --- pieces ---


def forwards(stand_in, engine, lane, prompt, method=None):
    """Return the number of rows of each graph that processed the prompt on this lane."""
    seen = len(stand_in.picks())
    engine.generate(prompt, GREEDY, method=method)
    picks = [said for name, said in stand_in.picks()[seen:] if name == lane]
    chooses = [i for i, said in enumerate(picks) if said[0] == "choose"]
    before = picks[: chooses[0] - 1] if chooses else picks  # later graphs are not prefill
    return [said[1] for said in before if said[0] == "forward"]


@pytest.mark.parametrize("family", PIECES)
def test_pieces_depend_on_the_prompt_alone(tools, stand_in, checkpoints, family):
    config = config_of(checkpoints, family, max_model_len=tools.max_len)
    with Engine(config) as engine:
        for length, want in PIECES[family].items():
            prompt = tools.prompt(length, seed=length)
            for method in (None, "none", "draft_model"):
                asked = None if method is None else methods.parse(method)
                assert forwards(stand_in, engine, "target", prompt, asked) == want, length
            assert forwards(stand_in, engine, "draft", prompt) == want, length


def test_every_width_is_recorded_as_far_as_the_ring_goes():
    assert prefill_sizes(None, 1 << 20) == [64]
    assert prefill_sizes(flash_plain, 64) == [64]
    assert prefill_sizes(flash_plain, 65) == [64, 128]
    assert prefill_sizes(flash_plain, 224) == [64, 128, 256]
    assert prefill_sizes(flash_plain, 1 << 20) == [64, 128, 256, 512]


def test_the_kernel_of_the_rounds_feeds_64_rows_at_a_time(tools, stand_in, checkpoints):
    config = config_of(
        checkpoints, "Llama", max_model_len=tools.max_len, attention_backend="triton"
    )
    with Engine(config) as engine:
        assert forwards(stand_in, engine, "target", tools.prompt(140)) == [64, 64, 64]


def test_progress_is_told_in_tokens(tools, checkpoints):
    play = tools.Play(*map(tools.recorded, checkpoints["Mistral"]))
    play.begin(tools.prompt(152), "pearl", 0.0, 3)
    assert play.core.seat(0).prefilled_tokens == 0
    told = set()
    while not play.core.run(seconds=1e-6) and not play.core.seat(0).finished:
        told.add(play.core.seat(0).prefilled_tokens)
    assert told <= {0, 64, 128, 151}
    assert play.core.seat(0).prefilled_tokens == 151
    play.close()


# --- attention backends ---


def test_what_cannot_attend_is_a_sentence(monkeypatch):
    monkeypatch.setattr("sbrt.gpu.prefill.architecture_of", lambda device: 75)
    cuda = torch.device("cuda")
    asked = {
        ("flash", cuda, torch.float16, 64): "expected one of auto, torch, flash-attn, triton",
        ("torch", cuda, torch.float32, 64): "expected float16 or bfloat16, got float32",
        ("torch", cuda, torch.float16, 512): "expected a head_dim of 8, 16, ... 256, got 512",
        ("torch", cuda, torch.float16, 64): "expected a device of sm_80 or later, got sm_75",
        ("flash-attn", cuda, torch.float16, 64): "expected the package of that name",
    }
    for given, sentence in asked.items():
        with pytest.raises(InvalidInputError, match=sentence):
            flash_for(*given)
    assert flash_for("auto", cuda, torch.float32, 64) is None
    assert flash_for("auto", cuda, torch.float16, 64) is None
    monkeypatch.setattr("sbrt.gpu.prefill.architecture_of", lambda device: 90)
    assert flash_for("auto", cuda, torch.bfloat16, 64) is flash_torch
    assert flash_for("triton", cuda, torch.bfloat16, 64) is None
    assert flash_for("auto", CPU, torch.float32, 64) is flash_plain


def test_an_engine_says_that_the_package_is_missing(stand_in, checkpoints):
    with pytest.raises(InvalidInputError, match=r"attention_backend flash-attn: .* not installed"):
        Engine(config_of(checkpoints, "Llama", attention_backend="flash-attn"))


def test_the_package_is_called_as_it_wants_to_be(monkeypatch):
    """A stand-in for the package flash_attn checks its arguments, and computes the result in plain
    torch. The result must be equal to flash_plain's."""
    asked = []

    def attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
               softmax_scale=None, causal=False, window_size=(-1, -1)):  # fmt: skip
        assert (dropout_p, softmax_scale, causal) == (0.0, None, True)
        asked.append((cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), max_seqlen_q, max_seqlen_k))
        window = None if window_size[0] < 0 else window_size[0] + 1
        assert window_size[1] == 0
        starts = torch.cat([cu_seqlens_q, cu_seqlens_k])
        return flash_plain(q, k, v, Lengths(starts, max_seqlen_q, max_seqlen_k, window))

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=attend))
    monkeypatch.setattr("sbrt.gpu.prefill.architecture_of", lambda device: 90)
    flash = flash_for("flash-attn", torch.device("cuda"), torch.bfloat16, 16)
    q, (k, v) = torch.randn(8, 4, 16), torch.randn(2, 40, 2, 16)
    for window in (None, 6):
        lengths = Lengths(torch.tensor([0, 5, 0, 30], dtype=torch.int32), 8, 40, window)
        assert torch.equal(flash(q, k, v, lengths), flash_plain(q, k, v, lengths))
    assert asked == [([0, 5], [0, 30], 8, 40)] * 2


def test_torch_has_the_op_as_it_is_called():
    """torch's flash attention cannot run without a device. So the test compares the schema of
    torch's op with the call in flash_torch."""
    schema = torch.ops.aten._flash_attention_forward.default._schema
    names = [a.name for a in schema.arguments]
    assert names[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p",
        "is_causal", "return_debug_mask",
    ]  # fmt: skip
    source = inspect.getsource(flash_torch)
    given = {a.name for a in schema.arguments if a.kwarg_only and f"{a.name}=" in source}
    assert given == {"scale", "window_size_left", "window_size_right"}


# --- memory ---


def test_what_is_reserved_counts_and_is_not_taken():
    plan = MemoryPlan("lane")
    plan.add("a", "first", (3,), torch.float32)
    plan.reserve("prefill", "flash", 1000)
    plan.add("a", "second", (5,), torch.int32)
    arena = Arena(plan, CPU, budget=plan.bytes)
    assert plan.bytes == 256 + 1024 + 256
    assert arena.memory.numel() == 512
    assert arena["second"].data_ptr() - arena["first"].data_ptr() == 256
    with pytest.raises(InvalidInputError, match="prefill"):
        Arena(plan, CPU, budget=plan.bytes - 1)


def test_features_are_of_verified_rows_alone(tools, checkpoints, monkeypatch):
    """A lane keeps the features of 64 rows of a round, not those of a whole prompt. Features cannot
    be read while a round is in flight."""
    seen, goes_on, replay = [], threading.Event(), Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda tape: (goes_on.wait(), replay(tape)))
    goes_on.set()
    play = tools.Play(*(tools.recorded(c, seen) for c in checkpoints["Llama"]), keep_features=True)
    prompt = tools.prompt(140)
    assert play.answer(prompt, "none", 0.0, 4)[1] == "length"
    assert np.isfinite(play.core.seat(0).features()).all()
    play.begin(prompt, "none", 0.0, 40)
    while play.core.seat(0).prefilled_tokens < 139:
        play.core.run(seconds=1e-3)
    goes_on.clear()
    while play.core.run(seconds=1e-3):
        pass
    with pytest.raises(InvalidInputError, match="expected no round in flight"):
        play.core.seat(0).features()
    goes_on.set()
    assert seen[0].buffers.features.shape[0] == 64
    play.close()
