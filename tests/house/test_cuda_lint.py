"""Contract under test: the sources have no fault of a kind that only a GPU would show. They never
use the default stream, never wait for a whole device, and allocate in one file only. They add
floats only in a fixed order. The host waits only in the places of WAITS, none of them in a round.
Timed events are recorded only in the files of TIMES, outside captured graphs."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
BODY = CSRC / "exec" / "cuda"
OPS = {
    *CSRC.rglob("*_op.h"),
    CSRC / "round/crew.h",
    CSRC / "state/record.h",
}  # device kernels call the code of these files, too
SOURCES = sorted({*CSRC.rglob("*.cu"), *OPS, *(p for p in BODY.iterdir() if p.is_file())})
ALLOCATES = {"device_memory.cc"}  # the one file that allocates; it does so when an engine is built
# {file: number of places where the host waits for a stream or an event}. The host waits for new
# memory, at the end of a stream, between sequences, and for the device's clock. In host_stream.cc a
# worker waits until the mail of a draft on the CPU is copied.
WAITS = {
    "device_memory.cc": 1,
    "cuda_stream.cc": 1,
    "exec_cuda.cc": 1,
    "timing.cc": 1,
    "host_stream.cc": 1,
}
TIMES = {"timing.h", "timing.cc"}  # the files that may use timed events
CAPTURED = {"device_graph.cc", "device_graph.h", "publish.cu", "kernels.cu"}
CAPTURED |= {path.name for path in OPS}

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
LAUNCH = re.compile(r"<<<(.*?)>>>", re.DOTALL)
NULL_STREAMS = {"0", "nullptr", "NULL", "cudaStreamLegacy", "cudaStreamPerThread"}
RULES = {
    "the default stream": re.compile(
        r"\bcudaStream(Legacy|PerThread|Default)\b"
        r"|\bcudaStreamCreate\("  # a stream made this way waits for the default stream
        r"|\bcudaMem(cpy|set)(2D|3D)?(To\w+|From\w+)?\("  # functions without Async in their name
    ),
    "a wait for the whole device": re.compile(
        r"\bcuda(Device|Thread)Synchronize\b|\bcudaDeviceReset\b"
    ),
    "sums in the order of arrival": re.compile(r"\batomic[A-Z]\w*\("),
}
ALLOCATION = re.compile(
    r"\bcuda(Malloc\w*|HostAlloc|HostRegister|Free\w*)\(|\bmalloc\(|\bnew [\w:(]"
)
WAIT = re.compile(r"\bcuda(Stream|Event)Synchronize\(")
TIME = re.compile(r"\bcudaEvent(Create\(|ElapsedTime\()|\bcudaEventDefault\b|\bclock(64)?\(")
PROFILER = re.compile(r"timing\.h|nvtx|[Pp]rofiler|\bcudaEvent|\bTimedEvent\b|\bTimings\b")


def faults(name, text):
    """Return the names of the rules that `text`, the content of the file `name`, breaks."""
    text = COMMENT.sub("", text)
    found = [rule for rule, pattern in RULES.items() if pattern.search(text)]
    for launch in LAUNCH.finditer(text):
        arguments = [a.strip() for a in launch.group(1).split(",")]
        if len(arguments) < 4 or arguments[3] in NULL_STREAMS:
            found.append("the default stream")
    if name not in ALLOCATES and ALLOCATION.search(text):
        found.append("an allocation")
    if len(WAIT.findall(text)) > WAITS.get(name, 0):
        found.append("a wait of the host")
    if name not in TIMES and TIME.search(text):
        found.append("a time")
    if name in CAPTURED and PROFILER.search(text):
        found.append("a profiler's business in a captured graph")
    return found


def test_there_are_sources():
    names = {p.name for p in SOURCES}
    assert {"exec_cuda.cc", "publish.cu", "kernels.cu"} <= names
    assert set(WAITS) | TIMES | CAPTURED <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_keeps_the_rules(path):
    assert faults(path.name, path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("f<<<1, 32>>>(x);", "the default stream"),
        ("f<<<1, 32, 0, 0>>>(x);", "the default stream"),
        ("f<<<1, 32, 0, nullptr>>>(x);", "the default stream"),
        ("cudaMemcpy(a, b, n, cudaMemcpyHostToDevice);", "the default stream"),
        ("cudaMemset(a, 0, n);", "the default stream"),
        ("cudaStreamCreate(&s);", "the default stream"),
        ("cudaLaunchKernel(f, g, b, a, 0, cudaStreamLegacy);", "the default stream"),
        ("cudaDeviceSynchronize();", "a wait for the whole device"),
        ("checked(cudaDeviceReset(), x);", "a wait for the whole device"),
        ("atomicAdd(&sum, 1.0f);", "sums in the order of arrival"),
        ("cudaMalloc(&p, n);", "an allocation"),
        ("cudaMallocAsync(&p, n, s);", "an allocation"),
        ("cudaFree(p);", "an allocation"),
        ("float* p = new float[3];", "an allocation"),
        ("cudaEventSynchronize(e);", "a wait of the host"),
        ("checked(cudaStreamSynchronize(s), x);", "a wait of the host"),
        ("cudaEventCreate(&e);", "a time"),
        ("cudaEventCreateWithFlags(&e, cudaEventDefault);", "a time"),
        ("cudaEventElapsedTime(&ms, a, b);", "a time"),
        ("begin = clock64();", "a time"),
    ],
)
def test_a_fault_is_reported(text, fault):
    assert fault in faults("some.cu", text)


@pytest.mark.parametrize(
    "text",
    [
        "f<<<1, 32, 0, stream>>>(x);",
        "cudaMemcpyAsync(a, b, n, kind, stream);",
        "cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);",
        "cudaEventCreateWithFlags(&e, cudaEventDisableTiming);",
        "cudaEventQuery(e);",
        "// never cudaDeviceSynchronize()",
        "int renewed = 1;",
    ],
)
def test_what_is_allowed_is_not(text):
    assert faults("some.cu", text) == []


@pytest.mark.parametrize("name", sorted(CAPTURED))
@pytest.mark.parametrize(
    "text", ['#include "exec/cuda/timing.h"', "NvtxRange nvtx(true, x);", "cudaEventRecord(e, s);"]
)
def test_what_is_captured_knows_no_profiler(name, text):
    assert faults(name, text) == ["a profiler's business in a captured graph"]
    assert faults("exec_cuda.cc", text) == []


def test_one_more_wait_is_reported():
    wait = "cudaStreamSynchronize(s);"
    for name, allowed in WAITS.items():
        assert faults(name, wait * allowed) == []
        assert faults(name, wait * (allowed + 1)) == ["a wait of the host"]


def test_memory_is_allocated_in_one_place():
    assert faults("device_memory.cc", "cudaMalloc(&p, n);") == []
    assert faults("exec_cuda.cc", "cudaMalloc(&p, n);") == ["an allocation"]
