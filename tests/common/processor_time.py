"""`pytest --processor-time N` shows the N files and the N tests that used most processor time.
Child processes, such as compilers, are included. On a shared machine wall-clock time would depend
on the other users."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterator
from resource import RUSAGE_CHILDREN, RUSAGE_SELF

import pytest

NAME = "processor"  # name of the field of a report that holds the test's seconds
BEGUN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "show the N most expensive files and tests"
    parser.addoption("--processor-time", type=int, metavar="N", help=said)


def processor_seconds() -> float:
    """Returns the processor seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[BEGUN] = processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator:
    report = yield
    if call.when == "teardown" and BEGUN in item.stash:
        report.user_properties.append((NAME, processor_seconds() - item.stash[BEGUN]))
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    count = config.getoption("--processor-time")
    if count is None:
        return
    tests: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            found = dict(getattr(report, "user_properties", ()))
            if NAME in found:
                tests[report.nodeid] = found[NAME]
    files: dict[str, float] = defaultdict(float)
    for name, seconds in tests.items():
        files[name.split("::")[0]] += seconds
    terminalreporter.section(f"{sum(tests.values()):.0f} seconds of processor time")
    for table in (files, tests):
        for name in sorted(table, key=table.__getitem__, reverse=True)[:count]:
            terminalreporter.write_line(f"{table[name]:8.2f} {name}")
