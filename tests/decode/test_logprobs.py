"""Contract under test: log-probs come from the target's raw logits, of the row that decided a
token. They depend neither on the request's shaping nor on other requests of the round. A request
that does not ask for them launches no op for them. (fuzz.py and crowd.py compare them with the
reference.)"""

import pytest

from sbrt import EngineError, InvalidInputError, _core, _probe, reference
from tests.common.toys import POLICIES

TOY = {"vocab": 32, "seed": 7}
PROMPT = [1, 2, 3] * 30
SAMPLED = {"temperature": 0.8, "seed": 5}
SHAPING = {"repetition_penalty": 1.4, "logit_bias": [(3, 2.0)], "min_tokens": 5}
NEAR = 1e-5

every_method = pytest.mark.parametrize("method", POLICIES)


def make(backend="sim", target=None, **fields):
    toys = _core.Toy(**(TOY | (target or {}))), _core.Toy(**TOY, noise16=6)
    sizes = {"max_model_len": 200, "max_gamma": 4, "max_branches": 8, "max_width": 2}
    return _core.EngineCore(*toys, backend=backend, **(sizes | fields))


def start(core, method, sampling=SAMPLED, tokens=60, shaping=None, **asked):
    policy, shaping = _probe.policy(**POLICIES[method]), _core.Shaping(**(shaping or {}))
    asked = _core.Logprobs(**asked)
    return core.admit(PROMPT, _core.Sampling(**sampling), policy, tokens, [], shaping, asked)


def told(seat):
    """Return (tokens, their log-probs, log-probs of the prompt). The log-probs of a position are a
    list of (token, rank, value)."""
    found = []
    for columns in (seat.take_logprobs(), seat.prompt_logprobs()):
        rows = zip(*(column.tolist() for column in columns), strict=True)
        found.append([[e for e in zip(*row, strict=True) if e[0] >= 0] for row in rows])
    return seat.take(), *found


def answer(core, method, **request):
    seat = start(core, method, **request)
    while not seat.finished:
        core.advance()
    found = told(seat)
    seat.release()
    return found


