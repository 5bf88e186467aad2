"""Contract under test: streamed text grows by whole characters only. It never shows a part of a
stop string. The metrics of an answer match their definitions."""

import random
from types import SimpleNamespace

import pytest

from sbrt import SamplingParams
from sbrt.methods import parse
from sbrt.model.tokenizer import Detokenizer, Tokenizer, check_pair
from sbrt.outputs import LaneTimes, spec_decode_metrics
from sbrt.serve.request import Outputs, Request
from sbrt.trace.spans import Span, lane_times


@pytest.fixture(scope="module")
def tokenizer(folders):
    return Tokenizer(folders[0] / "tokenizer.json")


def ids_of_bytes(tokenizer, raw):
    """Return the ids of the tokens that are single bytes, one for each byte of `raw`."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = (b for b in range(256) if b not in visible)
    names = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    by_name = {token: i for i, token in tokenizer.tokens.items()}
    return [by_name[names[b]] for b in raw]


def pieces(tokenizer, ids, prompt=()):
    detokenizer = Detokenizer(tokenizer, prompt)
    return [detokenizer.push(i) for i in ids]


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語", "🙂🚀 x", "a\n\tb  c", "\x00\x7f", "e\u0301"]
)
def test_byte_by_byte_gives_whole_characters(tokenizer, text):
    parts = pieces(tokenizer, ids_of_bytes(tokenizer, text.encode()))
    assert "".join(parts) == text
    assert all(len(part) <= 1 and "\ufffd" not in part for part in parts)


def test_tokens_of_a_text_give_the_text(tokenizer):
    text = "def naïve(日本):\n    return '🙂' + \"für\"  # 語\n" * 5
    parts = pieces(tokenizer, tokenizer.encode(text, 10_000))
    assert "".join(parts) == text


def test_a_prompt_that_ends_inside_a_character_is_completed(tokenizer):
    raw = ids_of_bytes(tokenizer, "caf🙂!".encode())
    assert "".join(pieces(tokenizer, raw[5:], prompt=raw[:5])) == "🙂!"


def test_random_bytes_give_what_python_decodes(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        pool = rng.choice([range(256), range(128, 256), [0xF0, 0x9F, 0x99, 0x82, 0x41]])
        raw = bytes(rng.choice(pool) for _ in range(rng.randrange(80)))
        text = "".join(pieces(tokenizer, ids_of_bytes(tokenizer, raw)))
        wanted = raw.decode("utf-8", errors="replace")
        assert wanted.startswith(text)
        assert len(wanted) - len(text) <= 24  # only an unfinished character may be missing
        assert set(wanted[len(text) :]) <= {"\ufffd"}


def test_endless_pieces_of_characters_do_not_pile_up(tokenizer):
    ids = ids_of_bytes(tokenizer, b"\x80" * 2000 + b"x")
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == "\ufffd" * 2000 + "x"
    assert all(parts[100 + i : 130 + i] != [""] * 30 for i in range(0, 1800, 30))


def test_special_tokens_are_not_shown(tokenizer):
    ids = tokenizer.encode("a<|endoftext|>b", 100)
    assert 0 in ids
    assert "".join(pieces(tokenizer, ids)) == "ab"


def test_pairs_are_compared_token_by_token(tokenizer):
    check_pair(tokenizer, tokenizer)
    other = SimpleNamespace(size=tokenizer.size, tokens=dict(tokenizer.tokens))
    del other.tokens[18]
    check_pair(tokenizer, other)  # a draft may lack tokens, at the end or elsewhere
    with pytest.raises(ValueError, match=r"token 18 is None in the target .* in the draft"):
        check_pair(other, tokenizer)
    other.tokens[17] = "zz"
    with pytest.raises(ValueError, match=r"token 17 is .* 'zz' in the draft"):
        check_pair(tokenizer, other)


# --- stop strings ---


class Words:
    """A fake tokenizer, whose token i is the i-th word of a list. It also has the methods of
    `tokenizer.pieces`."""

    def __init__(self, words):
        self.words, self.pieces = words, self

    def string(self, token, *, skip_special):
        return self.words[token]

    def bytes_of(self, string):
        return None

    def units_of(self, data):
        return []

    def text(self, units):
        return "".join(string for unit in units for string in unit)


def request_of(words, **params):
    return Request(
        id="r",
        prompt=None,
        prompt_ids=[0],
        params=SamplingParams(**params),
        method=parse("none"),
        sink=None,
        outputs=Outputs.ROUNDS,
        seed=0,
        eos=frozenset(),
        detokenizer=Detokenizer(Words(words), []),
    )


def test_streams_never_show_part_of_a_stop_string():
    rng = random.Random(1)
    for _ in range(500):
        words = ["".join(rng.choices("ab", k=rng.randrange(1, 4))) for _ in range(6)]
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 5))) for _ in range(2)]
        ids = [rng.randrange(6) for _ in range(12)]
        request, shown = request_of(words, stop=stops), ""
        for token in ids:
            request.accept([token])
            shown += request.output(None, None).delta
            if request.finish_reason:
                break
        whole = "".join(words[i] for i in request.token_ids)
        ends = [whole.index(s) for s in stops if s in whole]
        before = "".join(words[i] for i in request.token_ids[:-1])
        assert not any(s in before for s in stops)
        if ends:
            assert shown == "".join(request.pieces) == whole[: min(ends)]
            assert request.finish_reason == "stop"
        else:
            assert request.finish_reason is None
            assert whole.startswith(shown)
            assert len(whole) - len(shown) < max(map(len, stops))


def test_rounds_and_single_tokens_stop_alike():
    words = ["a", "b", "ab", "ba"]
    rng = random.Random(2)
    for _ in range(200):
        ids = [rng.randrange(4) for _ in range(10)]
        one, many = (request_of(words, stop=["abba"]) for _ in range(2))
        for token in ids:
            if one.finish_reason is None:
                one.accept([token])
        many.accept(ids)
        assert (one.token_ids, one.text) == (many.token_ids, many.text)


# --- figures ---


def stats_of(**given):
    zero = dict.fromkeys(
        "rounds draft_tokens accepted rollback_tokens branches branch_rounds branch_hits "
        "discarded_branch_tokens draft_limit_rounds empty_residuals".split(),
        0,
    )
    return SimpleNamespace(**(zero | {"histogram": [0] * 64} | given))


def test_ratios_of_nothing_are_zero():
    spec = spec_decode_metrics(stats_of(), LaneTimes(), tokens=0, gamma=0)
    assert spec["mean_acceptance_length"] == spec["rollback_rate"] == 0.0
    assert spec["draft_acceptance_rate"] == 0.0
    assert spec["acceptance_histogram"] == [0]


def test_the_bonus_counts_in_the_mean():
    stats = stats_of(rounds=4, accepted=6, draft_tokens=16, rollback_tokens=10)
    spec = spec_decode_metrics(stats, LaneTimes(1.0, 2.0, 0.5), tokens=10, gamma=4)
    assert spec["mean_acceptance_length"] == 2.5
    assert spec["draft_acceptance_rate"] == 6 / 16
    assert spec["rollback_rate"] == 1.0
    assert (spec["draft_time_s"], spec["verify_time_s"], spec["overlap_time_s"]) == (1.0, 2.0, 0.5)


def test_lane_times_are_work_without_waits_and_prefill():
    def span(stream, name, begin, end, is_wait=False):
        return Span(stream, name, begin * 10**9, end * 10**9, is_wait)

    spans = [
        span("target", "prefill", 0, 5),
        span("target", "verify", 10, 20),
        span("target", "draft_ready", 20, 25, True),
        span("target", "verify", 30, 40),
        span("draft", "step", 5, 12),
        span("draft", "step", 15, 35),
        span("draft", "verify_done", 35, 40, True),
    ]
    assert lane_times(spans) == LaneTimes(draft=27.0, verify=20.0, overlap=2.0 + 5.0 + 5.0)
