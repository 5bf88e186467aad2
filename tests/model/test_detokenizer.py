"""Contract under test: the text of a prompt, followed by the text that each later token adds, is
the text of all tokens together. This holds wherever the prompt ends. The cost of a token does not
depend on the length of the text."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from sbrt import SamplingParams
from sbrt.methods import parse
from sbrt.model.detokenizer import Pieces
from sbrt.model.tokenizer import Detokenizer, Tokenizer
from sbrt.serve.request import Outputs, Request

REPLACEMENT = "\ufffd"
TEXTS = ["🙂\n\nthe cat", "a\ufffd\ufffd b", "你龘你龘", "the the  the", " the", "naïve 語\x00"]


class Words:
    """A tokenizer under test, and the tokenizers library's object for the same file."""

    def __init__(self, folder):
        self.path = folder / "tokenizer.json"
        self.ours, self.library = Tokenizer(self.path), Library.from_file(str(self.path))
        self.ids = self.library.get_vocab()

    def bytes(self, text):
        """Return the ids that spell a text byte by byte."""
        data = text if isinstance(text, bytes) else text.encode()
        if "<0x00>" in self.ids:
            return [self.ids[f"<0x{byte:02X}>"] for byte in data]
        names = sorted(pre_tokenizers.ByteLevel.alphabet())
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = (byte for byte in range(256) if byte not in visible)
        letters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        assert sorted(letters.values()) == names
        return [self.ids[letters[byte]] for byte in data]

    def encode(self, text):
        return self.library.encode(text, add_special_tokens=False).ids

    def decode(self, ids, skip):
        """Return the library's text, but decode stray bytes differently.

        If the neighbours of a stray byte are byte tokens, the library replaces them by U+FFFD, too.
        It does so even if the neighbours form whole characters.
        """
        if "<0x00>" not in self.ids:
            return self.library.decode(ids, skip_special_tokens=skip)
        strings = [self.library.id_to_token(i) for i in ids]
        special = ("<unk>", "<s>", "</s>")
        text = b"".join(self._raw(s) for s in strings if not (skip and s in special))
        text = text.decode("utf-8", "surrogateescape")
        return re.sub("[\udc80-\udcff]", REPLACEMENT, text).removeprefix(" ")

    def _raw(self, string):
        if found := re.fullmatch("<0x(..)>", string):
            return bytes.fromhex(found[1])
        return string.replace("\u2581", " ").encode()

    def answer(self, ids, prompt=(), skip=True):
        """Return a list of texts. Each token adds one text; the last text is the one that flush()
        adds."""
        detokenizer = Detokenizer(self.ours, prompt, skip_special=skip)
        return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("byte_level")
    make.write_tokenizer(folder, extra=["<|im_start|>", "<|sp ace|>"])
    return Words(folder)


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("byte_fallback")
    make.write_byte_fallback(folder)
    return Words(folder)


@pytest.fixture(scope="module", params=["byte_level", "byte_fallback"])
def words(request):
    return request.getfixturevalue(request.param)


def check_cuts(words, ids, skip):
    whole, parts = words.decode(ids, skip), words.answer(ids, skip=skip)
    assert "".join(parts) == whole
    for cut in range(len(ids) + 1):
        before = "".join(parts[:cut])
        after = "".join(words.answer(ids[cut:], ids[:cut], skip))
        assert before + after == whole, cut
        alone = words.decode(ids[:cut], skip)
        assert alone.startswith(before)
        assert set(alone[len(before) :]) <= {REPLACEMENT, " "}  # part of one unfinished character
        assert len(alone) - len(before) <= 3


ALL_IDS = st.integers(0, 10**6)
PIECES = st.one_of(
    st.lists(ALL_IDS, max_size=3),
    st.text(max_size=3),
    st.sampled_from(TEXTS),
    st.sampled_from(TEXTS).map(lambda text: text.encode()),
    st.sampled_from([b"\xe4\xbd", b"\xf0\x9f\x99", b"\x80", b"\xed\xa0\x80", b"\xf4\x90", b" "]),
)


