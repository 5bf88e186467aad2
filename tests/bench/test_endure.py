"""Contract under test: bench.endure runs clients of all kinds against a real server, and detects
wrong answers."""

import json
import random

from bench import endure


def test_a_short_storm(capsys):
    assert endure.main(["--clients", "4", "--minutes", "0.03", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["sound"]
    assert found["answers"] > 0
    assert found["differ"] == found["unended"] == found["unfinished_afterwards"] == 0
    assert (found["streams_at_the_end"], found["exit_code"]) == (4, 0)


def test_another_answer_is_noticed():
    key = endure.key_of(endure.drawn(random.Random(0)))
    assert endure.differing("demo", [(key, "never said")]) == 1


def test_bad_input_is_one_sentence(capsys):
    assert endure.main(["--clients", "0"]) == 2
    assert "--clients: expected 1 to 512, got 0" in capsys.readouterr().err
