"""Contract under test: recorded lanes give the tokens of plain decoding over the same recordings.
This holds for every method and family, sampled or greedy, after the ring has wrapped and up to a
stop token. In float32 the tokens are those of the CPU's engine, except where its two largest logits
are nearly tied."""

import numpy as np
import pytest

from sbrt import _probe

GAP = 1e-4  # tokens may differ where the CPU's two largest logits are closer than this
# Largest error, relative to the largest logit. torch and the CPU's engine add in different orders.
TOLERANCE = 1e-5
TOKENS, MANY = 8, 24
# Number of tokens that make Mistral's ring of 88 slots wrap, after a prompt of 60 tokens.
LONG = 34


@pytest.fixture(scope="module")
def plays(tools, checkpoints):
    """Return {family: Play}; the tests of a family share one set of recordings."""
    found = {family: tools.Play(*map(tools.recorded, pair)) for family, pair in checkpoints.items()}
    yield found
    for play in found.values():
        play.close()


@pytest.fixture(scope="module")
def plain(tools, plays):
    """Return {(family, temperature): answer of plain decoding}."""
    return {
        (family, temperature): play.answer(tools.prompt(40), "none", temperature, TOKENS)
        for family, play in plays.items()
        for temperature in (0.0, 0.8)
    }


def cpu_logits(checkpoint, tokens, max_len):
    """Return the logits of the CPU's decoder, [tokens, vocab]."""
    probe = _probe.LaneProbe(checkpoint.decoder("float32"), max_len, 64, 0, 0, 1)
    return logits_of(probe, tokens)


def logits_of(probe, tokens):
    """Return the logits of tokens that form one path, computed in forwards of 16 rows."""
    found = []
    for head in range(0, len(tokens), 16):
        part = tokens[head : head + 16]
        rows = [
            (t, head + j, probe.slot(head + j), -1, (2 << j) - 1, 0) for j, t in enumerate(part)
        ]
        found.append(probe.forward(head, rows))
    return np.concatenate(found)


@pytest.mark.parametrize("products", ["fused", "cublas"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])
def test_logits_are_those_of_the_cpu_engine(tools, checkpoints, family, products):
    target, _ = checkpoints[family]
    tokens = tools.prompt(120, seed=3)
    want = cpu_logits(target, tokens, tools.max_len)
    model = tools.recorded(target, products=products)
    got = logits_of(_probe.LaneProbe(model, tools.max_len, 64, 0, 0, 1), tokens)
    error = np.abs(got - want) / np.abs(want).max()
    at = np.unravel_index(np.argmax(error), error.shape)
    assert error[at] < TOLERANCE, f"worst at {at}: {got[at]} for {want[at]}"


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])
def test_greedy_tokens_are_those_of_the_cpu_engine(tools, checkpoints, plays, family):
    target, _ = checkpoints[family]
    prompt = tools.prompt(40)
    given, _ = plays[family].answer(prompt, "none", 0.0, MANY)
    assert len(given) == MANY
    rows = cpu_logits(target, prompt + given, tools.max_len)[len(prompt) - 1 : -1]
    different = np.flatnonzero(rows.argmax(1) != given)
    if len(different):
        low, high = np.sort(rows[different[0]])[-2:]
        assert high - low < GAP, f"token {different[0]}: gap {high - low:.2e}"


# Each family runs with every method: two families greedily, two sampled.
CASES = [("Llama", 0.8), ("Mistral", 0.0), ("Qwen2", 0.8), ("Qwen3", 0.0)]
MORE_CASES = [("Llama", 0.0), ("Mistral", 0.8), ("Qwen2", 0.0), ("Qwen3", 0.8)]
MORE_CASES += [("Gemma3", 0.0), ("Gemma3", 0.8)]


@pytest.mark.parametrize(
    ("family", "temperature"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.exact) for case in MORE_CASES)],
)
def test_every_method_answers_like_plain_decoding(tools, plays, plain, family, temperature):
    totals = np.zeros(5, int)
    for method in tools.methods:
        given = plays[family].answer(tools.prompt(40), method, temperature, TOKENS)
        assert given == plain[family, temperature], method
        totals += plays[family].counters()
    rounds, drafted, accepted, branch_rounds, hits = totals
    assert rounds > 0
    assert 0 < accepted < drafted
    assert 0 < hits < branch_rounds


@pytest.mark.exact
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])
def test_every_method_answers_like_plain_decoding_for_long(tools, plays, family, temperature):
    want = plays[family].answer(tools.prompt(40), "none", temperature, MANY)
    for method in tools.methods:
        given = plays[family].answer(tools.prompt(40), method, temperature, MANY)
        assert given == want, method


@pytest.mark.parametrize("method", ["pearl", "hedge:gamma=3,F=4,tree=2,nodes=12"])
def test_the_ring_wraps(tools, plays, method):
    play = plays["Mistral"]
    want = play.answer(tools.prompt(60, seed=5), "none", 0.0, LONG)
    assert len(want[0]) == LONG
    assert play.answer(tools.prompt(60, seed=5), method, 0.0, LONG) == want


@pytest.mark.parametrize(
    "method", ["draft_model", "specbranch:k_max=3", "tree:gamma=3,width=4,nodes=12"]
)
def test_a_stop_token_ends_inside_a_chain(tools, plays, plain, method):
    tokens, _ = plain["Llama", 0.8]
    for stop in sorted(set(tokens[4:7])):
        want = tokens[: tokens.index(stop) + 1]
        given = plays["Llama"].answer(tools.prompt(40), method, 0.8, TOKENS, [stop])
        assert given == (want, "stop")


def test_the_sequence_ends_at_the_last_position(tools, plays):
    prompt = tools.prompt(tools.max_len - 9)
    want = plays["Qwen3"].answer(prompt, "none", 0.0, 50)
    assert len(want[0]) == 9
    assert want[1] == "length"
    for method in ("pearl", "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4"):
        assert plays["Qwen3"].answer(prompt, method, 0.0, 50) == want


def test_nine_nodes_a_layer_answer_like_their_own_plain_decoding(tools, checkpoints):
    play = tools.Play(*(tools.recorded(c, products="cublas") for c in checkpoints["Qwen2"]))
    want = play.answer(tools.prompt(20), "none", 0.8, TOKENS)
    for method in ("pearl", "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4"):
        assert play.answer(tools.prompt(20), method, 0.8, TOKENS) == want
    play.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers_like_its_own_plain_decoding(tools, checkpoints, dtype):
    play = tools.Play(*(tools.recorded(c, dtype=dtype) for c in checkpoints["Qwen3"]))
    want = play.answer(tools.prompt(20), "none", 0.8, 12)
    for method in ("pearl", "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4"):
        assert play.answer(tools.prompt(20), method, 0.8, 12) == want
    play.close()