def ids_of(words, pieces):
    """Return the ids of all `pieces`. A piece is a list of numbers, a text that the tokenizer
    encodes, or bytes that are encoded one by one."""
    ids = []
    for piece in pieces:
        if isinstance(piece, list):
            ids += [sorted(words.ids.values())[i % len(words.ids)] for i in piece]
        else:
            ids += words.encode(piece) if isinstance(piece, str) else words.bytes(piece)
    return ids


@settings(deadline=None, max_examples=150)
@given(st.lists(PIECES, max_size=5), st.booleans())
def test_byte_level_text_is_the_same_wherever_the_prompt_ends(byte_level, pieces, skip):
    check_cuts(byte_level, ids_of(byte_level, pieces), skip)


@settings(deadline=None, max_examples=150)
@given(st.lists(PIECES, max_size=5), st.booleans())
@example(["the", "你".encode(), [1], b"\x80"], True)
def test_byte_fallback_text_is_the_same_wherever_the_prompt_ends(byte_fallback, pieces, skip):
    check_cuts(byte_fallback, ids_of(byte_fallback, pieces), skip)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from(TEXTS)), max_size=5), st.booleans())
def test_text_that_was_encoded_is_what_the_library_decodes(words, texts, skip):
    ids = [i for text in texts for i in [1, *words.encode(text), 2]]
    assert "".join(words.answer(ids, skip=skip)) == words.library.decode(
        ids, skip_special_tokens=skip
    )


@pytest.mark.parametrize("text", ["a\ufffd", "\ufffd\ufffd", "🙂", "你龘", "🙂\n\n"])
def test_what_a_prompt_ends_with_does_not_come_again(words, text):
    word = words.ids["c"]
    assert words.answer([word, word], words.bytes(text)) == ["c", "c", ""]


def test_only_the_unfinished_character_is_held_back(words):
    ids = [*words.bytes("é🙂"), words.ids["c"]]
    assert words.answer(ids) == ["", "é", "", "", "", "🙂", "c", ""]
    assert words.answer(words.bytes("\ufffd")) == ["", "", REPLACEMENT, ""]
    assert words.answer(words.bytes(b"a\x80a")) == ["a", REPLACEMENT, "a", ""]
    cut = words.answer(words.bytes("é🙂".encode()[:-1]))
    assert cut[:-1] == ["", "é", "", "", ""]
    assert set(cut[-1]) == {REPLACEMENT}


def test_a_space_after_many_special_tokens_stays(byte_fallback):
    the = byte_fallback.ids["\u2581the"]
    assert byte_fallback.answer([2] * 50 + [the], [1, the]) == [""] * 50 + [" the", ""]
    assert byte_fallback.answer([2] * 50 + [the], [1]) == [""] * 50 + ["the", ""]


def other_tokenizer(folder, decoder):
    vocab = ["a", "##b", "\u2581c", "d</w>", ".", "[PAD]", "e"]
    library = Library(models.WordLevel({name: i for i, name in enumerate(vocab)}, "a"))
    if decoder is not None:
        library.decoder = decoder
    library.save(str(folder / "tokenizer.json"))
    return Words(folder)


@pytest.mark.parametrize(
    "decoder",
    [None, decoders.WordPiece(), decoders.Metaspace(), decoders.BPEDecoder(), decoders.Fuse()],
    ids=str,
)
@given(ids=st.lists(st.integers(0, 6), max_size=8), cut=st.integers(0, 8))
@settings(deadline=None, max_examples=100)
def test_decoders_that_look_at_neighbours(tmp_path_factory, decoder, ids, cut):
    words = other_tokenizer(tmp_path_factory.mktemp("other"), decoder)
    cut = min(cut, len(ids))
    before, whole = words.library.decode(ids[:cut]), words.library.decode(ids)
    assert before + "".join(words.answer(ids[cut:], ids[:cut])) == whole


# --- cost ---


class Counted(Pieces):
    """A `Pieces` that counts the units that it decodes. A unit is a character, or a byte that is
    part of no character."""

    def __init__(self, words):
        super().__init__(words.library, json.loads(words.path.read_text()))
        self.pieces, self.units = self, 0

    def text(self, units):
        self.units += len(units)
        return super().text(units)


