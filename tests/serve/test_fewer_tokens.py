"""Contract under test: an engine's vocabulary is the target's. A draft with fewer tokens changes no
answer; it only proposes fewer tokens."""

import json

import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams, _core
from sbrt.methods import METHODS
from tests.common.trimmed import answers

# Number of tokens of the draft. The target has 300 tokens, and an embedding of 320 rows.
KNOWN = 200
PARAMS = [
    SamplingParams(temperature=0, max_tokens=40),
    SamplingParams(temperature=0.9, seed=3, max_tokens=40),
    SamplingParams(
        temperature=0.8, seed=4, max_tokens=40, top_p=0.9, top_k=40, min_p=0.01,
        repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, min_tokens=10,
        logit_bias={5: -2.0, 250: 2.0}, bad_words=["self", "print", "return x"],
    ),
    SamplingParams(temperature=0.7, seed=5, max_tokens=12, allowed_token_ids=[7, 210, 250, 299]),
    SamplingParams(temperature=0, max_tokens=6, allowed_token_ids=[210, 250]),
]  # fmt: skip


def without_last_rows(weights, rows):
    return weights | {"model.embed_tokens.weight": weights["model.embed_tokens.weight"][:rows]}


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory, make):
    """Return pair_of(rows), which returns the folders (target, draft). The draft is a slightly
    changed target whose embedding has `rows` rows."""
    base = tmp_path_factory.mktemp("fewer")
    weights = make.weights(make.config(), seed=1)
    target = make.checkpoint(base / "target", weights=weights, eos_token_id=290)

    def made(rows):
        folder = base / str(rows)
        if not folder.exists():
            near = without_last_rows(make.noisy(weights, 0.01, seed=2), rows)
            make.checkpoint(folder, weights=near, vocab_size=rows, eos_token_id=None)
        return target, folder

    return made


@pytest.fixture(scope="module")
def want(pair_of, prompts):
    """Return the answers of the target without a draft."""
    with Engine(EngineConfig(pair_of(KNOWN)[0], num_threads=1)) as engine:
        assert engine.pair.vocab == 300
        return answers(engine, prompts, PARAMS)[0]


def test_no_answer_changes(pair_of, prompts, want):
    target, draft = pair_of(KNOWN)
    said = {token for tokens, *_ in want for token in tokens}
    assert min(said) < KNOWN <= max(said)  # the target also samples tokens that the draft lacks
    config = EngineConfig(target, num_threads=2, speculative={"model": draft})
    with Engine(config, methods=METHODS) as engine:
        assert any(max(engine.encode(prompt)) >= KNOWN for prompt in prompts)
        for method in METHODS:
            got, _, accepted = answers(engine, prompts, PARAMS, method)
            assert got == want, method
            assert accepted > 0 or method in ("none", "auto"), method


@pytest.mark.parametrize("rows", [1, 299, 301])
def test_drafts_of_other_sizes(pair_of, prompts, want, rows):
    target, draft = pair_of(rows)
    config = EngineConfig(target, num_threads=1, speculative={"model": draft, "method": "pearl"})
    with Engine(config) as engine:
        assert answers(engine, prompts, PARAMS, "pearl")[0] == want


def test_without_a_tokenizer_too(pair_of, prompts):
    """Without a tokenizer every row of the target is a token, even the padding rows."""
    target, draft = pair_of(KNOWN)
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=30)
    found = []
    for speculative in (None, {"model": draft, "method": "specbranch"}):
        config = EngineConfig(
            target, num_threads=1, skip_tokenizer_init=True, speculative=speculative
        )
        with Engine(config) as engine:
            assert engine.pair.vocab == 320
            outputs = engine.generate([[1, 319, 250], [7, 310]], params)
            found.append([o.outputs[0].token_ids for o in outputs])
    assert found[0] == found[1]


def test_a_draft_whose_tokenizer_lacks_tokens(pair_of, prompts, want, tmp_path, make):
    target, _ = pair_of(KNOWN)
    weights = make.noisy(make.weights(make.config(), seed=1), 0.01, seed=2)
    draft = make.checkpoint(tmp_path / "d", weights=weights)
    raw = json.loads((draft / "tokenizer.json").read_text())
    raw["model"]["vocab"] = {t: i for t, i in raw["model"]["vocab"].items() if i < 290}
    raw["model"]["merges"] = [
        m for m in raw["model"]["merges"] if "".join(m) in raw["model"]["vocab"]
    ]
    (draft / "tokenizer.json").write_text(json.dumps(raw))
    config = EngineConfig(target, num_threads=1, speculative={"model": draft, "method": "pearl"})
    with Engine(config) as engine:
        assert answers(engine, prompts, PARAMS, "pearl")[0] == want


def test_rejection_repeats_and_never_drafts_what_is_unknown(pair_of, prompts):
    target, draft = pair_of(KNOWN)
    spec = {"model": draft, "method": "specbranch", "acceptance": "rejection"}
    runs = []
    for threads in (1, 2):
        config = EngineConfig(target, num_threads=threads, speculative=spec)
        with Engine(config) as engine:
            runs.append(answers(engine, prompts, PARAMS, "specbranch:acceptance=rejection"))
    assert runs[0] == runs[1]
    assert runs[0][1] > 0


def test_an_allowed_token_must_be_the_targets(pair_of):
    target, draft = pair_of(KNOWN)
    with Engine(EngineConfig(target, num_threads=1, speculative={"model": draft})) as engine:
        params = SamplingParams(max_tokens=3, allowed_token_ids=[299])
        assert engine.generate([1], params)[0].outputs[0].token_ids == [299] * 3
        with pytest.raises(InvalidInputError, match="allowed_token_ids"):
            engine.generate([1], SamplingParams(allowed_token_ids=[300]))


def test_the_core_takes_the_targets_vocabulary():
    toys = _core.Toy(vocab=32), _core.Toy(vocab=8)
    assert _core.EngineCore(*toys, max_model_len=64, backend="sim", vocab=32) is not None
    with pytest.raises(InvalidInputError, match="vocab"):
        _core.EngineCore(*toys, max_model_len=64, backend="sim", vocab=33)
