"""Contract under test: on a device a draft's burst is one launch of a fused graph. So is the
target's work between two waits. A fused graph must do the same work in the same order as its parts,
with the same tokens, for any gamma and request. The target moves accepted KV (`settle`) only if
chains are trees."""

from collections import Counter
from dataclasses import replace

import pytest

from sbrt import Engine, SamplingParams, _core, methods
from sbrt.serve.pair import load_pair

HEDGE = "hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4"
GREEDY = SamplingParams(temperature=0, max_tokens=6)
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=6)
PARAMS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "filtered": replace(SAMPLED, top_p=0.8),
    "both": replace(SAMPLED, top_p=0.8, repetition_penalty=1.2, min_tokens=4),
}
BURSTS = {  # {method: names of the draft's launches in a round, except settle}
    "none": set(),
    "draft_model": {"serial_burst"},
    "lookup:gamma=6": set(),
    "adaedl": {"serial_burst"},
    "pearl": {"burst"},
    "specbranch:k_max=3": {"burst"},
    "specbranch:k_max=3,on_miss=serial": {"serial_burst", "burst"},
    "tree:gamma=3,width=4,nodes=12": {"serial_burst"},
    HEDGE: {"serial_burst", "burst"},
}
TREES = ("tree:gamma=3,width=4,nodes=12", HEDGE)
VERIFIED = {  # {method: the target's launches in a round, in order, for each kind of round}
    "none": {("verify",)},
    "draft_model": {("verify",)},
    "lookup:gamma=6": {("verify",)},
    "adaedl": {("verify",)},
    "pearl": {("verify", "select")},
    "specbranch:k_max=3": {("verify", "select")},
    "specbranch:k_max=3,on_miss=serial": {("verify", "select")},
    "tree:gamma=3,width=4,nodes=12": {("settle", "verify")},
    HEDGE: {("verify", "select"), ("settle", "verify", "select")},
}
GAMMAS = (
    "pearl:gamma=1",
    "pearl:gamma=3",
    "pearl:gamma=7",
    "pearl:gamma=15",
    "draft_model:gamma=7",
)


def pair_of(checkpoints):
    return [checkpoint.folder for checkpoint in checkpoints["Llama"]]


def of_stream(order, kind, stream):
    """Return what the OrderBook `order` recorded for one stream. kind: "ops" or "launches"."""
    return [tuple(said[1:]) for said in getattr(order, kind)() if said[0] == stream]


def of_draft(order, kind):
    return of_stream(order, kind, "draft")


def rounds_of(order):
    """Return the names of the target's launches: one list for each round."""
    rounds = [[]]
    for (name,) in of_stream(order, "launches", "target"):
        if name != "prefill" and name in rounds[-1]:
            rounds.append([])
        if name == "settle" and rounds[-1]:
            rounds.append([])
        if name != "prefill":
            rounds[-1].append(name)
    return rounds


def check_bursts(order, method, kind):
    launched = Counter(name for (name,) in of_draft(order, "launches"))
    fed, rounds = launched.pop("prefill", 0), launched.pop("settle", 0)
    wanted = BURSTS.get(method, {"serial_burst" if "draft" in method else "burst"})
    assert set(launched) == wanted, kind
    assert (rounds > 0) == (fed > 0) == bool(wanted)
    if len(wanted) == 1:
        assert sum(launched.values()) == rounds, kind
    elif wanted:
        assert launched["burst"] == rounds >= launched["serial_burst"] > 0, kind


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        *((method, ("greedy", "both")) for method in (*BURSTS, *GAMMAS)),
        *(pytest.param(m, tuple(PARAMS), marks=pytest.mark.exact) for m in BURSTS),
    ],
)
def test_a_burst_is_one_launch_and_so_is_a_verification(
    tools, tool, stand_in, checkpoints, method, asked
):
    """A burst is one launch, and a verification has the launches in VERIFIED. When an engine is
    built, it fuses the graphs for requests without shaping, filtered or not. It fuses other graphs
    at their first use."""
    config = tool.config_of(pair_of(checkpoints), "cuda", method, max_model_len=tools.max_len)
    kinds = len(VERIFIED.get(method, ())) + len(BURSTS.get(method, ()))
    tokens = 12 if kinds > 2 else 6  # number of tokens that makes every kind of round occur
    with Engine(config) as engine:
        core = stand_in.cores[-1][1]
        made = core.fused_graphs
        for kind in asked:
            params = PARAMS[kind]
            assert core.fused_graphs == made, kind
            times = 2 if kind == "both" else 1
            engine.generate([tools.prompt(9)] * times, replace(params, max_tokens=tokens))
            check_bursts(core.order, method, kind)
        last = core.fused_graphs
        rounds = rounds_of(core.order)
    assert 2 * last == 3 * made
    if method in VERIFIED:
        assert made == 2 * kinds
        assert {tuple(names) for names in rounds} == VERIFIED[method]


