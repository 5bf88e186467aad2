"""Contract under test: a program ends with its own exit code and nothing on stderr, whatever its
daemon threads do in an engine at that moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import atexit, sys, threading, time
from sbrt import Engine, EngineConfig, SamplingParams
from sbrt.model.demo_pair import DRAFT, TARGET, demo_folder

PARAMS = SamplingParams(max_tokens=300, ignore_eos=True, temperature=0)


def open_engine(threads=2):
    return Engine.from_pretrained(
        demo_folder(TARGET), demo_folder(DRAFT), num_threads=threads,
        speculative={"method": "specbranch"})


def in_daemon(call):
    begun = threading.Event()

    def work():
        begun.set()
        while True:
            call()

    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    time.sleep(0.1)

"""

ENDS = {
    "generate": "e = open_engine()\nin_daemon(lambda: e.generate('abc', PARAMS))",
    "one thread": "e = open_engine(1)\nin_daemon(lambda: e.generate('abc', PARAMS))",
    "stream": "e = open_engine()\nin_daemon(lambda: list(e.stream('abc', PARAMS)))",
    "prefill": "e = open_engine()\nin_daemon(lambda: e.generate([7] * 1000, PARAMS))",
    "load": "in_daemon(open_engine)",
    "costs": "e = open_engine()\nin_daemon(lambda: e.measure_costs(0.3))",
    "engines": (
        "a, b = open_engine(), open_engine()\n"
        "for e in (a, b):\n    in_daemon(lambda e=e: e.generate('abc', PARAMS))"
    ),
    "an engine of the thread's own": "in_daemon(lambda: open_engine().generate('abc', PARAMS))",
    "a suspended stream": (
        "e = open_engine()\nin_daemon(lambda: e.generate('abc', PARAMS))\n"
        "s = e.stream('abc', PARAMS)\nnext(s)"
    ),
    "a profile": (
        "import os, tempfile\ne = open_engine()\n"
        "e.start_profile(os.path.join(tempfile.mkdtemp(), 'p.json'))\n"
        "in_daemon(lambda: e.generate('abc', PARAMS))"
    ),
    "a destructor that closes": (
        "e = open_engine()\nin_daemon(lambda: e.generate('abc', PARAMS))\n"
        "class Owner:\n    def __init__(self):\n        self.close = e.close\n"
        "    def __del__(self):\n        self.close()\n"
        "sys.owner = Owner()"
    ),
    "a signal handler": (
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\ne = open_engine()\n"
        "s = e.stream('abc', PARAMS)\nnext(s)\n"
        "in_daemon(lambda: e.generate('abc', PARAMS))\ne.generate('abc', PARAMS)\n"
        "class Owner:\n    def __init__(self):\n        self.close = e.close\n"
        "    def __del__(self):\n        self.close()\n"
        "sys.owner = Owner()"
    ),
}


# Most programs exit with code 3, which only the program itself can have set.
CASES = [("generate", 0), *((end, 3) for end in ENDS)]
MORE_CASES = [(end, 0) for end in ENDS if end != "generate"]


@pytest.mark.parametrize(
    ("end", "code"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.exact) for case in MORE_CASES)],
)
def test_the_exit_code_is_the_program_s_own(end: str, code: int) -> None:
    script = f"{BEGIN}{ENDS[end]}\nprint('end', flush=True)\nsys.exit({code})\n"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "end\n", "")


def test_an_exit_handler_that_closes_ends_the_work_first() -> None:
    """The daemon thread outlives the exit handlers, so its call raises the error of a closed
    engine."""
    script = (
        f"{BEGIN}from sbrt import EngineError\ne = open_engine()\n"
        "def work():\n    try:\n        e.generate('abc', PARAMS)\n    except EngineError:\n"
        "        time.sleep(60)\n"
        "in_daemon(work)\natexit.register(e.close)\nprint('end', flush=True)\nsys.exit(3)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "end\n", "")


def test_an_exit_handler_may_call_an_engine_of_a_program_with_a_signal_handler() -> None:
    """A helper thread makes the engine calls of the main thread. The helper thread exists until the
    exit handlers are over."""
    script = (
        f"{BEGIN}import signal\ne = open_engine()\n"
        "atexit.register(lambda: print(len(e.generate('abc', PARAMS)), flush=True))\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "e.generate('abc', PARAMS)\nsys.exit(3)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "1\n", "")
