"""Contract under test: after warm-up, no call that runs rounds of sixteen sequences allocates
memory. In these rounds sequences come and go, and prompts are fed in pieces. Every sequence has the
tokens that it has alone."""

import pytest

from sbrt import _core, _probe
from tests.common.toys import POLICIES

SEATS = 16
LENGTHS = [3 + 11 * i % 90 for i in range(2 * SEATS)]  # number of tokens of each prompt


def make(backend, threads, seats):
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=6)
    sizes = {"max_gamma": 4, "max_branches": 8, "max_width": 2, "max_piece": 16}
    return _core.EngineCore(
        *pair, backend=backend, num_threads=threads, max_model_len=200, max_num_seqs=seats, **sizes
    )


def request(i):
    """Return the arguments of `admit` for request i: methods, temperatures and penalties vary."""
    prompt = [i % 32] + [1, 2, 3] * (LENGTHS[i] // 3)
    policy = _probe.policy(**list(POLICIES.values())[i % len(POLICIES)])
    sampling = _core.Sampling(temperature=0.8 * (i % 3 > 0), seed=i)
    shaping = _core.Shaping(**({"presence_penalty": 0.5} if i % 4 == 0 else {}))
    return prompt, sampling, policy, 20 + i, [], shaping


def run_all(core):
    """Run all requests; return {request: its tokens} and the number of allocations in rounds."""
    tokens, running, waiting, spent = {}, {}, list(range(2 * SEATS)), 0
    while waiting or running:
        while waiting and core.has_free_seat:
            running[waiting[0]] = core.admit(*request(waiting[0]))
            tokens[waiting.pop(0)] = []
        before = _core.allocation_count()
        core.advance(1)
        spent += _core.allocation_count() - before
        for i, seat in list(running.items()):
            tokens[i] += seat.take()
            if seat.finished:
                seat.release()
                del running[i]
    return tokens, spent


@pytest.mark.parametrize(("backend", "threads"), [("sim", 1), ("cpu", 1), ("cpu", 2)])
def test_rounds_of_sixteen_sequences_allocate_nothing(backend, threads):
    core = make(backend, threads, SEATS)
    assert core.seats == SEATS
    run_all(core)  # the first run is the warm-up
    tokens, spent = run_all(core)
    assert spent == 0
    alone = make("sim", 1, 1)
    for i, found in tokens.items():
        alone.begin(*request(i))
        assert found == alone.run(), i
