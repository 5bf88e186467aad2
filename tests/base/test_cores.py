"""Contract under test: without num_threads an engine takes as many threads as the process may use
cores. Cores are limited by affinity and by the CPU quotas of control groups, rounded up. Pinned
threads use one set of these cores for each lane. A bad set of cores is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sbrt import EngineConfig, InvalidInputError, cores

MANY = 64
V2 = "30 23 0:26 {root} {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 23 0:27 {root} {at} rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed_cores", lambda: MANY)


@pytest.fixture
def tree(tmp_path: Path):
    """tree(groups, mounts, files): writes a fake root folder with /proc and /sys/fs/cgroup."""

    def make(groups: str, mounts: str, files: dict[str, str]) -> Path:
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(groups + "\n")
        (own / "mountinfo").write_text(f"{MEMORY}\n{mounts}\n")
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


def v2(path: str = "/", root: str = "/", at: str = "/sys/fs/cgroup") -> tuple[str, str]:
    return f"0::{path}", V2.format(root=root, at=at)


def v1(path: str = "/", root: str = "/", at: str = "/sys/fs/cgroup/cpu") -> tuple[str, str]:
    return f"4:memory:/\n3:cpu,cpuacct:{path}", V1.format(root=root, at=at)


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", MANY),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("100001 100000", 2),
        ("100000 100000", 1),
        ("1000 100000", 1),
        ("50000 10000", 5),
        ("6500000 100000", MANY),
        ("", MANY),
        ("nonsense", MANY),
        ("-1 100000", MANY),
        ("100000 0", MANY),
    ],
)
def test_a_quota_of_v2_is_rounded_up(tree, limit, count):
    assert cores.usable_cores(tree(*v2(), {"cpu.max": limit})) == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [("-1", "100000", MANY), ("250000", "100000", 3), ("50000", "100000", 1), ("x", "y", MANY)],
)
def test_a_quota_of_v1_is_rounded_up(tree, quota, period, count):
    files = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": period}
    assert cores.usable_cores(tree(*v1(), files)) == count


@pytest.mark.parametrize(
    ("above", "below", "count"),
    [("max", "300000", 3), ("300000", "max", 3), ("200000", "700000", 2), ("700000", "200000", 2)],
)
def test_the_least_of_nested_groups_counts(tree, above, below, count):
    files = {
        "cpu.max": "max 100000",
        "kubepods/cpu.max": f"{above} 100000",
        "kubepods/pod/cpu.max": f"{below} 100000",
        "kubepods/other/cpu.max": "100000 100000",
    }
    assert cores.usable_cores(tree(*v2("/kubepods/pod"), files)) == count


def test_the_least_of_nested_groups_of_v1_counts(tree):
    files = {
        "cpu/docker/cpu.cfs_quota_us": "400000",
        "cpu/docker/cpu.cfs_period_us": "100000",
        "cpu/docker/a b/cpu.cfs_quota_us": "-1",
        "cpu/docker/a b/cpu.cfs_period_us": "100000",
    }
    assert cores.usable_cores(tree(*v1("/docker/a b"), files)) == 4


def test_a_container_that_sees_its_own_group_as_the_whole_tree(tree):
    """Without a cgroup namespace /proc shows the group's path on the host. docker mounts the group
    as if it were the whole tree."""
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    assert cores.usable_cores(tree(*v1("/docker/12ab", root="/docker/12ab"), files)) == 2


def test_a_container_whose_path_leads_out_of_what_it_sees(tree):
    assert cores.usable_cores(tree(*v2("/../../job"), {"cpu.max": "200000 100000"})) == 2


def test_both_versions_at_once(tree):
    """In systemd's hybrid mode cgroup v2 only names the groups, and cgroup v1 limits the CPU."""
    groups, mounts = zip(v1("/job"), v2("/job", at="/sys/fs/cgroup/unified"), strict=True)
    files = {
        "cpu/job/cpu.cfs_quota_us": "200000",
        "cpu/job/cpu.cfs_period_us": "100000",
        "unified/job/cgroup.procs": "1",
    }
    assert cores.usable_cores(tree("\n".join(groups), "\n".join(mounts), files)) == 2


def test_a_mount_elsewhere_with_a_space(tree):
    groups, mounts = v2(at=r"/sys/fs/cgroup/a\040b")
    assert cores.usable_cores(tree(groups, mounts, {"a b/cpu.max": "300000 100000"})) == 3


