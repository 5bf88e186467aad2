"""`python -m tests.device.check --part NAME` runs one part of the checks that need a CUDA device.
The results are written to one JSON file. The parts are:

first: a short run of everything.
kernels: the tests of the kernels, which Triton compiles for the device, and a benchmark of them.
products: the tests and a benchmark of `linear`, whose launch plans need many kernels. lanes: the
cuda backend; recorded forwards against the same ops run one by one; bench.lanes. rounds:
tests.device.rounds at the sizes of real models and of the inflated demo pair;
    transformers on the same prompts.
exact: every method against plain decoding on the device, with graphs and without. settings:
filters, streamed answers, and rings of a default length.
launches: kernels that start before the previous kernel has ended.
integers: bits, tokens and times of quantised weights.
seats: eight prompts in the same rounds, against the same prompts one by one. devices: draft and
target in separate memories. One step is skipped if there is only one device. families: Gemma 3, as
target and as draft. requests: log-probs, bad words of several tokens, and `auto`.
prefixes: prompts that reuse KV.
rejection: the tokens of `acceptance=rejection`, their distribution, and the bits of its walk.
large: `exact` at the size of an 8B model.
sanitize: compute-sanitizer over a short decode.

A part takes at most eight minutes, and consists of steps. A part that was killed resumes where it
stopped, as long as source and device are the same; --fresh starts the part again. After a failed
step the other steps still run, except after a failure of `ready`. This first step checks that
anything can run. `make gpu-check PART=kernels` calls this program.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.gpu.device import expect_cuda
from sbrt import collect_env
from sbrt.errors import InvalidInputError
from sbrt.tools import flags

from . import sanitize
from .steps import (
    ROOT,
    Record,
    Runner,
    Step,
    commit,
    none_failed,
    run_command,
    run_steps,
    some_passed,
    source_hash,
    succeeded,
)

LIMIT = 480  # time limit of a part in seconds, for all its steps
ANYWHERE = "gpu or (not exact and not sanitize)"
TRITON = "tests/triton_kernels"
APART, FAMILIES = "tests/device/test_apart.py", "tests/device/test_families.py"
WORKERS = 8  # number of pytest-xdist processes, if installed: compiling uses a whole core
OVERLAPPED = "draft_model:gamma=4,pearl:gamma=4,specbranch:gamma=4"


def _tests(name: str, seconds: float, *arguments: str, workers: int = 0) -> Step:
    # New versions of torch and Triton may warn, so a warning is no error here.
    quiet = ("-q", "-p", "no:benchmark", "-W", "default")
    command = [sys.executable, "-m", "pytest", *quiet, *arguments]
    if workers and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    return Step(name, tuple(command), seconds, some_passed)


def figures_of(name: str) -> Path:
    """Return the path of the JSON file to which a step writes its figures."""
    return ROOT / "build" / f"gpu-{re.sub(r'[^a-z0-9_]+', '-', name)}.json"


def _bench(name: str, seconds: float, module: str, *arguments: str, keeps: bool = False) -> Step:
    out = figures_of(name)
    command = (sys.executable, "-m", module, "--device", "cuda", *arguments, "--json", str(out))
    return Step(name, command, seconds, succeeded, out, keeps)


def _ready(seconds: float = 60) -> Step:
    command = (sys.executable, "-m", "tests.device.ready")
    return Step("ready", command, seconds, succeeded, is_needed=True)


def _decode(seconds: float) -> Step:
    command = (sys.executable, "-m", "bench.gpu.decode", "--device", "cuda", "--methods",
               OVERLAPPED)  # fmt: skip
    return Step("decode", command, seconds, succeeded)


def _first() -> tuple[Step, ...]:
    return (
        _ready(),
        _decode(140),
        _bench("first lanes", 120, "bench.lanes", "--seconds", "0.3"),
        _bench("first rounds", 130, "tests.device.rounds", "--pair", "8b", "--methods", OVERLAPPED,
               "--prompts", "1", "--max-tokens", "64"),
    )  # fmt: skip


def _kernels() -> tuple[Step, ...]:
    big = [f"{TRITON}/test_{name}.py" for name in ("attention", "choose", "linear")]
    rest = [f"--ignore={path}" for path in big]
    return (
        _ready(50),
        _tests("attention", 90, "-m", ANYWHERE, big[0], workers=WORKERS),
        _tests("choose", 80, "-m", ANYWHERE, big[1], workers=WORKERS),
        _tests("other ops", 100, "-m", ANYWHERE, *rest, TRITON, workers=WORKERS),
        _bench("bench of attention", 65, "bench.kernels", "--only", "attention"),
        _bench("bench of choose", 45, "bench.kernels", "--only", "choose"),
        *(
            _bench(f"bench of {op}", 15, "bench.kernels", "--only", op)
            for op in ("rms_norm", "rope", "settle")
        ),
    )


def _products() -> tuple[Step, ...]:
    return (
        _ready(50),
        _tests("products", 280, "-m", ANYWHERE, f"{TRITON}/test_linear.py", workers=WORKERS),
        _bench("bench of products", 140, "bench.kernels", "--only", "linear"),
    )


def _lanes() -> tuple[Step, ...]:
    body = "tests/device/test_exec.py"
    others = (f"--ignore={body}", f"--ignore={APART}", f"--ignore={FAMILIES}")
    return (
        _ready(),
        _tests("cuda body", 130, "-m", "gpu", body),
        _tests("recorded forwards", 130, "-m", "gpu", "-k", "not method", *others,
               "tests/device"),
        _bench("bench of lanes", 145, "bench.lanes"),
        _cost_file("bench of lanes", "h200-8b-1b", 10),
    )  # fmt: skip


def _cost_file(lanes: str, name: str, seconds: float) -> Step:
    """Return a step that replaces the estimates of a shipped cost file by measured figures.

    lanes: name of the earlier step that measured the figures. name: name of the cost file.
    """
    out = figures_of(f"costs {name}")
    command = (sys.executable, "-m", "bench.gpu.costs", name, "--lanes", str(figures_of(lanes)),
               "--out", str(out))  # fmt: skip
    return Step("cost file", command, seconds, succeeded, out)


def _rounds() -> tuple[Step, ...]:
    module = "tests.device.rounds"
    return (
        _ready(50),
        _bench("rounds of 8b", 140, module, "--pair", "8b", "--share", "0.7", "--idle", "20"),
        _bench("rounds of 1b", 90, module, "--pair", "1b", "--share", "0.48", "--idle", "20"),
        _bench("rounds of demo-1g", 120, module, "--pair", "demo-1g", "--idle", "20"),
        _bench("transformers", 70, "bench.gpu.assisted", "--pair", "demo-1g"),
    )


def _same(name: str, seconds: float, *arguments: str) -> Step:
    """Return a step that runs tests.device.exact. The command stops before the step's time limit,
    and a later run resumes it."""
    turn = ("--seconds", str(seconds - 30))
    return _bench(name, seconds, "tests.device.exact", *arguments, *turn, keeps=True)


def _exact() -> tuple[Step, ...]:
    coupled, short = ("--temperature", "0.8"), ("--prompts", "20", "--max-tokens", "64")
    return (
        _ready(50),
        _same("demo, greedy", 85, "--pair", "demo"),
        _same("demo, coupled", 85, "--pair", "demo", *coupled),
        _same("demo, eager", 65, "--pair", "demo", "--eager", *short),
        _same("8b, eager", 65, "--pair", "8b", "--eager", *short, "--methods", "specbranch",
              *coupled),
        _tests("engines", 120, "-m", "gpu", "-k", "method", f"--ignore={APART}",
               f"--ignore={FAMILIES}", "tests/device"),
    )  # fmt: skip


def _large() -> tuple[Step, ...]:
    one = ("--pair", "8b", "--methods", "specbranch")
    return (
        _ready(50),
        _same("8b, greedy", 210, *one),
        _same("8b, coupled", 210, *one, "--temperature", "0.8"),
    )


def _settings() -> tuple[Step, ...]:
    """Return steps with common settings: filters, streamed answers, mode `fast`, rings of a default
    length."""
    filtered = ("--temperature", "0.8", "--top-p", "0.9", "--top-k", "40")
    rounds = ("tests.device.rounds", "--pair", "8b", "--methods", OVERLAPPED, "--prompts", "2")
    return (
        _ready(50),
        _bench("filtered rounds", 85, *rounds, *filtered),
        _bench("streamed rounds", 85, *rounds, "--streams"),
        _bench("fast rounds", 85, *rounds, "--mode", "fast"),
        _bench("lanes of long rings", 80, "bench.lanes", "--positions", "131072", "--rows", "16",
               "--seconds", "0.3"),
        _same("demo, filtered", 85, "--pair", "demo", *filtered),
    )  # fmt: skip


def _launches() -> tuple[Step, ...]:
    """Return steps that compare the tokens and times of two engines. One engine launches kernels
    early, the other does not."""
    module = "tests.device.early"
    return (
        _ready(50),
        _bench("early launches, demo", 110, module, "--pair", "demo"),
        _bench("early launches, 8b", 170, module, "--pair", "8b", "--max-tokens", "64"),
        _bench("early launches, sampled", 90, module, "--pair", "demo", "--temperature", "0.8"),
    )


def _integers() -> tuple[Step, ...]:
    """Return steps for quantised weights. Results are compared bitwise with the CPU's, and with
    those of the same rows in other batches. Graphs are compared with single ops, and methods with
    plain decoding. Forwards are timed."""
    short = ("--prompts", "40", "--max-tokens", "64", "--pair", "demo")
    few = ("bench.lanes", "--rows", "16", "--seconds", "0.3")
    return (
        _ready(50),
        _tests("products of integers", 110, "-m", "not exact", f"{TRITON}/test_integer_linear.py",
               workers=WORKERS),
        _tests("lanes of quantised weights", 90, "-m", "gpu", "-k", "quantised",
               "tests/device/test_lane.py"),
        _same("demo, int8", 70, *short, "--dtype", "int8"),
        _same("demo, int4", 70, *short, "--dtype", "int4", "--temperature", "0.8"),
        _bench("lanes of int8", 80, *few, "--dtype", "int8"),
    )  # fmt: skip


def _seats() -> tuple[Step, ...]:
    """Return steps with many sequences in the same rounds."""
    eight = ("--together", "8", "--max-tokens", "64")
    return (
        _ready(50),
        _tests("rows of many seats", 60, "-m", ANYWHERE, f"{TRITON}/test_seats.py"),
        _same("demo, 8 at once", 110, "--pair", "demo", *eight),
        _same("demo, 8 at once, coupled", 110, "--pair", "demo", *eight, "--temperature", "0.8",
              "--top-p", "0.9"),
        _same("8b, 8 at once", 140, "--pair", "8b", *eight, "--prompts", "32", "--methods",
              "specbranch"),
    )  # fmt: skip


def _families() -> tuple[Step, ...]:
    """Return steps for Gemma 3: its lanes, then its engines."""
    return (
        _ready(50),
        _tests("lanes of gemma", 190, "-m", "gpu", "-k", "not method", FAMILIES),
        _tests("engines of gemma", 220, "-m", "gpu", "-k", "method", FAMILIES),
    )


def _requests() -> tuple[Step, ...]:
    """Return steps with log-probs and bad words, and with `auto`, which measures its costs."""
    short, coupled = ("--prompts", "40", "--max-tokens", "64"), ("--temperature", "0.8")
    eight = ("--together", "8", *short)
    return (
        _ready(50),
        _same("log-probs", 90, "--pair", "demo", *coupled, "--logprobs", "5", *short),
        _same("log-probs, 8 at once", 70, "--pair", "demo", "--logprobs", "0", *eight),
        _same("bad words", 80, "--pair", "demo", "--bad-words", "return self,if not,for i in",
              *short),
        _same("auto", 80, "--pair", "demo", "--methods", "auto", *coupled, *short),
        _same("auto, 8 at once", 80, "--pair", "demo", "--methods", "auto", *eight),
    )  # fmt: skip


def _rejection() -> tuple[Step, ...]:
    """Return steps for `acceptance=rejection`. They check that tokens repeat, that tokens have the
    right distribution, and that the walk has the same bits as on the host."""
    walks = ("-m", "gpu", "-k", "walks", "tests/device/test_exec.py")
    scores = ("-m", "not exact", f"{TRITON}/test_draw.py")
    return (
        _ready(50),
        _tests("walks", 150, *walks),
        _tests("scores", 80, *scores, workers=WORKERS),
        _tests("rejection", 180, "-m", "gpu", "tests/device/test_rejection.py"),
    )


def _prefixes() -> tuple[Step, ...]:
    """Return the steps that check prefix reuse. Their requests have the prompts that an earlier
    step fed for plain decoding, so they reuse its KV."""
    reuse = ("--pair", "demo", "--reuse", "--prompts", "40", "--max-tokens", "64")
    return (
        _ready(50),
        _same("prefix reuse", 90, *reuse, "--temperature", "0.8"),
        _same("prefix reuse, 8 at once", 90, *reuse, "--together", "8"),
    )


def _devices() -> tuple[Step, ...]:
    """Draft and target in memories of their own: on one device, with the draft on the CPU, and on
    two devices if there are two."""
    two = _tests("two devices", 110, "-m", "gpu", "-k", "two_devices", "-rs", APART)
    return (
        _ready(50),
        _tests("two memories", 110, "-m", "gpu", "-k", "one_device", APART),
        _tests("draft on the CPU", 110, "-m", "gpu", "-k", "on_the_cpu", APART),
        _tests("auto", 90, "-m", "gpu", "-k", "auto", APART),
        replace(two, judge=none_failed),
    )


def _sanitize() -> tuple[Step, ...]:
    tool = sanitize.find_tool() or sanitize.TOOL
    return (_ready(50), _decode(70), *sanitize.steps(tool))


PARTS: dict[str, Callable[[], tuple[Step, ...]]] = {
    "first": _first,
    "kernels": _kernels,
    "products": _products,
    "lanes": _lanes,
    "rounds": _rounds,
    "exact": _exact,
    "settings": _settings,
    "launches": _launches,
    "integers": _integers,
    "seats": _seats,
    "families": _families,
    "requests": _requests,
    "prefixes": _prefixes,
    "rejection": _rejection,
    "devices": _devices,
    "large": _large,
    "sanitize": _sanitize,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; returns 0 if all steps are right, 1 if one is not, 2 without a device."""
    return flags.guarded("tests.device.check", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    expect_cuda()
    # On SIGTERM, sys.exit raises SystemExit, so a running step is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = {"source": source_hash(), "device": device()}
    right = check(Path(args.json), where, args.part, run_command, args.fresh)
    print(f"{args.part}: {'all right' if right else 'NOT RIGHT'}, see {args.json}")
    return 0 if right else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m tests.device.check", description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="first", metavar="|".join(PARTS))
    parser.add_argument("--json", default="gpu-check.json", metavar="OUT")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of an earlier run")
    args = parser.parse_args(argv)
    if args.part not in PARTS:
        raise InvalidInputError(f"--part: expected one of {', '.join(PARTS)}, got {args.part}")
    return args


def device() -> dict[str, str]:
    """Return the device's name, and the versions of torch and CUDA."""
    import torch

    return {
        "name": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


def check(path: Path, where: dict[str, Any], part: str, run: Runner, fresh: bool = False) -> bool:
    """Run the steps of one part whose results the file `path` lacks. Return True if all steps of
    the part are right.

    where: source and device. A file for another source or device is discarded.
    """
    begun = time.monotonic()
    record = Record(path, where)
    if fresh:
        record.forget(part)
    found = record.part(part)
    found |= {"right": False, "commit": commit(), "environment": collect_env.collect()}
    why = sanitize.why_not(sanitize.find_tool()) if part == "sanitize" else ""
    found["refused"] = why
    record.write()
    if why:
        print(why, file=sys.stderr)
        return False
    steps = PARTS[part]()
    if fresh:
        for step in steps:
            if step.figures is not None:
                step.figures.unlink(missing_ok=True)
    right = run_steps(record, part, steps, run, lambda line: print(line, file=sys.stderr))
    found["seconds"] = time.monotonic() - begun
    record.write()
    return right


if __name__ == "__main__":
    sys.exit(main())
