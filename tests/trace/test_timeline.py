"""Contract under test: rounds are matched with their spans, whatever spans the trace has lost. The
Chrome trace keeps its format. The picture is legible with one method and with eight."""

import itertools
import json
from dataclasses import replace

import pytest

from sbrt import SamplingParams, methods
from sbrt.files import check_writable, write_file
from sbrt.tools import picture
from sbrt.tools.measure import Report, Tally
from sbrt.trace.chrome import Recording, chrome_events, write_chrome
from sbrt.trace.spans import Round, Span
from sbrt.trace.timeline import timed_rounds

LENGTH = 1_000_000  # duration of a made-up round in ns


def made_up(count, depth=3, serial=False):
    """Return (spans, rounds) of a request whose rounds alternate between hit and miss."""
    spans = [Span("target", "prefill", 0, 500, False), Span("draft", "prefill", 0, 400, False)]
    rounds = []
    for i in range(count):
        at, hit = 1000 + i * LENGTH, i % 2 == 0
        verify = at + 300_000 if serial else at + 10
        spans += [
            Span("draft", "verify_done", at, at + 5, True),
            Span("draft", "plan", at + 5, at + 9, False),
            *(Span("draft", "step", at + t, at + t + 90, False) for t in range(10, 400, 100)),
            Span("target", "settle", at, at + 8, False),
            Span("target", "verify", verify, at + LENGTH - 90, False),
            Span("target", "draft_ready", at + LENGTH - 90, at + LENGTH - 40, True),
            Span("target", "select", at + LENGTH - 40, at + LENGTH - 20, False),
        ]
        drafted = 0 if i and rounds[-1].is_hit is False else depth
        stands = drafted if hit else drafted // 2
        branches = 0 if serial else 2
        rounds.append(Round(i + 7, drafted, stands, branches, hit and not serial, stands + 1))
    return spans, rounds


def test_each_round_has_its_own_spans():
    spans, rounds = made_up(6)
    found = timed_rounds(spans, rounds)
    assert [one.round for one in found] == rounds
    for one, last in zip(found[1:], found, strict=False):
        assert one.begin_ns == last.end_ns
        assert one.first_token == last.first_token + last.round.tokens
        assert last.kept == one.round.depth
    for one in found:
        assert [span.name for span in one.burst] == ["plan"] + ["step"] * 4
        assert all(one.begin_ns <= span.begin_ns < one.end_ns for span in one.burst)
        assert one.verify.begin_ns < one.select.begin_ns <= one.end_ns
    assert (found[0].first_token, found[-1].kept) == (0, None)


def test_a_span_that_begins_as_a_round_ends_is_the_next_rounds():
    ends = (10, 20)
    spans = [
        Span("draft", "step", 0, 5, False),
        *(Span("draft", "plan", end, end + 1, False) for end in ends),
        *(Span("target", "select", end - 1, end, False) for end in ends),
    ]
    rounds = [Round(i, depth=1, n=1, branches=0, is_hit=False, tokens=2) for i in range(2)]
    first, second = timed_rounds(spans, rounds)
    assert first.burst == [spans[0]]
    assert second.burst == [spans[1]]


@pytest.mark.parametrize("lost", [1, 20, 40])
def test_what_the_trace_has_lost_is_left_out(lost):
    spans, rounds = made_up(6)
    whole = timed_rounds(spans, rounds)
    part = timed_rounds(sorted(spans, key=lambda s: s.begin_ns)[lost:], rounds)
    assert 0 < len(part) <= 6
    for one, same in zip(reversed(part), reversed(whole), strict=False):
        assert (one.round, one.first_token, one.end_ns) == (
            same.round,
            same.first_token,
            same.end_ns,
        )
    assert [one.round for one in timed_rounds(spans, rounds[2:])] == rounds[2:]


def test_nothing_gives_nothing():
    spans, rounds = made_up(2)
    assert timed_rounds([], rounds) == timed_rounds(spans, []) == []
    assert chrome_events(Recording("x", [], []), 1)[0]["args"] == {"name": "x"}


