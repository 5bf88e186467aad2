"""Contract under test: Ctrl-C and abort end a generation at any moment, also inside a prefill or
a round. Later answers are those of a new engine. Other Python threads run meanwhile. Closing joins
every thread."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sbrt import Engine, EngineError, SamplingParams
from sbrt._core import EngineCore, Policy, Sampling, Toy
from sbrt.methods import DRAFTLESS, METHODS
from tests.common.toys import GREEDY, PROMPT, answer, fresh, ids_of, toy_engine

GATE = {"gate_at": 300}  # a forward of position 300 waits until the gate is opened


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, as in a terminal. A shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def gated_engine(
    lane: str = "target", methods: tuple[str, ...] = (), **fault: int
) -> Iterator[tuple[Engine, Toy]]:
    """Yield an engine and the toy whose forwards wait at a gate. At the end open the gate and close
    the engine."""
    engine = toy_engine(**{lane: GATE | fault}, methods=methods)
    toy = getattr(engine.pair, lane)
    try:
        yield engine, toy
    finally:
        toy.open_gate()
        engine.close()


def test_a_long_prefill_tells_how_far_it_is() -> None:
    """While the prefill waits in the fifth of ten pieces, on_prefill gets the number of tokens of
    four pieces."""
    with gated_engine() as (engine, toy):
        told: list[tuple[int, int]] = []

        def on_prefill(done: int, total: int) -> None:
            told.append((done, total))
            if len(told) == 3:
                toy.open_gate()

        engine.on_prefill = on_prefill
        assert answer(engine, PROMPT) == fresh(PROMPT)
        assert told[:3] == [(256, 639)] * 3
        assert told == sorted(told)
        engine.on_prefill = None
        before = len(told)
        assert answer(engine, PROMPT) == fresh(PROMPT)
        assert len(told) == before


@contextmanager
def ctrl_c_at_the_gate(engine: Engine, toy: Toy) -> Iterator[None]:
    """Send SIGINT while a forward waits at the gate. The block must raise KeyboardInterrupt while
    the forward still waits."""

    def send() -> None:
        while not (toy.waiting and engine.has_unfinished_requests()):
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # daemon=True, so that the program ends even if the test fails.
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    sender.join()
    assert toy.waiting


# --- Ctrl-C ---


@pytest.mark.parametrize("length", [640, 290], ids=["in the prefill", "in a round"])
@pytest.mark.parametrize(
    ("lane", "method"),
    [
        *(("target", method) for method in METHODS),
        *(("draft", method) for method in METHODS if method not in (*DRAFTLESS, "auto")),
    ],
)
def test_ctrl_c_inside_one_long_call(lane: str, method: str, length: int) -> None:
    """KeyboardInterrupt is raised while a forward still runs. The rest of that forward must not
    affect later requests."""
    with gated_engine(lane, methods=(method,)) as (engine, toy):
        with ctrl_c_at_the_gate(engine, toy):
            engine.generate(PROMPT[:length], GREEDY, method=method)
        assert not engine.has_unfinished_requests()
        toy.open_gate()
        for prompt in (PROMPT[:20], PROMPT[:length]):
            assert answer(engine, prompt, method=method) == fresh(prompt)


@pytest.mark.parametrize("start", ["step", "stream"])
def test_ctrl_c_inside_a_long_round_of_a_stream(start: str) -> None:
    with gated_engine() as (engine, toy):
        with ctrl_c_at_the_gate(engine, toy):
            if start == "stream":
                list(engine.stream(PROMPT[:290], GREEDY))
            engine.add_request("a", PROMPT[:290], GREEDY)
            while engine.has_unfinished_requests():
                engine.step()
        engine.abort_request("a")  # Ctrl-C between two rounds does not end the request
        assert not engine.has_unfinished_requests()
        toy.open_gate()
        assert answer(engine, PROMPT[:290]) == fresh(PROMPT[:290])


def test_ctrl_c_while_waiting_for_a_round_that_was_dropped() -> None:
    with gated_engine() as (engine, toy):
        for _ in range(2):  # in the second turn the request has not begun
            with ctrl_c_at_the_gate(engine, toy):
                engine.generate(PROMPT[:290], GREEDY)
        toy.open_gate()
        assert answer(engine, PROMPT[:9]) == fresh(PROMPT[:9])


def test_what_a_dropped_round_threw_belongs_to_nobody() -> None:
    with gated_engine(throw_at=300) as (engine, toy):
        with ctrl_c_at_the_gate(engine, toy):
            engine.generate(PROMPT[:290], GREEDY)
        toy.open_gate()
        assert answer(engine, PROMPT[:9]) == fresh(PROMPT[:9])
        with pytest.raises(EngineError, match="position 300"):
            engine.generate(PROMPT[:290], GREEDY)


INTERRUPTED = """
import sys
from sbrt import Engine, SamplingParams
from sbrt.model.demo_pair import demo_folder

def engine():
    return Engine.from_pretrained(
        demo_folder("target"), demo_folder("draft"), num_threads=2,
        speculative={"method": "specbranch"})

params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
used = engine()
try:
    print("begun", flush=True)
    used.generate(["def add(a, b):"] * 100_000, params)
except KeyboardInterrupt:
    print("interrupted", flush=True)
