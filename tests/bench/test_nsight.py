"""Contract under test: the profilers' command lines capture from start_profile on, node by node,
and name all of our kernels. Without the profiler or a device, an error of one sentence is printed.
The command that is profiled really decodes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import nsight

ROOT = Path(__file__).parents[2]


def run(module, *arguments, path=None):
    environment = os.environ | ({} if path is None else {"PATH": str(path)})
    command = [sys.executable, "-m", f"bench.gpu.{module}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_nsys_captures_what_a_profile_holds():
    done = run("nsight", "nsys", "--print", "--", "--methods", "pearl")
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    assert words[:2] == ["nsys", "profile"]
    assert {
        "--trace=cuda,nvtx",
        "--cuda-graph-trace=node",
        "--capture-range=cudaProfilerApi",
    } <= set(words)
    assert words[-6:] == ["--device", "cuda", "--nvtx", "--profile", "--methods", "pearl"]


def test_ncu_measures_our_kernels_in_the_graphs_of_a_round():
    words = nsight.ncu_command()
    for option, value in {"--set": "full", "--graph-profiling": "node"}.items():
        assert words[words.index(option) + 1] == value
    assert words[words.index("--profile-from-start") + 1] == "off"
    assert "--nvtx" in words
    assert "sbrt@verify]" in words
    assert words[-3:] == ["cuda", "--nvtx", "--profile"]


def matches(name):
    return re.match(nsight.kernel_filter().removeprefix("regex:"), name) is not None


def test_every_kernel_of_ours_is_named():
    triton = {
        name
        for file in (ROOT / "triton_kernels").glob("*.py")
        for name in re.findall(r"^def (_\w+_kernel)\(", file.read_text(), re.MULTILINE)
    }
    kernel = r"__global__ void(?:\s+__launch_bounds__\(.*\))?\s+(\w+)\("
    texts = [file.read_text() for file in (ROOT / "csrc").rglob("*.cu")]
    cuda = {name for text in texts for name in re.findall(kernel, text)}
    # A macro in kernels.cu makes a kernel for every line of the table of ops. In the source of
    # kernels.cu, that kernel is called `name`.
    assert cuda == {"name", "publish", "await"}
    table = (ROOT / "csrc" / "round" / "op_table.inc").read_text()
    lines = [line.split(",") for line in re.findall(r"^SBRT_OP\(([^()]+)", table, re.MULTILINE)]
    cuda = {"publish", "await"} | {line[1].strip() for line in lines if line[4].strip() != "kNone"}
    assert len(triton) > 8
    assert len(cuda) > 15
    assert [name for name in triton | cuda if not matches(name)] == []
    assert {f"_{name}_kernel" for name in nsight.TRITON} | set(nsight.ROUND) == triton | cuda


@pytest.mark.parametrize("name", ["gemv2T_kernel_val", "vectorized_elementwise_kernel", "select_x"])
def test_another_s_kernel_is_not(name):
    assert not matches(name)


def test_the_ranges_are_the_graphs_of_a_round():
    spec = ROOT / "csrc" / "decode"
    text = "".join((spec / name).read_text() for name in ("graphs.h", "resources.h"))
    assert 'Graph("prefill")' in (spec / "feed.h").read_text()
    graphs = set(re.findall(r"Graph.*?(?=;)", text))
    names = {name for line in graphs for name in re.findall(r'\{"(\w+)"\}', line)}
    made = (spec / "graphs.cc").read_text()
    names |= set(re.findall(r'try_emplace\(.*"(\w+)"\)', made))
    outside = {"prefill", "look", "timed_forward"}
    assert set(nsight.GRAPHS) == names - outside
    assert outside <= names


@pytest.mark.parametrize(("tool", "name"), [("nsys", "Nsight Systems"), ("ncu", "Nsight Compute")])
def test_without_the_tool_there_is_one_sentence(tool, name, tmp_path):
    done = run("nsight", tool, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"bench.gpu.nsight: error: {tool}: expected {name} on PATH, found no {tool}\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_without_a_device_there_is_one_sentence(tool, tmp_path):
    (tmp_path / tool).write_text("#!/bin/sh\n")
    (tmp_path / tool).chmod(0o755)
    done = run("nsight", tool, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a CUDA device that torch can use, found none" in done.stderr


def test_what_they_run_decodes_and_writes_its_trace(tmp_path):
    trace = tmp_path / "trace.json"
    done = run(
        "decode", "--device", "cpu", "--max-tokens", 8, "--methods", "pearl,none",
        "--trace", trace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "8 tokens by pearl, none: right\n"
    events = json.loads(trace.read_text())["traceEvents"]
    assert len([e for e in events if e["name"] == "process_name"]) == 2
