"""Contract under test: the order checker (csrc/exec/order.h). It reports two accesses if one of
them is a write and no stream, event or wait of the host orders them. It reports no other pairs.
Accesses of different seats conflict only in parts that all seats share."""

import random

import pytest

from sbrt import InvalidInputError, _core


def book():
    """Return an OrderBook, the indices of two streams in it, and the index of an event."""
    made = _core.OrderBook()
    return made, made.stream("one"), made.stream("two"), made.event("e")


def test_one_stream_is_in_order():
    order, one, _, _ = book()
    order.run(one, "write", [], ["chain"])
    order.run(one, "read", ["chain"], [])
    assert order.conflicts() == []


@pytest.mark.parametrize(
    ("first", "second", "reported"),
    [
        ((["chain"], []), (["chain"], []), False),
        ((["chain"], []), ([], ["chain"]), True),
        (([], ["chain"]), (["chain"], []), True),
        (([], ["chain"]), ([], ["chain"]), True),
        (([], ["chain"]), ([], ["choice"]), False),
    ],
    ids=["two reads", "read and write", "write and read", "two writes", "two parts"],
)
def test_two_streams_are_not(first, second, reported):
    order, one, two, _ = book()
    order.run(one, "a", *first)
    order.run(two, "b", *second)
    said = ["chain: nothing orders one's a and two's b"] if reported else []
    assert order.conflicts() == said


@pytest.mark.parametrize(
    ("part", "seats", "reported"),
    [
        ("chain", (3, 3), "chain of seat 3"),
        ("chain", (3, 4), None),
        ("chain", (3, None), "chain of seat 3"),
        ("chain", (None, 3), "chain of seat 3"),
        ("choice", (3, 4), "choice"),
    ],
    ids=["one seat", "two seats", "then every seat", "first every seat", "a shared part"],
)
def test_a_part_of_another_seat_is_another_part(part, seats, reported):
    order, one, two, _ = book()
    order.run(one, "a", [], [part], seat=seats[0])
    order.run(two, "b", [part], [], seat=seats[1])
    said = [f"{reported}: nothing orders one's a and two's b"] if reported else []
    assert order.conflicts() == said


def test_an_event_of_one_seat_does_not_order_another():
    """The event is recorded after the write to seat 0, and before the write to seat 1. So it orders
    only the accesses to seat 0."""
    order, one, two, event = book()
    order.run(one, "a", [], ["chain"], seat=0)
    order.record(one, event, 1)
    order.run(one, "a", [], ["chain"], seat=1)
    order.wait(two, event, 1)
    for seat in (0, 1):
        order.run(two, "b", ["chain"], [], seat=seat)
    assert order.conflicts() == ["chain of seat 1: nothing orders one's a and two's b"]


@pytest.mark.parametrize("wait_first", [False, True], ids=["record first", "wait first"])
def test_an_event_puts_them_in_order(wait_first):
    order, one, two, event = book()

    def begin():
        order.run(one, "write", [], ["chain"])
        order.record(one, event, 1)

    def end():
        order.wait(two, event, 1)
        order.run(two, "read", ["chain"], [])

    for part in (end, begin) if wait_first else (begin, end):
        part()
    assert order.conflicts() == []
    assert order.conflicts(without=["e"]) != []
    assert order.conflicts(without=["other"]) == []


def test_a_later_record_promises_nothing_to_an_earlier_wait():
    order, one, two, event = book()
    order.record(one, event, 1)
    order.run(one, "write", [], ["chain"])
    order.record(one, event, 2)
    order.wait(two, event, 1)
    order.run(two, "read", ["chain"], [])
    assert len(order.conflicts()) == 1


def test_order_goes_through_a_third_stream():
    order, one, two, event = book()
    three, second = order.stream("three"), order.event("f")
    order.run(one, "write", [], ["chain"])
    order.record(one, event, 1)
    order.wait(three, event, 1)
    order.record(three, second, 1)
    order.wait(two, second, 1)
    order.run(two, "read", ["chain"], [])
    assert order.conflicts() == []


def test_the_host_orders_what_it_enqueues_after_it_waited():
    order, one, two, event = book()
    order.run(one, "write", [], ["chain"])
    order.record(one, event, 1)
    order.wait(0, event, 1)
    order.run(two, "read", ["chain"], [])
    assert order.conflicts() == []
    assert len(order.conflicts(host=False)) == 1


def test_the_host_itself_may_be_too_early():
    order, one, _, event = book()
    order.run(one, "write", [], ["record"])
    order.record(one, event, 1)
    order.run(0, "look", ["record"], [])
    assert order.conflicts() == ["record: nothing orders host's look and one's write"]


def test_an_event_that_nobody_records_is_reported():
    order, one, _, event = book()
    order.wait(one, event, 1)
    assert order.conflicts() == ["one: waits for ever for e = 1"]


def test_what_an_event_had_before_needs_no_record():
    order = _core.OrderBook()
    one, event = order.stream("one"), order.event("e", 7)
    order.wait(one, event, 7)
    assert order.conflicts() == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda order: order.run(9, "op", [], []),
        lambda order: order.wait(0, 9, 1),
        lambda order: order.run(0, "op", ["no part"], []),
        lambda order: order.run(0, "op", [], [], seat=64),
    ],
    ids=["stream", "event", "part", "seat"],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        wrong(book()[0])


def rounds(order, streams, events, count, skip=None):
    """Record ops of two streams that take turns to write the part `chain` of the state. The wait of
    turn `skip` is left out."""
    for turn in range(1, count + 1):
        for side in (0, 1):
            if turn != skip or side != 1:
                order.wait(streams[side], events[1 - side], turn if side else turn - 1)
            order.run(streams[side], "op", ["chain"], ["chain"])
            order.record(streams[side], events[side], turn)


@pytest.mark.parametrize("seed", range(5))
def test_one_wait_left_out_of_many_is_found(seed):
    order = _core.OrderBook()
    streams = [order.stream("one"), order.stream("two")]
    events = [order.event("e"), order.event("f")]
    rounds(order, streams, events, 200, skip=random.Random(seed).randint(1, 199))
    assert order.conflicts() == ["chain: nothing orders one's op and two's op"]


@pytest.mark.exact
def test_a_million_ops():
    order = _core.OrderBook()
    streams = [order.stream("one"), order.stream("two")]
    events = [order.event("e"), order.event("f")]
    rounds(order, streams, events, 170_000)
    assert len(order) > 1_000_000
    assert order.conflicts() == []
