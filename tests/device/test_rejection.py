"""Contract under test, on a CUDA device, for `acceptance=rejection`. Every method gives the same
tokens with three seats, without graphs, and with a memory for each lane. With the draft on the CPU,
three seats give the tokens of one. The first three tokens of an answer have the same distribution
as by plain decoding, measured over a few thousand seeds."""

from collections import Counter
from dataclasses import replace

import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.demo_pair import demo_folder
from sbrt.tools.prompts import BUILT_IN

pytestmark = pytest.mark.gpu
RULE = "acceptance=rejection"
METHODS = (
    f"draft_model:{RULE}", f"pearl:{RULE}", f"specbranch:{RULE}",
    f"specbranch:on_miss=serial,lookup=1,{RULE}", f"tree:nodes=15,{RULE}",
    f"hedge:gamma=3,F=8,tree=2,nodes=15,burst_width=4,{RULE}",
)  # fmt: skip
SAMPLED = SamplingParams(temperature=0.8, seed=3, max_tokens=48)
REQUESTS = (SAMPLED, replace(SAMPLED, top_p=0.9, repetition_penalty=1.2, min_tokens=5))
FAR = 6.0  # standard deviations
SEEDS = 4000


def opened(seats=1, methods=METHODS, draft="cuda:0", **more):
    config = EngineConfig(
        demo_folder("target"), device="cuda:0", max_num_seqs=seats,
        speculative={"model": demo_folder("draft"), "device": draft, "method": "specbranch"},
        **more,
    )  # fmt: skip
    return Engine(config, methods=methods)


def answers(engine):
    """Return {(method, index of the request): tokens for each of three prompts}. The prompts share
    rounds if the engine has three seats."""
    found = {}
    for method in METHODS:
        for number, params in enumerate(REQUESTS):
            out = engine.generate(list(BUILT_IN[:3]), params, method=method)
            found[method, number] = [answer.outputs[0].token_ids for answer in out]
    return found


@pytest.fixture(scope="module")
def plain():
    with opened() as engine:
        return answers(engine)


def test_three_seats(plain):
    with opened(seats=3) as engine:
        assert answers(engine) == plain


def test_without_graphs(plain):
    with opened(enforce_eager=True) as engine:
        assert answers(engine) == plain


def test_two_memories(plain, monkeypatch):
    monkeypatch.setattr(EngineConfig, "is_apart", True)
    with opened() as engine:
        assert answers(engine) == plain


def test_with_the_draft_on_the_cpu():
    """Its logits are not the device's, so its candidates differ from those of `plain`."""
    with opened(draft="cpu") as engine:
        alone = answers(engine)
    with opened(seats=3, draft="cpu") as engine:
        assert answers(engine) == alone


def beginnings(engine, method, first):
    """Return how often each beginning of three tokens occurs in SEEDS answers. first: the first
    seed."""
    found = Counter()
    params = [
        SamplingParams(temperature=1.0, top_k=4, seed=first + i, max_tokens=3) for i in range(SEEDS)
    ]
    for out in engine.generate([BUILT_IN[0]] * SEEDS, params, method=method):
        found[tuple(out.outputs[0].token_ids)] += 1
    return found


def distance(one, other):
    """Return how many standard deviations the chi-squared distance of two tables of counts is above
    its mean (formula of Wilson and Hilferty). Both tables count equally many answers."""
    cells = [key for key in one | other if one[key] + other[key] >= 20]
    x = sum((one[key] - other[key]) ** 2 / (one[key] + other[key]) for key in cells)
    k = len(cells) - 1
    return ((x / k) ** (1 / 3) - 1 + 2 / (9 * k)) / (2 / (9 * k)) ** 0.5


@pytest.mark.parametrize(
    ("method", "draft"),
    [*((METHODS[i], "cuda:0") for i in (0, 2, 4)), (METHODS[2], "cpu")],
)
def test_the_distribution_is_that_of_plain_decoding(method, draft):
    with opened(seats=8, methods=[method], draft=draft) as engine:
        expected = beginnings(engine, "none", 0)
        found = beginnings(engine, method, SEEDS)
    assert len(expected) > 10
    assert abs(distance(found, expected)) < FAR
