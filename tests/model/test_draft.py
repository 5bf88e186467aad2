"""Contract under test: a draft's folder may lack tensors that the draft shares with its target. It
may have an LM head for some ids only. All other deviations are refused in one sentence."""

import json

import numpy as np
import pytest

from sbrt import Engine, EngineConfig, InvalidInputError, SamplingParams
from sbrt.model.checkpoint import open_checkpoint
from sbrt.model.draft import open_draft
from tests.common.tiny import config_of
from tests.common.trimmed import (
    EMBED,
    HEAD,
    IDS,
    d2t,
    head_fields,
    head_weights,
    t2d,
    write_draft,
)


@pytest.fixture(scope="module")
def weights(make):
    return make.weights(make.config(), seed=1)


@pytest.fixture(scope="module")
def target(make, tmp_path_factory, weights):
    return make.checkpoint(tmp_path_factory.mktemp("target"), weights=weights)


@pytest.fixture
def draft_of(make, tmp_path, target, weights):
    """draft_of(changes, **fields): writes a draft and opens it. changes: {name: weights}; a tensor
    with weights None is left out. fields: changes of the draft's config.json."""

    def opened(changes=None, base=None, **fields):
        given = head_weights(weights, embedding=False) if base is None else base
        given = {k: w for k, w in (given | (changes or {})).items() if w is not None}
        config = config_of(**(head_fields() | fields))
        folder = write_draft(tmp_path / "draft", config, given)
        return open_draft(folder, open_checkpoint(target))

    return opened


def test_a_trimmed_head(draft_of):
    draft = draft_of({"t2d": t2d()})
    assert draft.head_ids == IDS
    assert draft.shares_embedding
    assert draft.config.draft_vocab == len(IDS)
    assert draft.config.vocab == 320
    assert draft.shapes[HEAD] == (len(IDS), 32)
    assert not {EMBED, "d2t", "t2d"} & draft.shapes.keys()
    assert draft.storage("auto") == "float32"  # the dtypes of d2t and t2d do not matter


def test_an_embedding_of_its_own(draft_of, weights):
    assert not draft_of(base=head_weights(weights)).shares_embedding


def test_a_head_that_is_the_targets(draft_of, weights):
    bare = {name: w for name, w in weights.items() if name != EMBED}
    draft = draft_of(base=bare, draft_vocab_size=None, tie_word_embeddings=True)
    assert draft.shares_embedding
    assert draft.head_ids == ()
    assert HEAD not in draft.shapes


def moved(row, by):
    """Return d2t, with `by` added to the value in `row`."""
    values = d2t()
    values[row] += by
    return values


def flipped(i):
    found = t2d()
    found[i] = not found[i]
    return found