@pytest.mark.parametrize("text", [b"\n", b"\x80", "龘".encode(), b"\xe4\xbd", b" "])
@pytest.mark.parametrize("skip", [True, False])
def test_a_token_costs_the_same_in_any_run_of_bytes(words, text, skip):
    ids = words.bytes(text) * 2000
    counted = Counted(words)
    detokenizer = Detokenizer(counted, ids, skip_special=skip)
    assert counted.units < 200
    for token in ids:
        detokenizer.push(token)
    assert counted.units < 10 * len(ids)


@pytest.mark.parametrize("name", ["\u2581", "</s>", "<unk>", "\u2581the"])
@pytest.mark.parametrize("skip", [True, False])
def test_a_token_costs_the_same_in_any_run_of_tokens(byte_fallback, name, skip):
    counted = Counted(byte_fallback)
    detokenizer = Detokenizer(counted, [1], skip_special=skip)
    for _ in range(2000):
        detokenizer.push(byte_fallback.ids[name])
    assert counted.units < 10 * 2000


# --- requests ---


def request_of(words, prompt=(), **params):
    return Request(
        id="r",
        prompt=None,
        prompt_ids=list(prompt),
        params=SamplingParams(temperature=0, **params),
        method=parse("none"),
        sink=None,
        outputs=Outputs.ROUNDS,
        seed=0,
        eos=frozenset({2}),
        detokenizer=Detokenizer(words.ours, prompt),
    )


def play(words, ids, prompt=(), **params):
    """Return (text, finish reason, stop reason) of an answer. The deltas of the answer must join to
    its text."""
    request, outputs = request_of(words, prompt, **params), []
    for token in ids:
        request.accept([token])
        outputs.append(request.output(None, None))
        if request.finish_reason is not None:
            break
    else:
        request.finish("length")
        outputs.append(request.output(None, None))
    text = outputs[-1].outputs[0].text
    assert "".join(output.delta for output in outputs) == text
    return text, request.finish_reason, request.stop_reason


@pytest.mark.parametrize("reason", ["length", "abort"])
def test_an_answer_that_ends_inside_a_character_shows_it(words, reason):
    request = request_of(words)
    request.accept(words.bytes("a🙂")[:-1])
    assert request.output(None, None).delta == "a"
    request.finish(reason)
    output = request.output(None, None)
    assert set(output.delta) == {REPLACEMENT}
    assert output.outputs[0].text == "a" + output.delta
    request.finish("abort")  # finishing again adds no text
    assert request.output(None, None).delta == ""


def test_an_end_token_after_half_a_character(byte_fallback):
    ids = [*byte_fallback.bytes("a你")[:-1], 2]
    assert play(byte_fallback, ids) == ("a" + 2 * REPLACEMENT, "stop", None)


def test_stop_strings_in_bytes(words):
    ids = words.bytes("x\n\n\ny🙂z")
    assert play(words, ids, stop=["\n\ny"]) == ("x\n", "stop", "\n\ny")
    assert play(words, ids, stop=["🙂"]) == ("x\n\n\ny", "stop", "🙂")
    whole = play(words, ids, stop=["\n\n\n"], include_stop_str_in_output=True)
    assert whole == ("x\n\n\n", "stop", "\n\n\n")
    # Stop strings are ignored until there are min_tokens tokens. So the second "\n\n" ends the
    # answer.
    assert play(words, ids, stop=["\n\n"], min_tokens=3) == ("x\n", "stop", "\n\n")
    assert play(words, ids, stop=["\n\n"], min_tokens=4)[1] == "length"


def test_a_stop_string_of_what_is_no_character(words):
    ids = words.bytes(b"ab\xf0\x9f")
    text, *why = play(words, ids, stop=["b" + REPLACEMENT])
    assert (text, why) == ("a", ["stop", "b" + REPLACEMENT])
    assert play(words, ids, stop=["b" + REPLACEMENT], min_tokens=4)[1] == "length"


def test_stop_tokens_that_are_shown(byte_fallback):
    ids = [byte_fallback.ids["\u2581the"], byte_fallback.ids["\u2581cat"]]
    stop = {"stop_token_ids": [ids[1]]}
    assert play(byte_fallback, ids, **stop) == ("the", "stop", ids[1])
    shown = play(byte_fallback, ids, include_stop_str_in_output=True, **stop)
    assert shown == ("the cat", "stop", ids[1])
