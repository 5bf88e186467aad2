"""Contract under test: every request between start_profile and stop_profile becomes a process in
one Chrome trace, on one clock. Misuse raises an error of one sentence. A device times its lanes
only while a profile is taken."""

import json
import os

import pytest

from sbrt import Engine, EngineConfig, EngineError, InvalidInputError, SamplingParams
from sbrt.model.demo_pair import demo_folder
from sbrt.serve.scheduler import Scheduler
from sbrt.trace.profile import profile_path

PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def opened(**fields):
    """Return an engine whose method is not `auto`, because `auto` would measure costs each time."""
    return Engine.from_pretrained(
        *(demo_folder("target"), demo_folder("draft")),
        speculative={"method": "specbranch"},
        num_threads=2,
        max_model_len=128,
        **fields,
    )


@pytest.fixture
def engine():
    with opened() as made:
        yield made


def processes(path):
    """Return {pid: (name, slices)} of the trace at `path`."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    return {
        pid: (name, [e for e in events if e["pid"] == pid and e["ph"] == "X"])
        for pid, name in names.items()
    }


def test_every_request_is_a_process_on_one_clock(engine, tmp_path):
    engine.generate("before", PARAMS)
    path = tmp_path / "trace.json"
    engine.start_profile(path)
    engine.generate(["def a(", "def b("], PARAMS, method="pearl")
    engine.generate("class C", PARAMS, method="none")
    assert engine.stop_profile() == path
    engine.generate("behind", PARAMS)
    found = processes(path)
    methods = [name.split(": ")[1].split(":")[0] for name, _ in found.values()]
    assert methods == ["pearl", "pearl", "none"]
    begins, ends = [], []
    for name, slices in found.values():
        assert {"prefill", "settle", "verify", "select"} <= {s["name"] for s in slices}, name
        begins.append(min(s["ts"] for s in slices))
        ends.append(max(s["ts"] + s["dur"] for s in slices))
    assert begins[1] < ends[0]  # the first two requests shared rounds
    assert begins[2] >= max(ends[:2])
    shared, _, alone = (slices for _, slices in found.values())
    assert all("round" in s["args"] for s in alone if s["name"] == "select")
    # rounds of several requests belong to no single request
    assert not any("args" in s for s in shared)


def test_a_request_may_outlast_the_profile(engine, tmp_path):
    engine.add_request("long", "def f(", PARAMS)
    engine.step()
    engine.start_profile(tmp_path / "part.json")
    engine.step()
    engine.stop_profile()
    while engine.has_unfinished_requests():
        last = engine.step()
    assert len(last[0].outputs[0].token_ids) == PARAMS.max_tokens
    [(name, slices)] = processes(tmp_path / "part.json").values()
    assert name.startswith("long: ")
    # A second round may have been enqueued ahead.
    assert [s["name"] for s in slices].count("select") in (1, 2)


def test_a_dropped_request_is_in_it(engine, tmp_path):
    engine.start_profile(tmp_path / "dropped.json")
    outputs = engine.stream("def f(", PARAMS)
    next(outputs)
    outputs.close()
    engine.stop_profile()
    [(_, slices)] = processes(tmp_path / "dropped.json").values()
    assert "verify" in {s["name"] for s in slices}


def test_a_profile_of_nothing(engine, tmp_path):
    engine.start_profile(tmp_path / "empty.json")
    engine.stop_profile()
    assert processes(tmp_path / "empty.json") == {}


def test_misuse_is_one_sentence(engine, tmp_path):
    with pytest.raises(EngineError, match=r"^stop_profile: expected start_profile before it"):
        engine.stop_profile()
    engine.start_profile(tmp_path / "a.json")
    with pytest.raises(EngineError, match=r"^start_profile: expected no profile in progress"):
        engine.start_profile(tmp_path / "b.json")
    assert engine.stop_profile() == tmp_path / "a.json"
    assert not (tmp_path / "b.json").exists()
    with pytest.raises(EngineError, match=r"^stop_profile:"):
        engine.stop_profile()
    engine.close()
    for call in (engine.stop_profile, lambda: engine.start_profile(tmp_path / "c.json")):
        with pytest.raises(EngineError, match=r"closed"):
            call()


def test_where_it_is_written(engine, tmp_path):
    with pytest.raises(InvalidInputError, match=r"^start_profile: expected a file to write, or"):
        engine.start_profile()
    with pytest.raises(InvalidInputError, match=r"^start_profile: expected a file that can be"):
        engine.start_profile(tmp_path / "no" / "such" / "folder.json")
    with pytest.raises(InvalidInputError, match=r"^start_profile: expected a path, got 3"):
        engine.start_profile(3)
    with opened(profile_dir=tmp_path / "made") as other:
        paths = []
        for _ in range(2):
            other.start_profile()
            other.generate("def", PARAMS)
            paths.append(other.stop_profile())
    assert len(set(paths)) == 2
    assert all(p.parent == tmp_path / "made" and str(os.getpid()) in p.name for p in paths)
    assert all(processes(p) for p in paths)


def test_close_writes_what_was_begun(tmp_path):
    with opened() as engine:
        engine.start_profile(tmp_path / "trace.json")
        engine.generate("def f(", PARAMS)
    assert len(processes(tmp_path / "trace.json")) == 1


def test_a_device_needs_no_file(tmp_path):
    there = EngineConfig("x", device="cuda")
    assert profile_path(there, None) is None
    assert profile_path(there, tmp_path / "f") == tmp_path / "f"
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match=r"^profile_dir: expected a folder"):
        profile_path(EngineConfig("x", device="cuda", profile_dir=tmp_path / "file" / "in"), None)


class Told:
    """A stand-in for the engine core that only records its calls."""

    now_ns = 7

    def __init__(self):
        self.said = []

    def keep_trace(self, is_on):
        self.said.append(("trace", is_on))

    def profile(self, is_on):
        self.said.append(("profile", is_on))

    def idle(self, seconds):
        return True


def test_lanes_are_timed_while_somebody_asks():
    core = Told()
    scheduler = Scheduler(core, 64, keeps_trace=False)
    assert not scheduler.is_traced
    scheduler.start_profile(None)
    assert scheduler.is_traced
    assert scheduler.stop_profile() is None
    assert not scheduler.is_traced
    assert core.said == [
        ("trace", True),
        ("profile", True),
        ("profile", False),
        ("trace", False),
    ]
    always = Told()
    scheduler = Scheduler(always, 64, keeps_trace=True)
    scheduler.start_profile(None)
    scheduler.stop_profile()
    assert scheduler.is_traced
    assert always.said == [("trace", True), ("profile", True), ("profile", False)]
