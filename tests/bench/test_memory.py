"""Contract under test: bench.peers computes the memory that an engine needs, and finds out how much
memory is free."""

import pytest

pytest.importorskip("bench.peers.__main__", reason="benches run from the checkout")
from bench.peers import lines, memory, settings


def test_an_engine_needs_its_weights_and_more(tmp_path):
    for name, size in (("t", 1000), ("d", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size))
    given = settings.Given("x", tmp_path / "t", tmp_path / "d", "x")
    assert memory.needed(given, "bfloat16", False, 1.0, 0.0) == 1000
    assert memory.needed(given, "float32", True, 2.0, 7.0) == 2 * 2 * 1100 + 7
    assert memory.needed(given, "q8_0", False, 1.0, 0.0) == 1000 * 34 / 64
    assert memory.needed(given, "int4/float32", False, 1.0, 0.0) == 1000 * 20 / 64
    (tmp_path / "x.gguf").write_bytes(bytes(500))
    given = settings.Given("x", tmp_path / "x.gguf", None, "x")
    assert memory.needed(given, "gguf/float32", False, 2.0, 3.0) == 2 * 500 + 3
    given = settings.Given("x", tmp_path / "x.gguf", tmp_path / "d", "x")
    assert memory.needed(given, "gguf", True, 1.0, 0.0) == 500 + 100


MEMINFO = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: {kib} kB\n"


def machine(root, kib=None, cgroup="", files=()):
    """Write the files that `memory.free` reads under `root`, and return `root`."""
    texts = {"proc/self/cgroup": cgroup, **dict(files)}
    if kib is not None:
        texts["proc/meminfo"] = MEMINFO.format(kib=kib)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


TWO, ONE = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("cgroup", "files", "left"),
    [
        ("", {}, 8000 * 1024),
        ("0::/a/b", {f"{TWO}/a/memory.max": "max\n", f"{TWO}/a/memory.current": "5"}, 8000 * 1024),
        ("0::/a/b", {f"{TWO}/a/b/memory.max": "900\n", f"{TWO}/a/b/memory.current": "500\n"}, 400),
        # the parent cgroup has less room left
        (
            "0::/a/b",
            {
                f"{TWO}/a/b/memory.max": "900", f"{TWO}/a/b/memory.current": "500",
                f"{TWO}/a/memory.max": "1000", f"{TWO}/a/memory.current": "990",
                f"{TWO}/a/memory.stat": "anon 880\ninactive_file 100\n",
            },
            110,
        ),
        # in a container, the process's own cgroup is the top folder
        ("0::/elsewhere", {f"{TWO}/memory.max": "70", f"{TWO}/memory.current": "90"}, 0),
        (
            "9:cpu:/x\n4:memory:/x\n0::/",
            {
                f"{ONE}/x/memory.limit_in_bytes": "5000", f"{ONE}/x/memory.usage_in_bytes": "4000",
                f"{ONE}/x/memory.stat": "inactive_file 7\ntotal_inactive_file 500\n",
            },
            1500,
        ),
        ("4:cpu:/x", {f"{ONE}/x/memory.limit_in_bytes": "5"}, 8000 * 1024),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_machine_and_its_cgroups_leave(tmp_path, cgroup, files, left):
    assert memory.free(machine(tmp_path, 8000, cgroup, files)) == left


def test_where_nothing_tells_what_is_free_nothing_is_refused(tmp_path):
    assert memory.free(machine(tmp_path)) is None
    units = [lines.Unit([], 1e18, lambda: None)] * 2
    assert memory.groups(units, None) == [units]
    assert memory.shortage(units[0], None) is None