@pytest.mark.parametrize("method", ["none", "draft_model", "pearl", "specbranch:epsilon=0"])
def test_the_rounds_of_an_engine_add_up(engine, method):
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    output = engine.generate("def quick(items):", params, method=method)[0].outputs[0]
    rounds, spec = engine.rounds(), output.spec_decode_metrics
    assert len(rounds) == spec["num_spec_steps"]
    assert sum(r.tokens for r in rounds) == len(output.token_ids) == 50
    assert sum(r.depth for r in rounds) == spec["num_draft_tokens"]
    assert sum(r.n for r in rounds) == spec["num_accepted_draft_tokens"]
    assert sum(r.is_hit for r in rounds) == spec["num_branch_hits"]
    assert sum(r.branches for r in rounds) == spec["num_branches"]
    assert all(r.tokens == r.n + 1 <= r.depth + 1 for r in rounds[:-1])
    assert all(b.number == a.number + 1 for a, b in itertools.pairwise(rounds))
    assert all(b.depth == 0 for a, b in itertools.pairwise(rounds) if a.branches and not a.is_hit)
    timed = timed_rounds(engine.trace(), rounds)
    assert [one.round for one in timed] == rounds
    assert all(one.verify is not None for one in timed)
    assert all(bool(one.burst) == (method != "none") for one in timed)


def test_a_new_request_begins_a_new_log(engine):
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    for method in ("none", "pearl"):
        engine.generate("def", params, method=method)
        assert sum(r.tokens for r in engine.rounds()) == 5
    engine.generate("def", SamplingParams(max_tokens=0))
    assert engine.rounds() == engine.trace() == []


def phase(events, ph):
    return [event for event in events if event["ph"] == ph]


def around(events, flow):
    """Return the slice that encloses an end of a flow arrow, as trace viewers find it."""
    found = [
        e
        for e in phase(events, "X")
        if e["tid"] == flow["tid"] and e["ts"] <= flow["ts"] <= e["ts"] + e["dur"]
    ]
    [event] = [e for e in found if e["cat"] == "work"]
    return event


def test_the_chrome_trace_keeps_the_format(tmp_path):
    recordings = [Recording(name, *made_up(5)) for name in ("pearl", "pearl", "specbranch")]
    path = tmp_path / "t.json"
    write_chrome(path, recordings)
    found = json.loads(path.read_text())
    events = found["traceEvents"]
    assert found["displayTimeUnit"] == "ms"
    needed = {
        "X": {"name", "cat", "ts", "dur", "pid", "tid"},
        "M": {"name", "pid", "tid", "args"},
        "i": {"name", "ts", "s", "pid", "tid"},
        "C": {"name", "ts", "pid", "args"},
        "s": {"name", "cat", "id", "ts", "pid", "tid"},
        "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
    }
    for event in events:
        assert needed[event["ph"]] <= event.keys()
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["pearl", "pearl", "specbranch"]
    for event in phase(events, "C"):
        assert all(isinstance(value, int) for value in event["args"].values())
    assert {event["s"] for event in phase(events, "i")} == {"t"}
    assert {event["name"] for event in phase(events, "i")} == {"hit", "miss"}


def test_the_chrome_trace_says_what_rounds_decided():
    spans, rounds = made_up(5)
    events = chrome_events(Recording("pearl", spans, rounds), 1)
    selects = [e for e in phase(events, "X") if e["name"] == "select"]
    assert [e["args"]["round"] for e in selects] == [r.number for r in rounds]
    assert [e["args"]["rolled back"] for e in selects] == [r.depth - r.n for r in rounds]
    total = sum(r.tokens for r in rounds)
    assert phase(events, "C")[-1]["args"] == {"tokens": total}
    adopted = [
        a.number for a, b in itertools.pairwise(rounds) if a.is_hit and b.depth
    ]  # without the last hit, whose tail no later round verifies
    starts, ends = phase(events, "s"), phase(events, "f")
    assert len(starts) == len(ends) == len(adopted) > 0
    for start, end in zip(starts, ends, strict=True):
        assert start["id"] == end["id"]
        assert start["ts"] < end["ts"]
        assert around(events, start)["name"] == "step"
        assert around(events, end)["name"] == "verify"


