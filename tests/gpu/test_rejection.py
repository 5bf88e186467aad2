"""Contract under test: `acceptance=rejection` on a CUDA device, on the stand-in. The tokens of
every method must be those of the CPU's engine over the same recordings. There are one or several
seats. The lanes have one memory or two, on two devices or with the draft on the CPU. Candidates
must be both accepted and rejected. If the draft has another memory, its messages carry the
scores."""

from dataclasses import replace

import pytest

from sbrt import Engine
from sbrt.serve.pair import load_pair
from tests.gpu.test_on_device import GREEDY, PARAMS, folders

RULE = "acceptance=rejection"
METHODS = (
    f"draft_model:{RULE}", f"adaedl:{RULE}", f"pearl:{RULE}", f"specbranch:k_max=3,{RULE}",
    f"specbranch:k_max=3,on_miss=serial,lookup=1,{RULE}",
    f"tree:gamma=3,width=4,nodes=12,{RULE}", f"tree:gamma=3,width=4,nodes=12,lookup=1,{RULE}",
    f"hedge:gamma=3,F=4,tree=2,nodes=12,burst_width=4,{RULE}",
)  # fmt: skip
KINDS = ("sampled", "filtered", "both")
ALL = [(method, kind) for method in METHODS for kind in KINDS]
SOME = [
    *((method, "sampled") for method in METHODS),
    (METHODS[3], "both"),
    (METHODS[-1], "filtered"),
]


class Answers:
    """The tokens of each method and kind of request, and the numbers of drafted and accepted
    tokens."""

    def __init__(self, tools, engine, asked, seats):
        self.tokens, self.drafted, self.accepted = {}, 0, 0
        prompts = [tools.prompt(9 + 4 * seat, seed=seat) for seat in range(seats)]
        for method, kind in asked:
            for out in engine.generate(prompts, PARAMS[kind], method=method):
                [answer] = out.outputs
                self.tokens.setdefault((method, kind), []).append(answer.token_ids)
                self.drafted += answer.spec_decode_metrics["num_draft_tokens"]
                self.accepted += answer.spec_decode_metrics["num_accepted_draft_tokens"]


def on_cpu(tools, tool, checkpoints, family, asked, seats, is_draft_recorded=True):
    """Return the answers of the CPU's engine over the same recordings. If not `is_draft_recorded`,
    its draft is the CPU's own lane."""
    sizes = {"max_model_len": tools.max_len, "max_num_seqs": seats}
    config = tool.config_of(folders(checkpoints, family), "cpu", **sizes)
    models = [tools.recorded(checkpoint) for checkpoint in checkpoints[family]]
    own = load_pair(config)
    draft = models[1] if is_draft_recorded else own.draft
    twins = replace(own, target=models[0], draft=draft)
    with Engine(config, pair=twins, methods=METHODS) as engine:
        return Answers(tools, engine, asked, seats)


def on_device(tools, tool, checkpoints, family, asked, seats, draft_device=None, draft=None):
    """Return the answers of an engine on a device. draft: the draft's model (None: load it)."""
    sizes = {"max_model_len": tools.max_len, "max_num_seqs": seats}
    pair = folders(checkpoints, family)
    config = tool.config_of(pair, "cuda", draft_device=draft_device, **sizes)
    models = load_pair(config)
    if draft is not None:
        models = replace(models, draft=draft)
    with Engine(config, pair=models, methods=METHODS) as engine:
        return Answers(tools, engine, asked, seats)


@pytest.mark.parametrize(
    ("family", "asked", "seats"),
    [
        ("Qwen3", SOME, 1),
        ("Llama", SOME[::3], 3),
        *(
            pytest.param(f, ALL, n, marks=pytest.mark.exact)
            for f in ("Llama", "Qwen2")
            for n in (1, 3)
        ),
    ],
)
def test_it_answers_like_the_engine_on_the_cpu(
    tools, tool, stand_in, checkpoints, family, asked, seats
):
    want = on_cpu(tools, tool, checkpoints, family, asked, seats)
    given = on_device(tools, tool, checkpoints, family, asked, seats)
    assert given.tokens == want.tokens
    assert (given.drafted, given.accepted) == (want.drafted, want.accepted)
    assert 0 < given.accepted < given.drafted
    order = stand_in.cores[-1][1].order
    assert order.conflicts() == []


# {seats: (method, kind) of the requests}. Rounds of the last method with 16 seats run ahead.
ASKED = {1: SOME[::2], 3: SOME[1::4], 8: [SOME[0], SOME[-1]], 16: [SOME[0], SOME[3]]}


@pytest.mark.parametrize("seats", ASKED)
@pytest.mark.parametrize("draft", ["cuda:1", "cpu"])
def test_two_memories_answer_like_the_cpu(tools, tool, stand_in, checkpoints, draft, seats):
    asked = ASKED[seats]
    want = on_cpu(tools, tool, checkpoints, "Llama", asked, seats, draft != "cpu")
    given = on_device(tools, tool, checkpoints, "Llama", asked, seats, draft_device=draft)
    assert given.tokens == want.tokens
    assert (given.drafted, given.accepted) == (want.drafted, want.accepted)
    assert 0 < given.accepted < given.drafted
    core = stand_in.cores[-1][1]
    ahead = [core.seat(seat).stats.rounds_ahead for seat in range(seats)]
    assert seats < 16 or any(ahead)
    order = core.order
    assert order.conflicts() == []
    for mail in ("burst", "offer"):
        assert any("draft_scores" in said for said in order.conflicts(without=[mail])), mail


def test_a_recorded_draft_on_the_cpu_keeps_its_scores_as_the_cpu_does(
    tools, tool, stand_in, checkpoints
):
    """The target is on a device. The draft is recorded on the CPU, and such recordings keep no
    scores. So the CPU's own op must sample the draft's tokens. Other drafts on the CPU have no
    recordings, and answer the same wherever the engine tells them to keep scores."""
    asked, draft = ASKED[3], tools.recorded(checkpoints["Llama"][1])
    want = on_cpu(tools, tool, checkpoints, "Llama", asked, 1)
    given = on_device(tools, tool, checkpoints, "Llama", asked, 1, "cpu", draft)
    assert given.tokens == want.tokens
    assert (given.drafted, given.accepted) == (want.drafted, want.accepted)
    assert 0 < given.accepted < given.drafted


def test_greedy_requests_and_other_methods_share_the_engine(tools, tool, stand_in, checkpoints):
    """Greedy requests have the tokens of plain decoding, for the methods with acceptance=rejection.
    So have sampled requests of a method with coupled acceptance."""
    config = tool.config_of(folders(checkpoints, "Llama"), "cuda", max_model_len=tools.max_len)
    prompt = tools.prompt(12)
    with Engine(config, methods=[*METHODS, "specbranch:k_max=3"]) as engine:
        for params, methods in ((GREEDY, METHODS[3:]), (PARAMS["both"], ["specbranch:k_max=3"])):
            plain, *others = (
                engine.generate(prompt, params, method=method)[0].outputs[0].token_ids
                for method in ("none", *methods)
            )
            assert others == [plain] * len(methods)
