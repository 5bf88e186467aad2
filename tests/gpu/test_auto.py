"""Contract under test: `auto` on a device. The host picks a policy from the records of rounds and
the ranks of tokens, and writes it to the device's memory between rounds. For one sequence and for
many, the tokens must be those of plain decoding. Fences must order all accesses."""

from dataclasses import replace

import pytest

from sbrt import Engine, SamplingParams, _core, methods
from sbrt.gpu.lane import rows_for
from sbrt.serve.pair import load_pair
from tests.gpu.test_logprobs import found_in, together

AUTO = "auto:gamma=3,k_max=4"
GREEDY = SamplingParams(temperature=0, max_tokens=30)
PARAMS = (
    GREEDY,
    SamplingParams(temperature=0.8, seed=5, max_tokens=24, top_p=0.9, logprobs=1),
    replace(GREEDY, repetition_penalty=1.3, max_tokens=17),
)


def costs(target=8000, draft=100, rows=0):
    """Return costs for the tuner, in ns. A draft forward takes `draft`. A target forward takes
    `target`, plus `rows` for each row."""
    targets = [target + rows * n for n in range(_core.MAX_ROWS)]
    drafts = [draft] * _core.MAX_ROWS
    return _core.Costs(
        target=targets, draft=drafts, target_overlapped=targets, draft_overlapped=drafts
    )


def ran(out):
    """Return the names of the methods that ran in an answer."""
    auto = out.outputs[0].spec_decode_metrics["auto"]
    return {methods.parse(arm).name for arm in auto["rounds"]}


@pytest.fixture
def requests(tools):
    """Return requests. All prompts but one repeat the same 12 tokens, so that prompt lookup finds
    matches."""
    return [
        ((tools.prompt(12, seed=i) * (3 if i != 1 else 1))[:36], params, AUTO)
        for i, params in enumerate(PARAMS)
    ]


@pytest.fixture
def opened(tools, tool, stand_in, checkpoints):
    pair = [checkpoint.folder for checkpoint in checkpoints["Llama"]]

    def made(device, seats=1, draft=None, **more):
        method = AUTO if device == "cuda" else "none"
        sizes = {"max_model_len": tools.max_len, "max_num_seqs": seats}
        config = tool.config_of(pair, device, method, draft_device=draft, **sizes)
        loaded = load_pair(config)
        if device == "cpu":
            # The bits of torch's results depend on the number of rows. So both engines use graphs
            # of the same size.
            rows = rows_for(methods.parse(AUTO), seats)
            models = [tools.recorded(c, rows=rows) for c in checkpoints["Llama"]]
            loaded = replace(loaded, target=models[0], draft=models[1])
        return Engine(config, pair=loaded, **more)

    return made


@pytest.fixture
def plain(opened, requests):
    with opened("cpu") as engine:
        return [found_in(engine.generate(*request[:2])[0]) for request in requests]


def test_it_answers_like_plain_decoding(stand_in, opened, requests, plain):
    kinds = set()
    with opened("cuda", tuning=costs()) as engine:
        for request, want in zip(requests, plain, strict=True):
            [out] = engine.generate(*request[:2])
            assert found_in(out) == want
            kinds |= ran(out)
        order = stand_in.cores[-1][1].order
    assert kinds & {"tree", "hedge"}
    assert order.conflicts() == []


def test_many_share_one_policy(stand_in, opened, requests, plain):
    with opened("cuda", seats=2, tuning=costs(rows=20)) as engine:
        assert together(engine, requests) == plain
        order = stand_in.cores[-1][1].order
    assert order.conflicts() == []


def test_a_draft_that_never_pays_is_never_fed(stand_in, opened, requests, plain):
    """The tuner gets costs with which a draft never pays. The answer is that of plain decoding, and
    only the target's stream has launches."""
    with opened("cuda", tuning=costs(target=100, draft=8000)) as engine:
        [out] = engine.generate(*requests[0][:2])
        assert found_in(out) == plain[0]
        assert ran(out) <= {"none", "lookup"}
        assert all(stream == "target" for stream, _ in stand_in.picks())


@pytest.mark.parametrize(("seats", "step"), [(1, 100), (8, 2500)])
@pytest.mark.parametrize("draft", ["cuda:1", "cpu"])
def test_so_it_is_with_a_memory_for_each_lane(
    monkeypatch, stand_in, opened, requests, plain, draft, seats, step
):
    """The draft sits out rounds and comes back. The host tells each memory what it missed.
    Candidates that join look-ups with a draft are left out, since the draft never sits them out."""
    every = methods.parse(AUTO).arms
    few = tuple(arm for arm in every if not arm.options.get("lookup"))
    monkeypatch.setattr(methods, "_arms", lambda *given: few)
    kinds = {"tree"}
    tuning = costs(draft=step, rows=20 * (seats > 1))
    with opened("cuda", seats, draft, tuning=tuning) as engine:
        if seats > 1:
            assert together(engine, requests * 3) == plain * 3
        else:
            outs = [engine.generate(*request[:2])[0] for request in requests]
            assert [found_in(out) for out in outs] == plain
            kinds = set().union(*map(ran, outs))
        order = stand_in.cores[-1][1].order
    assert stand_in.cores[-1][0]["draft_device"] == (_core.ON_HOST if draft == "cpu" else 1)
    assert kinds & {"tree", "hedge"}
    assert order.conflicts() == []
    for mail in ("verdict", "offer", "tell_have"):
        assert order.conflicts(without=[mail]), mail