BAD_TENSORS = {
    "an id twice": ({"d2t": moved(5, -1)}, ("d2t", "ascend", "got 5 after 5 in row 5")),
    "an id before its neighbour": ({"d2t": moved(5, 9)}, ("d2t", "ascend", "got 7 after 15")),
    "a negative step": ({"d2t": moved(3, -(2**62))}, ("d2t", "from 0 to 319", "in row 3")),
    "a step beyond": ({"d2t": moved(3, 2**62)}, ("d2t", "from 0 to 319", "in row 3")),
    "an id beyond": ({"d2t": moved(-1, 30)}, ("d2t", "ids below vocab_size 320", "got 339")),
    "as float": ({"d2t": d2t().astype(np.float32)}, ("d2t", "expected I64", "got F32")),
    "of another length": ({"d2t": d2t()[:-1]}, ("d2t", f"shape [{len(IDS)}]", "got I64 of")),
    "of two dimensions": ({"d2t": d2t()[None]}, ("d2t", "got I64 of [1, ")),
    "none": ({"d2t": None}, ("draft_vocab_size", "expected the tensor d2t")),
    "the other map alone": ({"d2t": None, "t2d": t2d()}, ("t2d", "expected the tensor d2t")),
    "the other map, one more": ({"t2d": flipped(0)}, ("t2d", "expected False of id 0", "got True")),
    "the other map, one less": ({"t2d": flipped(1)}, ("t2d", "expected True of id 1")),
    "the other map, short": ({"t2d": t2d()[:-1]}, ("t2d", "expected BOOL of shape [320]")),
    "no head": ({HEAD: None}, (HEAD, "missing")),
    "a head of all ids": ({HEAD: np.zeros((320, 32), np.float32)}, (HEAD, f"[{len(IDS)}, 32]")),
    "a tensor too many": ({"d2d": d2t()}, ("d2d", "no such tensor")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(draft_of, one_sentence, name):
    changes, words = BAD_TENSORS[name]
    one_sentence(lambda: draft_of(changes), *words)


BAD_FIELDS = {
    "a size that is not the map's": ({"draft_vocab_size": 7}, ("d2t", "shape [7]")),
    "no size": ({"draft_vocab_size": None}, ("d2t", "expected draft_vocab_size", "found none")),
    "a size of nothing": ({"draft_vocab_size": 0}, ("draft_vocab_size", "got 0")),
    "a size beyond": ({"draft_vocab_size": 321}, ("draft_vocab_size", "got 321")),
    "a size in words": ({"draft_vocab_size": "8k"}, ("draft_vocab_size", "8k")),
    "tied": ({"tie_word_embeddings": True}, ("tie_word_embeddings", "expected false", "got true")),
    "another vocabulary": ({"vocab_size": 319}, ("vocab_size", "expected 320", "got 319")),
    "another width": ({"hidden_size": 64}, ("hidden_size", "expected 32", EMBED, "got 64")),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields(draft_of, one_sentence, name):
    fields, words = BAD_FIELDS[name]
    one_sentence(lambda: draft_of(**fields), *words)


def test_a_head_beside_that_of_the_target(draft_of, weights, one_sentence):
    bare = {name: w for name, w in weights.items() if name != EMBED} | {HEAD: weights[EMBED]}
    fields = {"draft_vocab_size": None, "tie_word_embeddings": True}
    one_sentence(lambda: draft_of(base=bare, **fields), HEAD, "the head is the target's")


def test_a_target_is_whole(draft_of, one_sentence):
    folder = draft_of().folder
    one_sentence(lambda: open_checkpoint(folder), "draft_vocab_size", "but in a draft's folder")
    config = json.loads((folder / "config.json").read_text())
    del config["draft_vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    one_sentence(lambda: open_checkpoint(folder), f"{EMBED} is missing")


def test_a_target_with_the_map_alone(make, tmp_path, weights, one_sentence):
    folder = make.checkpoint(tmp_path / "m", weights=weights | {"d2t": d2t()})
    one_sentence(lambda: open_checkpoint(folder), "d2t", "expected no such tensor")


def test_a_folder_without_a_tokenizer_has_the_targets_size(
    make, tmp_path, target, weights, one_sentence
):
    few = head_weights(weights) | {EMBED: weights[EMBED][:310]}
    config = config_of(vocab_size=310, **head_fields())
    draft = write_draft(tmp_path / "d", config, few)
    config = EngineConfig(target, num_threads=1, speculative={"model": draft})
    one_sentence(lambda: Engine(config), "tokenizer.json", "vocab_size 320", "vocab_size 310")


def test_the_core_needs_the_target(draft_of):
    with pytest.raises(InvalidInputError, match="lends its embedding, got none"):
        draft_of().decoder("float32")


def test_the_embedding_is_the_targets_memory(draft_of, target):
    """The draft must read the embedding from the target's memory. So the embedding must not count
    among the draft's parameters."""
    draft, whole = draft_of(), open_checkpoint(target)
    lender = whole.decoder("float32")
    borrower = draft.decoder("float32", target=lender)
    own = sum(np.prod(shape) for shape in draft.shapes.values())
    assert borrower.parameters == own == lender.parameters - 320 * 32 + len(IDS) * 32
    with pytest.raises(InvalidInputError, match=r"embed_tokens"):
        borrower.row(EMBED, 0)


def test_a_draft_keeps_the_weights_of_its_target(draft_of, target, tools):
    """The shared weights must stay alive after the target's decoder is deleted."""
    draft, whole = draft_of(), open_checkpoint(target)
    expected = tools.Sequence(draft.decoder("float32", target=whole.decoder("float32"))).chunk([3])
    again = whole.decoder("float32")
    borrower = draft.decoder("float32", target=again)
    del again
    assert (tools.Sequence(borrower).chunk([3]) == expected).all()


def test_a_head_of_some_rows_gives_their_logits(draft_of, target, tools, weights):
    """The logits must have the same bits as the logits for these ids in the model with all rows."""
    lender = open_checkpoint(target).decoder("float32")
    trimmed = draft_of().decoder("float32", target=lender)
    tokens = [5, 319, 60, 2]
    few, all_of_them = (tools.Sequence(model).chunk(tokens) for model in (trimmed, lender))
    assert few.shape == (4, len(IDS))
    assert (few == all_of_them[:, list(IDS)]).all()


STORED = ("float32", "bfloat16", "int8", "int4")


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("tied", [True, False])
def test_every_storage(make, tmp_path, weights, dtype, tied):
    """Drafts must work with a target whose embedding is packed, and with a target whose LM head is
    its embedding."""
    whole = weights if tied else weights | {HEAD: weights[EMBED][::-1].copy()}
    lender = make.checkpoint(tmp_path / "t", weights=whole, tie_word_embeddings=tied)
    bare = {name: w for name, w in make.noisy(weights, 0.01, 3).items() if name != EMBED}
    borrower = make.checkpoint(tmp_path / "whole", weights=bare)
    near = make.noisy(weights, 0.01, 3)
    given = head_weights(near, embedding=False)
    trimmed = write_draft(tmp_path / "d", config_of(**head_fields()), given)
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=24, ignore_eos=True)
    found = []
    for draft in (None, trimmed, borrower):
        spec = draft and {"model": draft, "method": "draft_model"}
        config = EngineConfig(lender, num_threads=1, dtype=dtype, speculative=spec)
        with Engine(config) as engine:
            out = engine.generate([[7, 8, 9], [200, 3]], params)
            found.append([o.outputs[0].token_ids for o in out])
            if draft:
                metrics = [o.outputs[0].spec_decode_metrics for o in out]
                assert sum(m["num_draft_tokens"] for m in metrics) > 0
    assert found[0] == found[1] == found[2]
