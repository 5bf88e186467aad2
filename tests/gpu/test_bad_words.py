"""Contract under test: if a text ends with all tokens of a bad word but the last, a device masks
the last token. The other tokens may be in the prompt, in the answer, and in chains and tails of any
method. Many sequences may share a round. The tokens must be those of the CPU, which reads the bad
words from a list."""

import pytest

from sbrt import Engine, InvalidInputError, _core, methods

METHODS = ("none", "pearl", "specbranch:k_max=3", "tree:gamma=3,width=4,nodes=12", "lookup:gamma=6")
SAMPLING = {"temperature": 0.8, "seed": 11}
TOKENS = 16


def start(core, prompt, method, words):
    return core.admit(
        prompt, _core.Sampling(**SAMPLING), methods.parse(method).policy(), TOKENS, [],
        _core.Shaping(bad_words=words),
    )  # fmt: skip


def answers(core, requests):
    """Run requests that share rounds. Return the tokens of each request."""
    seats = [start(core, *request) for request in requests]
    while not all(seat.finished for seat in seats):
        core.advance()
    found = [seat.take() for seat in seats]
    for seat in seats:
        seat.release()
    return found


@pytest.fixture
def opened(tool, tools, stand_in, checkpoints):
    """Return a function that opens an engine with `seats` seats on the stand-in, and returns its
    core."""
    engines = []

    def made(seats):
        pair = [checkpoint.folder for checkpoint in checkpoints["Qwen3"]]
        config = tool.config_of(pair, "cuda", max_model_len=tools.max_len, max_num_seqs=seats)
        engines.append(Engine(config, methods=METHODS))
        return stand_in.cores[-1][1]

    yield made
    for engine in engines:
        engine.close()


def test_words_of_several_tokens(tools, opened, checkpoints):
    prompts = [tools.prompt(9 + i, seed=i) for i in range(len(METHODS))]
    cpu = tools.Play(*map(tools.recorded, checkpoints["Qwen3"])).core
    free = [answers(cpu, [(prompt, "none", [])])[0] for prompt in prompts]
    words = [
        # Four kinds of bad words: the first crosses the end of the prompt, the next two are inside
        # the answer, one has one token, and the last never occurs.
        [[*p[-3:], a[0]], a[2:4], a[4:9], [a[10]], [66] * 40]
        for p, a in zip(prompts, free, strict=True)
    ]
    plain = list(zip(prompts, ["none"] * len(prompts), words, strict=True))
    want = [answers(cpu, [request])[0] for request in plain]
    cpu.close()
    for prompt, answer, before, banned in zip(prompts, want, free, words, strict=True):
        assert answer[0] != before[0]
        text = prompt[-3:] + answer
        for word in banned:
            assert all(text[i : i + len(word)] != word for i in range(len(text)))
    requests = list(zip(prompts, METHODS, words, strict=True))
    alone = opened(1)
    assert [answers(alone, [request])[0] for request in requests] == want
    # The bad words of earlier requests must no longer have an effect.
    assert answers(alone, [(prompts[0], "pearl", [])])[0] == free[0]
    assert answers(opened(len(METHODS)), requests) == want


def test_more_than_there_is_room_for(tools, opened):
    core = opened(1)
    with pytest.raises(InvalidInputError, match=r"^bad_words: .* 32765 .* on cuda, got 40000$"):
        start(core, tools.prompt(9), "none", [[1, 2, 3]] * 10_000)
    assert len(answers(core, [(tools.prompt(9), "none", [[1, 2, 3]] * 5_000)])[0]) == TOKENS