@pytest.mark.parametrize("method", VERIFIED)
def test_a_verification_is_the_work_of_its_parts(tools, tool, stand_in, checkpoints, method):
    """The target's ops of an engine on the stand-in are those of the dry backend, in the same
    order. The dry backend fuses nothing, so it records the parts of a fused graph. It also moves KV
    of chains that are paths; these moves are not compared."""
    prompt, how = tools.prompt(9), methods.parse(method)
    with Engine(tool.config_of(pair_of(checkpoints), "cuda", method)) as engine:
        [out] = engine.generate(prompt, GREEDY)
        whole = of_stream(stand_in.cores[-1][1].order, "ops", "target")
    more = {"max_gamma": max(1, how.gamma), "max_branches": max(1, how.branches)}
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints["Llama"]]
    core = _core.EngineCore(
        *models, backend="dry", max_model_len=tools.max_len, max_width=how.width, **more
    )
    core.begin(prompt, _core.Sampling(temperature=0), how.policy(), GREEDY.max_tokens, [])
    assert core.run() == out.outputs[0].token_ids
    parts = of_stream(core.order, "ops", "target")
    assert any("moves" in said for said in parts)
    if method not in TREES:
        parts = [said for said in parts if "moves" not in said]
    assert len(parts) > 10
    assert whole[: len(parts)] == parts  # `whole` may hold one more round
    core.close()


@pytest.mark.parametrize("method", [HEDGE, *GAMMAS])
def test_a_burst_is_the_work_of_its_parts(tools, tool, stand_in, checkpoints, method):
    """The draft's ops of an engine on the stand-in are those of the dry backend, in the same order.
    The dry backend fuses nothing, so it records the parts of a fused graph."""
    prompt, how = tools.prompt(9), methods.parse(method)
    with Engine(tool.config_of(pair_of(checkpoints), "cuda", method)) as engine:
        [out] = engine.generate(prompt, GREEDY)
        whole = of_draft(stand_in.cores[-1][1].order, "ops")
    more = {"max_gamma": how.gamma, "max_branches": max(1, how.branches), "max_width": how.width}
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints["Llama"]]
    core = _core.EngineCore(*models, backend="dry", max_model_len=tools.max_len, **more)
    core.begin(prompt, _core.Sampling(temperature=0), how.policy(), GREEDY.max_tokens, [])
    assert core.run() == out.outputs[0].token_ids
    parts = of_draft(core.order, "ops")
    assert ("step",) in of_draft(core.order, "launches")
    assert len(parts) > 3 * how.gamma
    assert whole[: len(parts)] == parts  # `whole` may hold one more round
    core.close()


def test_an_engine_of_many_gammas_launches_what_fits(tools, tool, stand_in, checkpoints):
    """Requests with different gammas follow each other. Each round launches one fused burst, and
    the tokens are always the same. A graph for another gamma would do the wrong number of steps."""
    pair = pair_of(checkpoints)
    config = tool.config_of(pair, "cuda", "specbranch:gamma=7", max_model_len=tools.max_len)
    found = set()
    with Engine(config) as engine:
        for gamma in (7, 1, 3, 7, 2):
            for params in (GREEDY, PARAMS["both"]):
                method = f"specbranch:gamma={gamma}"
                before = len(stand_in.cores[-1][1].order.launches())
                [out] = engine.generate(tools.prompt(9), params, method=method)
                order = stand_in.cores[-1][1].order
                rounds = Counter(order.launches()[before:])
                assert rounds["draft", "burst"] == rounds["draft", "settle"] > 0
                assert ("draft", "step") not in rounds
                found.add((params is GREEDY, tuple(out.outputs[0].token_ids)))
    assert len(found) == 2


def test_launches_are_made_for_what_comes(tools, tool, stand_in, checkpoints):
    """All graphs are fused when the engine is built, for the rows of each method: requests fuse no
    more graphs. This also holds if some ids have no token."""
    config = tool.config_of(pair_of(checkpoints), "cuda", "none", max_model_len=tools.max_len)
    loaded = replace(load_pair(config), holes=(3,))
    with Engine(config, pair=loaded, methods=["lookup:gamma=20"]) as engine:
        core = stand_in.cores[-1][1]
        made = core.fused_graphs
        assert made > 0
        for method in ("none", "lookup:gamma=20", "none"):
            engine.generate(tools.prompt(9), GREEDY, method=method)
            assert core.fused_graphs == made


def test_only_a_device_has_launches_to_make(tools, checkpoints):
    play = tools.Play(*map(tools.recorded, checkpoints["Llama"]))
    play.core.prepare(methods.parse("pearl").policy())
    assert play.core.fused_graphs == 0
    with pytest.raises(_core.InvalidInputError, match="num_speculative_tokens"):
        play.core.prepare(methods.parse("pearl:gamma=40").policy())
    play.close()