def near(found, expected):
    assert [[e[:2] for e in row] for row in found] == [[e[:2] for e in row] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert [e[2] for e in row] == pytest.approx([e[2] for e in wanted], rel=0, abs=NEAR)


@every_method
@pytest.mark.parametrize("shaping", [{}, SHAPING], ids=["bare", "shaped"])
@pytest.mark.parametrize("sampling", [SAMPLED, {"temperature": 0.0}], ids=["sampled", "greedy"])
def test_they_are_those_of_plain_decoding_and_of_the_reference(method, sampling, shaping):
    given = {"sampling": sampling, "shaping": shaping, "output": 3, "prompt": 2}
    tokens, rows, prompt = answer(make(), method, **given)
    assert (tokens, rows, prompt) == answer(make(), "none", **given)
    toy = reference.Toy(**TOY)
    near(rows, reference.logprobs(toy, PROMPT + tokens, len(PROMPT), 3))
    near(prompt, reference.logprobs(toy, PROMPT, 1, 2))


@pytest.mark.parametrize("threads", [1, 2, 3])
@every_method
def test_no_thread_changes_a_bit(threads, method):
    expected = answer(make(), "none", output=32, prompt=1)
    core = make("cpu", num_threads=threads)
    assert answer(core, method, output=32, prompt=1) == expected


def test_holes_are_no_tokens():
    holes = [0, 5, 31]
    tokens, rows, _ = answer(make(holes=holes), "specbranch", output=40)
    toy = reference.Toy(**TOY)
    near(rows, reference.logprobs(toy, PROMPT + tokens, len(PROMPT), 40, holes))
    assert {len(row) for row in rows} == {1 + TOY["vocab"] - len(holes)}


def test_padding_at_the_end_of_the_vocabulary_is_no_token():
    """A target with 40 logits, of which 32 are tokens, has the results of a target with 32 logits.
    The toy's logit of a token does not depend on the number of logits."""
    tokens, rows, prompt = answer(make(target={"vocab": 40}, vocab=32), "pearl", output=9, prompt=9)
    assert (tokens, rows, prompt) == answer(make(), "none", output=9, prompt=9)


@pytest.mark.parametrize("method", ["none", "specbranch"])
def test_a_row_of_the_prompt_that_is_not_a_number(method):
    """A NaN row in the prompt ends a request for the prompt's log-probs with an error. It does not
    change other requests, which do not read that row."""
    core = make(target={"nan_at": 40})
    expected = answer(make(), method, output=1)
    assert answer(core, method, output=1) == expected
    seat = start(core, method, prompt=0)
    core.advance()
    assert (seat.finish_reason, *told(seat)[:2]) == ("error", [], [])
    assert "not a number" in seat.error
    seat.release()
    assert answer(core, method, output=1) == expected


def test_a_prompt_whose_log_probs_are_asked_for_is_fed_anew():
    core = make(reuses_prefixes=True)
    expected = answer(make(), "pearl", output=1, prompt=1)
    answer(core, "pearl")
    assert answer(core, "pearl", output=1, prompt=1) == expected
    assert core.seat(0).stats.reused == 0
    answer(core, "pearl", output=1)
    assert core.seat(0).stats.reused == len(PROMPT) - 1


def test_a_prompt_is_not_copied_from_another_seat_either():
    core = make(reuses_prefixes=True, max_num_seqs=2)
    first = start(core, "none", tokens=100)
    core.advance(5)
    second = start(core, "none", output=0, prompt=3)
    while not second.finished:
        core.advance(1)
    assert not first.finished
    assert second.stats.reused == 0
    assert told(second)[2] == answer(make(), "none", prompt=3)[2]


def launched(**asked):
    """Run a sequence on the dry backend. Return its op names, the conflicts that the order checker
    finds, and the conflicts that it finds if it ignores the host's waits."""
    core = make("dry")
    answer(core, "specbranch", **asked)
    order = core.order
    return {op[1] for op in order.ops()}, order.conflicts(), order.conflicts(host=False)


def test_who_does_not_ask_launches_no_op_for_it():
    kept = {"output_logprobs", "prompt_logprobs"}
    nothing = launched()
    assert nothing[0] & kept == set()
    for asked in ({"output": 3}, {"prompt": 0}, {"output": 0, "prompt": 2}):
        ops, *conflicts = launched(**asked)
        assert ops & kept == {f"{name}_logprobs" for name in asked}
        assert ops - kept == nothing[0]
        assert conflicts == [[], []]


def test_a_neighbour_that_asks_changes_nothing():
    """Six requests share rounds, and each has the results that it has alone. Each asks for the
    log-probs of a different number of top tokens. The first asks for none of its output, the last
    for none of its prompt."""

    def asked(i):
        return {"sampling": {"temperature": 0.9, "seed": i}, "output": i - 1, "prompt": 4 - i}

    core = make("cpu", num_threads=2, max_num_seqs=6)
    seats = [start(core, "hedge", **asked(i)) for i in range(6)]
    while not all(seat.finished for seat in seats):
        core.advance()
    found = [told(seat) for seat in seats]
    assert found == [answer(make(), "hedge", **asked(i)) for i in range(6)]
    assert (found[0][1], found[5][2]) == ([], [])


@pytest.mark.parametrize("backend", ["sim", "cpu"])
@every_method
def test_rounds_allocate_nothing(backend, method):
    core = make(backend)
    counts = {}
    for tokens in (90, 10, 90):  # the first run is the warm-up
        seat = start(core, method, tokens=tokens, output=20, prompt=20)
        before = _core.allocation_count()
        while not seat.finished:
            core.advance()
        counts[tokens] = _core.allocation_count() - before
        seat.release()
    assert counts == {90: 0, 10: 0}


@pytest.mark.parametrize("asked", [{"output": -2}, {"prompt": 2**30 + 1}], ids=str)
def test_numbers_that_cannot_be_are_refused(asked):
    with pytest.raises(InvalidInputError, match="logprobs: expected"):
        start(make(), "none", **asked)


def test_an_exception_drops_them_with_the_tokens():
    core = make(target={"throw_at": len(PROMPT) + 20})
    seat = start(core, "draft_model", output=1)
    with pytest.raises(EngineError, match="told to throw"):
        core.advance()
    tokens, rows, _ = told(seat)
    assert (tokens, rows) == ([], [])