@pytest.mark.parametrize("groups", ["", "0::", "rubbish", "0::relative", "3:cpu"])
def test_a_strange_proc_is_no_limit(tree, groups):
    assert cores.usable_cores(tree(groups, "30 23\n- - -\n", {})) == MANY


def test_without_proc_the_affinity_counts(tmp_path):
    assert cores.usable_cores(tmp_path) == MANY


def test_the_affinity_is_an_upper_bound(tree, monkeypatch):
    monkeypatch.setattr(cores, "_allowed_cores", lambda: 2)
    assert cores.usable_cores(tree(*v2(), {"cpu.max": "800000 100000"})) == 2


def test_an_engine_takes_no_more_threads_than_that(monkeypatch):
    monkeypatch.setattr("sbrt.config.usable_cores", lambda: 3)
    assert EngineConfig("x").threads()[0] == 3
    assert EngineConfig("x", num_threads=8).threads()[0] == 8


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process use cores 0 to 7, whatever the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def pinned(target: object, draft: object, device: str = "auto", on: str | None = None, **more):
    """Return a config. target, draft: the sets of cores of the two lanes. on: the draft's
    device."""
    speculative = {"model": "d", "cpu_affinity": draft, "device": on}
    return EngineConfig("x", device=device, cpu_affinity=target, speculative=speculative, **more)


@pytest.mark.usefixtures("eight")
def test_a_set_is_the_threads_of_its_lane():
    config = pinned("0-3,6", "7,4")
    assert config.cores() == ((0, 1, 2, 3, 6), (7, 4))
    assert (config.threads(), config.is_apart) == ((7, 2), True)
    assert pinned("0", "1", num_threads=2, draft_threads=1).threads() == (2, 1)
    alone = EngineConfig("x", cpu_affinity="2-5")
    assert (alone.threads(), alone.is_apart) == ((4, 1), False)
    assert (alone.enable_prefix_caching, config.enable_prefix_caching) == (True, True)
    assert (pinned(None, None).method().name, config.method().name) == ("auto", "specbranch")


@pytest.mark.usefixtures("eight")
def test_a_draft_on_the_cpu_next_to_a_device_may_be_pinned():
    config = pinned(None, "5,6", "cuda", "cpu")
    assert (config.cores(), config.threads()) == (((), (5, 6)), (2, 2))


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("0-8", None),
            r"^cpu_affinity: expected cores that this process may use \(0,.*7\), got 8$",
        ),
        (("0", "9"), "^SpeculativeConfig.cpu_affinity: expected cores that this process may use"),
        (("0,1-2,1", None), "^cpu_affinity: expected each core once, got 1 again$"),
        (("3-1", None), "^cpu_affinity: expected ascending ranges of cores, got 3-1$"),
        (("0,3-1", None), "^cpu_affinity: expected ascending ranges of cores, got 3-1$"),
        (("0-", None), "^cpu_affinity: expected cores like \"0-3,8\", got '0-'$"),
        (("", None), "^cpu_affinity: expected cores like"),
        ((3, None), '^cpu_affinity: expected cores like "0-3,8", got 3$'),
        (("0-3", "3-4"), "^SpeculativeConfig.cpu_affinity: expected cores that cpu_affinity does"),
        (
            ("0", None),
            "^SpeculativeConfig.cpu_affinity: expected cores for both lanes or for none$",
        ),
        ((None, "0"), "^cpu_affinity: expected cores for both lanes or for none$"),
        (("0", None, "cuda:1"), "^cpu_affinity: expected none with a target on cuda:1, got 0$"),
        (
            (None, "0", "cuda"),
            "^SpeculativeConfig.cpu_affinity: expected none with a draft on cuda$",
        ),
    ],
)
def test_a_bad_set_is_refused(given, said):
    with pytest.raises(InvalidInputError, match=said):
        pinned(*given)


@pytest.mark.usefixtures("eight")
def test_what_does_not_fit_the_sets_is_refused():
    for field, count in (("num_threads", 3), ("draft_threads", 2)):
        with pytest.raises(InvalidInputError, match=f"^{field}: expected .*, got {count}$"):
            pinned("0", "1", **{field: count})
    with pytest.raises(InvalidInputError, match=r"cpu_affinity: expected a draft model"):
        EngineConfig("x", cpu_affinity="0", speculative={"cpu_affinity": "1"})


def test_a_thread_gets_its_cores_back():
    before = os.sched_getaffinity(0)
    with cores.on_cores([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
    with cores.on_cores(()):
        assert os.sched_getaffinity(0) == before
