"""Contract under test: in a forked child every call of the parent's engine raises EngineError
immediately, even if a thread was inside a call at the fork. The child's close() of that engine does
nothing. An engine made in the child works, and both processes end."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUNTIME = """
import os, sys
from sbrt import EngineError
from sbrt._core import EngineCore, Sampling, Toy
from sbrt._probe import policy

toy = Toy(vocab=32, seed=1)
core = EngineCore(toy, toy, max_model_len=200, num_threads=2)
core.begin([1, 2], Sampling(temperature=0), policy(4, 2), 100)
core.run(max_rounds=2)
child = os.fork()
if child == 0:
    for call in (core.run, lambda: core.begin([1], Sampling(), policy(0), 4)):
        try:
            call()
        except EngineError as error:
            assert "fork" in str(error) and "\\n" not in str(error), error
        else:
            os._exit(1)
    own = EngineCore(toy, None, max_model_len=200)
    own.begin([1, 2], Sampling(temperature=0), policy(0), 100)
    assert len(own.run()) == 100
    core.close()
    del core, own
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
core.run()
assert core.seat(0).finish_reason == "length"
print("fine")
"""

ENGINE = """
import gc, logging, multiprocessing, os, signal, sys, tempfile, threading
from sbrt import Engine, EngineConfig, EngineError, SamplingParams
from sbrt._core import Toy
from sbrt.serve.pair import Pair

PARAMS = SamplingParams(temperature=0, max_tokens=60)
LONG = SamplingParams(temperature=0, max_tokens=400)


def open_engine():
    pair = Pair(Toy(vocab=32, seed=1), Toy(vocab=32, seed=1, noise16=8), None, frozenset(), 32, "f")
    config = EngineConfig("toy", skip_tokenizer_init=True, num_threads=2, max_model_len=4096,
                          speculative={"model": "toy", "method": "specbranch"})
    return Engine(config, pair=pair)


def ids(engine, params=PARAMS):
    return engine.generate([1, 2], params)[0].outputs[0].token_ids


engine = open_engine()
want = ids(engine)
suspended = engine.stream([5], PARAMS)
next(suspended)
engine.start_profile(os.path.join(tempfile.mkdtemp(), "profile.json"))
CALLS = {
    "generate": lambda: ids(engine),
    "stream": lambda: next(engine.stream([1], PARAMS)),
    "a suspended stream": lambda: next(suspended),
    "add_request": lambda: engine.add_request("r", [1], PARAMS),
    "step": engine.step,
    "abort_request": lambda: engine.abort_request("r"),
    "has_unfinished_requests": engine.has_unfinished_requests,
    "encode": lambda: engine.encode([1]),
    "rounds": engine.rounds,
    "features": engine.features,
    "trace": engine.trace,
    "measure_costs": lambda: engine.measure_costs(0.01),
    "stop_profile": engine.stop_profile,
    "start_profile": lambda: engine.start_profile("/dev/null"),
}


def check_in_child():
    global engine, suspended
    signal.alarm(60)
    for name, call in CALLS.items():
        try:
            call()
        except EngineError as error:
            assert "\\n" not in str(error), error
        else:
            raise AssertionError(name)
    assert engine.close() is None
    logging.getLogger("sbrt").warning("from the child")
    CALLS.clear()
    engine = suspended = None
    gc.collect()  # the destructors of the engine and of the stream
    with open_engine() as own:
        assert ids(own) == want


def forked():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check_in_child()
            code = 0
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


over, inside = threading.Event(), threading.Event()


def work():
    while not over.is_set():
        ids(engine, LONG)
        inside.set()


thread = threading.Thread(target=work)
if {inside}:
    thread.start()
    inside.wait()
codes = []
{fork}
over.set()
if {inside}:
    thread.join()
assert codes and not any(codes), codes
assert ids(engine) == want
engine.close()
print("fine")
"""

FORKS = {
    "by the main thread": "codes += [forked() for _ in range(3)]",
    "by another thread": (
        "other = threading.Thread(target=lambda: codes.append(forked()))\n"
        "other.start()\nother.join()"
    ),
    "by multiprocessing": (
        "child = multiprocessing.get_context('fork').Process(target=check_in_child)\n"
        "child.start()\nchild.join()\ncodes.append(child.exitcode)"
    ),
    "by a signal handler": (
        "signal.signal(signal.SIGUSR1, lambda *_: codes.append(forked()))\n"
        "signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)\nids(engine, LONG)"
    ),
}


def check_fine(script: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=300
    )
    assert ran.stdout.strip() == "fine", ran.stderr
    assert "Exception ignored" not in ran.stderr


def test_a_forked_child_is_refused() -> None:
    check_fine(RUNTIME)


@pytest.mark.parametrize("inside", [False, True], ids=["idle", "a thread inside"])
@pytest.mark.parametrize("fork", FORKS)
def test_every_call_of_a_forked_engine_is_refused(fork: str, inside: bool) -> None:
    check_fine(ENGINE.replace("{fork}", FORKS[fork]).replace("{inside}", str(inside)))
