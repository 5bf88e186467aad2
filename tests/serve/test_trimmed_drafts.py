"""Contract under test: a draft whose LM head has only some ids, or that shares its target's
embedding, changes no answer. It drafts only tokens that its LM head has."""

import pytest

from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.methods import METHODS
from sbrt.model import hrad
from tests.common.tiny import config_of
from tests.common.trimmed import IDS, answers, head_fields, head_weights, write_draft

PARAMS = [
    SamplingParams(temperature=0, max_tokens=40),
    SamplingParams(temperature=0.9, seed=3, max_tokens=40),
    SamplingParams(
        temperature=0.8, seed=4, max_tokens=40, top_p=0.9, top_k=40, min_p=0.01,
        repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, min_tokens=10,
        logit_bias={5: -2.0, 250: 2.0, 201: 1.0}, bad_words=["self", "print", "return x"],
    ),
    SamplingParams(temperature=0.7, seed=5, max_tokens=12, allowed_token_ids=[7, 60, 201, 299]),
    # The trimmed LM head has neither of these allowed ids.
    SamplingParams(temperature=0, max_tokens=6, allowed_token_ids=[60, 250]),
]  # fmt: skip
KINDS = ("own", "shared", "whole", "narrow")
# Methods that may draft nothing. adaedl drafts nothing while the draft is uncertain.
MAY_REST = ("none", "auto", "adaedl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, make):
    """Return the target's folder, and the drafts' folders keyed by kind. Most drafts are slightly
    changed targets."""
    base = tmp_path_factory.mktemp("trimmed")
    weights = make.weights(make.config(), seed=1)
    target = make.checkpoint(base / "target", weights=weights, eos_token_id=290)
    near = make.noisy(weights, 0.01, seed=2)
    thin = config_of(hidden_size=16, **head_fields())
    narrow = head_weights(make.weights(config_of(hidden_size=16), seed=3))
    config, shared = config_of(**head_fields()), head_weights(near, embedding=False)
    whole = head_weights(near, None, embedding=False)
    drafts = {
        "own": write_draft(base / "own", config, head_weights(near), tokenizer=True),
        "shared": write_draft(base / "shared", config, shared),
        "whole": write_draft(base / "whole", config_of(**head_fields(None)), whole),
        "narrow": write_draft(base / "narrow", thin, narrow),
    }
    return target, drafts


def engine_of(pair, kind, methods=METHODS, **fields):
    target, drafts = pair
    given = {"num_threads": 1, "speculative": {"model": drafts[kind], **fields.pop("spec", {})}}
    return Engine(EngineConfig(target, **(given | fields)), methods=methods)


@pytest.fixture(scope="module")
def want(pair, prompts):
    """Return the answers of the target without a draft."""
    with Engine(EngineConfig(pair[0], num_threads=1)) as engine:
        return answers(engine, prompts, PARAMS)[0]


def test_the_target_says_what_the_head_does_not_know(want):
    said = {token for tokens, *_ in want for token in tokens}
    assert said - set(IDS)
    assert said & set(IDS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_changes(pair, prompts, want, kind):
    with engine_of(pair, kind) as engine:
        for method in METHODS:
            got, _, accepted = answers(engine, prompts, PARAMS, method)
            assert got == want, method
            assert accepted > 0 or kind == "narrow" or method in MAY_REST, method


SOME = ("specbranch", "hedge", "tree")


@pytest.mark.parametrize("kind", ["shared", "whole"])
def test_many_sequences_at_once(pair, prompts, want, kind):
    """With prefix caching, seats reuse the KV of equal prompt beginnings in both lanes."""
    fields = {"max_num_seqs": 4, "num_threads": 2, "enable_prefix_caching": True}
    with engine_of(pair, kind, methods=SOME, spec={"method": "tree"}, **fields) as engine:
        for method in SOME:
            assert answers(engine, prompts, PARAMS, method)[0] == want, method
        first, again, plain = (
            engine.generate("".join(prompts) * 2, PARAMS[1], method=method)[0]
            for method in ("tree", "hedge", "none")
        )
        assert again.num_cached_tokens > 0
        assert first.outputs[0].token_ids == again.outputs[0].token_ids
        assert first.outputs[0].token_ids == plain.outputs[0].token_ids


def test_a_classifier_cuts_its_chains(pair, prompts, want, make, tmp_path):
    """H-RAD reads the target's features, so the draft's embedding does not matter."""
    target, drafts = pair
    origin = hrad.origin_of(3, target, drafts["shared"])
    path = make.classifier(tmp_path / "h.safetensors", origin).path
    method = f"specbranch:gamma=3,hrad={path}"
    with engine_of(pair, "shared", methods=(), spec={"method": method}) as engine:
        got, _, accepted = answers(engine, prompts, PARAMS, method)
    assert got == want
    assert accepted > 0


def test_rejection_drafts_only_what_the_head_knows(pair, prompts):
    spec = {"method": "specbranch", "acceptance": "rejection"}
    runs = []
    for threads in (1, 2):
        with engine_of(pair, "shared", methods=(), num_threads=threads, spec=spec) as engine:
            runs.append(answers(engine, prompts, PARAMS, "specbranch:acceptance=rejection"))
    assert runs[0] == runs[1]
    assert runs[0][1] > 0