def report_of(names, count=30, depth=3):
    tallies = []
    for name in names:
        method = methods.parse(name)
        tally = Tally(method, 2, 1 if method.drafts else 0, seconds=1.0, tokens=7)
        tally.spans, tally.rounds = made_up(count, depth, serial=method.name == "draft_model")
        if not method.drafts:
            tally.spans = [span for span in tally.spans if span.stream == "target"]
            tally.rounds = [Round(r.number, 0, 0, 0, False, 1) for r in tally.rounds]
        tallies.append(tally)
    return Report(tallies, tallies[0], "shared", "float32", 0)


EIGHT = (
    *("none", "draft_model", "draft_model:gamma=8", "pearl", "pearl"),
    *("specbranch", "specbranch:k_max=1,epsilon=0,hrad=off", "specbranch:gamma=63"),
)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("depth", [3, 40])
def test_no_text_of_the_picture_covers_another(count, depth):
    pytest.importorskip("matplotlib")
    figure = picture.figure_of(report_of(EIGHT[:count], depth=depth))
    figure.draw_without_rendering()
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    for axis in figure.axes:
        texts += [*axis.texts, *axis.get_yticklabels(), axis.title, axis._left_title]
        texts += [axis._right_title, axis.xaxis.label]
    shown = [text for text in texts if text.get_text()]
    assert len(shown) > 5 * count
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for (name, box), (other, second) in itertools.combinations(boxes, 2):
        assert not box.overlaps(second), (name, other)
    for name, box in boxes:
        assert figure.bbox.x0 <= box.x0, name
        assert box.x1 <= figure.bbox.x1, name
        assert figure.bbox.y0 <= box.y0, name
        assert box.y1 <= figure.bbox.y1, name


def test_strips_begin_at_the_same_token_and_are_equally_long():
    report = report_of(("none", "draft_model", "pearl"))
    strips = picture.strips_of(report.tallies)
    assert len({strip.length_ms for strip in strips}) == 1
    assert strips[0].length_ms == pytest.approx(picture.ROUNDS, rel=0.01)
    assert all(8 <= len(strip.shown()) <= picture.ROUNDS for strip in strips)


def test_the_stretch_shown_is_one_that_was_not_disturbed():
    report = report_of(("none", "none"))

    # Times as if another process used the CPU core in the fourth round.
    def later(ns):
        return ns + 8 * LENGTH * (ns > 3.5 * LENGTH)

    for tally in report.tallies:
        tally.spans = [
            replace(span, begin_ns=later(span.begin_ns), end_ns=later(span.end_ns))
            for span in tally.spans
        ]
    for strip in picture.strips_of(report.tallies):
        assert len(strip.shown()) >= 8
        assert strip.shown()[0].first_token >= 3


@pytest.mark.parametrize("count", [0, 1])
def test_a_picture_of_almost_nothing(count, tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(tmp_path / "x.png", report_of(("none", "pearl"), count))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_files_are_refused_before_and_whole_after(tmp_path):
    path = tmp_path / "out.json"
    check_writable("--json", path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    check_writable("--json", path)
    check_writable("--json", "-")
    assert path.read_text() == "old"
    for bad in (tmp_path, tmp_path / "no" / "x", path / "x", tmp_path / ("x" * 5000)):
        with pytest.raises(ValueError, match="--json: expected a file that can be written, got"):
            check_writable("--json", bad)
    write_file(path, b"new")
    link = tmp_path / "link"
    link.symlink_to(path)
    write_file(link, b"newer")
    assert (path.read_text(), link.is_symlink()) == ("newer", True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out.json"]