[after], [new] = (e.generate("def add(a, b):", params)[0].outputs for e in (used, engine()))
print(after.token_ids == new.token_ids and len(new.token_ids) == 60)
"""


def test_ctrl_c_in_a_program() -> None:
    """A terminal's SIGINT ends a generation that would take an hour."""
    program = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=120)[0] == "interrupted\nTrue\n"
        assert child.returncode == 0


# --- abort ---


def test_an_abort_from_another_thread_comes_before_the_end() -> None:
    """The thread that generates passes the engine's lock to the thread that aborts. Without the
    abort, the generation would run for seconds."""
    with toy_engine(max_model_len=1 << 20) as engine:
        outputs = []
        params = SamplingParams(temperature=0, max_tokens=None)
        work = threading.Thread(target=lambda: outputs.extend(engine.generate([1], params)))
        work.start()
        while not engine.has_unfinished_requests():
            pass
        engine.abort_request("generate-0")
        work.join()
        assert outputs[0].outputs[0].finish_reason == "abort"


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.exact)])
@pytest.mark.parametrize("method", METHODS)
def test_an_abort_after_any_number_of_steps(method: str, stride: int) -> None:
    """An abort does not affect the next request, which waits in the queue meanwhile."""
    with toy_engine(methods=("none", method)) as engine:
        first, then = fresh(PROMPT[:70]), fresh(PROMPT[:9])
        for steps in range(0, 45, 1 if method == "none" else stride):
            engine.add_request("a", PROMPT[:70], GREEDY, method=method)
            engine.add_request("b", PROMPT[:9], GREEDY, method=method)
            last = {}
            for _ in range(steps):
                last |= {output.request_id: output for output in engine.step()}
            engine.abort_request("a")
            while engine.has_unfinished_requests():
                last |= {output.request_id: output for output in engine.step()}
            assert ids_of(last["b"]) == then, steps
            if "a" in last:
                assert ids_of(last["a"]) == first[: len(ids_of(last["a"]))]
        # in the last turn request a ends before its abort
        assert last["a"].outputs[0].finish_reason == "length"


# --- threads ---


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")


@linux
@pytest.mark.parametrize("how", ["finished", "failed", "stream", "interrupted", "queued"])
def test_closing_joins_every_thread(how: str) -> None:
    before = threads_of_this_process()
    with gated_engine(**({"throw_at": 200} if how == "failed" else {})) as (engine, toy):
        assert threads_of_this_process() > before
        if how == "finished":
            assert len(answer(engine, PROMPT[:20])) == 40
        elif how == "failed":
            with pytest.raises(EngineError, match="position 200") as caught:
                engine.generate(PROMPT[:190], GREEDY)
            # The traceback is kept alive, because its frames refer to the core.
            assert caught.tb
        elif how == "stream":
            stream = engine.stream(PROMPT[:20], GREEDY)
            next(stream)
        elif how == "interrupted":
            with ctrl_c_at_the_gate(engine, toy):
                engine.generate(PROMPT[:290], GREEDY)
        else:
            engine.add_request("a", PROMPT[:20], GREEDY)
    assert threads_of_this_process() == before


@linux
def test_an_engine_that_is_forgotten_joins_every_thread() -> None:
    before = threads_of_this_process()
    engine = toy_engine(num_threads=3)
    stream = engine.stream(PROMPT[:20], GREEDY)
    next(stream)
    assert threads_of_this_process() > before
    del engine, stream
    assert threads_of_this_process() == before


LEFT_OPEN = """
from tests.common.toys import GREEDY, PROMPT, toy_engine

engine = toy_engine()
stream = engine.stream(PROMPT[:20], GREEDY)
next(stream)
{more}
print("end")
"""


@pytest.mark.parametrize("more", ["", "engine.add_request('a', PROMPT[:20], GREEDY)"])
def test_an_interpreter_ends_with_an_engine_open(more: str) -> None:
    code = LEFT_OPEN.format(more=more)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("length", [640, 290], ids=["prefill", "round"])
def test_a_python_thread_runs_during_one_long_call(length: int) -> None:
    """If begin() or run() held the GIL, the Python thread could not open the gate."""
    toy = Toy(**GATE)
    core = EngineCore(toy, None, max_model_len=4096)

    def one_long_call() -> list[int]:
        core.begin(PROMPT[:length], Sampling(), Policy(), 40)
        return core.run()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(one_long_call)
        while not toy.waiting:
            assert not call.done()
        toy.open_gate()
        assert len(call.result()) == 40


def test_two_engines_in_two_threads_answer_as_alone() -> None:
    sampled = SamplingParams(temperature=0.9, seed=4, max_tokens=60, presence_penalty=0.5)
    prompts = [PROMPT[i : i + 5 + i] for i in range(20)]
    alone = [[fresh(prompt, params) for prompt in prompts] for params in (GREEDY, sampled)]
    together: list[list[list[int]]] = [[], []]
    engines = [toy_engine(), toy_engine()]
    pairs = zip(engines, (GREEDY, sampled), together, strict=True)

    def work(engine: Engine, params: SamplingParams, out: list[list[int]]) -> None:
        out.extend(ids_of(output) for output in engine.generate(prompts, params))

    threads = [threading.Thread(target=work, args=given) for given in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    for engine in engines:
        engine.close()
