"""Contract under test: a forked child is refused in a sentence, and neither side hangs."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from sbrt import EngineError
from sbrt._core import Policy, Runtime, Sampling, Toy

toy = Toy(vocab=32, seed=1)
runtime = Runtime(toy, toy, max_model_len=200, num_threads=2)
runtime.begin([1, 2], Sampling(temperature=0), Policy(4, 2), 100)
runtime.run(max_rounds=2)
child = os.fork()
if child == 0:
    for call in (runtime.run, lambda: runtime.begin([1], Sampling(), Policy(0), 4)):
        try:
            call()
        except EngineError as error:
            assert "fork" in str(error) and "\\n" not in str(error), error
        else:
            os._exit(1)
    own = Runtime(toy, None, max_model_len=200)
    own.begin([1, 2], Sampling(temperature=0), Policy(0), 100)
    assert len(own.run()) == 100
    runtime.close()
    del runtime, own
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
runtime.run()
assert runtime.finish_reason == "length"
print("fine")
"""


def test_a_forked_child_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "fine", ran.stderr
