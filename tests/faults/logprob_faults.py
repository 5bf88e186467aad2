"""Faults in the code for log-probs. Their format is that of faults.py."""

from tests.faults.faults import Fault

FAULTS = (
    Fault(
        "log-probs are those after a temperature",
        "csrc/ops/logprobs.cc",
        "most, 1.0f, nullptr",
        "most, 0.8f, nullptr",
        ("decode/test_logprobs.py", "serve/test_logprobs.py"),
    ),
    Fault(
        "ranks of log-probs begin at 0",
        "csrc/ops/logprobs.cc",
        "return 1 + before;",
        "return before;",
        ("decode/test_logprobs.py",),
    ),
    Fault(
        "ids that no token has count among the probabilities",
        "csrc/ops/logprobs.cc",
        "if (id < size_of(logits)) copy[id] = kMasked;",
        "if (id < size_of(logits)) copy[id] = logits[id];",
        ("decode/test_logprobs.py::test_holes_are_no_tokens",),
    ),
    Fault(
        "log-probs are read from rows of a neighbour",
        "csrc/round/logprobs.cc",
        "a.batch->first[seat] + verified_before(c, o.path[depth]);",
        "a.batch->first[0] + verified_before(c, o.path[depth]);",
        ("decode/test_logprobs.py::test_a_neighbour_that_asks_changes_nothing",),
    ),
    Fault(
        "log-probs of a tree are read from its first rows",
        "csrc/round/logprobs.cc",
        "a.batch->first[seat] + verified_before(c, o.path[depth]);",
        "a.batch->first[seat] + verified_before(c, depth);",
        ("decode/test_logprobs.py",),
    ),
    Fault(
        "a prompt's log-probs are of the tokens of their own rows",
        "csrc/round/logprobs.cc",
        "a.batch->row[row].position + 1,",
        "a.batch->row[row].position,",
        ("decode/test_logprobs.py",),
    ),
    Fault(
        "a prompt takes what a seat has of it although its log-probs are asked for",
        "csrc/decode/engine.cc",
        "const bool feeds_all = request.logprobs.prompt >= 0;",
        "const bool feeds_all = request.logprobs.prompt > 4096;",
        ("decode/test_logprobs.py",),
    ),
    Fault(
        "a stop string leaves the log-probs of the tokens behind it",
        "sbrt/serve/logprobs.py",
        "range(tokens - len(self.output))",
        "range(len(rows[0]))",
        ("serve/test_logprobs.py",),
    ),
    Fault(
        "of two tokens of one name the less likely one is told",
        "sbrt/server/logprobs.py",
        "found[name] = max(found.get(name, LEAST), value(logprob))",
        "found[name] = value(logprob)",
        ("server/test_logprobs.py",),
    ),
    Fault(
        "a token's bytes are those of its text, where it is a part of a character",
        "sbrt/server/logprobs.py",
        "list(self._tokenizer.bytes_of(token))",
        "list(self._tokenizer.text_of(token).encode())",
        ("server/test_logprobs.py",),
    ),
)
