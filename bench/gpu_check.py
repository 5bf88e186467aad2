"""`python -m bench.gpu_check --part kernels|products|lanes|exact|sanitize`: what can be checked on
a CUDA device alone, as one JSON.

kernels: the tests of the kernels on the device (Triton compiles them for it), then their bench;
products: those of `linear`, whose plans are many kernels.
lanes: the cuda body, recorded forwards against the same ops by themselves, then bench.lanes. exact:
engines on the device, every method against plain decoding. sanitize: compute-sanitizer over a short
decode. Each within eight minutes, in steps: a part that was killed goes on where it stopped, as
long as source and device are the same; --fresh starts it over. `make gpu-check PART=kernels` calls
it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sbrt import collect_env, flags
from sbrt.errors import InvalidInputError

from . import gpu_kernels, gpu_sanitize
from .gpu_steps import (
    ROOT,
    Record,
    Runner,
    Step,
    commit,
    run_command,
    run_steps,
    some_passed,
    source_hash,
    succeeded,
)

LIMIT = 480  # seconds of a part, all its steps together
ANYWHERE = "gpu or (not exact and not sanitize)"
TRITON = "tests/triton_kernels"


def _tests(name: str, seconds: float, *arguments: str) -> Step:
    command = (sys.executable, "-m", "pytest", "-q", *arguments)
    return Step(name, command, seconds, some_passed)


def _bench(name: str, seconds: float, module: str, *arguments: str) -> Step:
    out = ROOT / "build" / f"gpu-{name.replace(' ', '-')}.json"
    command = (sys.executable, "-m", module, "--device", "cuda", *arguments, "--json", str(out))
    return Step(name, command, seconds, succeeded, out)


def _kernels() -> tuple[Step, ...]:
    big = [f"{TRITON}/test_{name}.py" for name in ("attention", "choose", "linear")]
    rest = [f"--ignore={path}" for path in big]
    return (
        _tests("attention", 100, "-m", ANYWHERE, big[0]),
        _tests("choose", 90, "-m", ANYWHERE, big[1]),
        _tests("other ops", 110, "-m", ANYWHERE, *rest, TRITON),
        _bench("bench of attention", 70, "bench.kernels", "--only", "attention"),
        _bench("bench of choose", 50, "bench.kernels", "--only", "choose"),
        *(
            _bench(f"bench of {op}", 15, "bench.kernels", "--only", op)
            for op in ("rms_norm", "rope", "settle")
        ),
    )


def _products() -> tuple[Step, ...]:
    return (
        _tests("products", 320, "-m", ANYWHERE, f"{TRITON}/test_linear.py"),
        _bench("bench of products", 150, "bench.kernels", "--only", "linear"),
    )


def _lanes() -> tuple[Step, ...]:
    body = "tests/gpu/test_cuda_exec.py"
    return (
        _tests("cuda body", 150, "-m", "gpu", body),
        _tests("recorded forwards", 150, "-m", "gpu", "-k", "not method", f"--ignore={body}",
               "tests/gpu"),
        _bench("bench of lanes", 150, "bench.lanes"),
    )  # fmt: skip


def _exact() -> tuple[Step, ...]:
    return tuple(
        _tests(
            f"engines at temperature {t}", 225, "-m", "gpu", "-k", f"method and {t}", "tests/gpu"
        )
        for t in ("0.0", "0.8")
    )


PARTS: dict[str, Callable[[], tuple[Step, ...]]] = {
    "kernels": _kernels,
    "products": _products,
    "lanes": _lanes,
    "exact": _exact,
    "sanitize": lambda: gpu_sanitize.steps(gpu_sanitize.find_tool() or gpu_sanitize.TOOL),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; returns 0 if all went right, 1 if not, 2 without a device."""
    return flags.guarded("bench.gpu_check", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parse(argv)
    gpu_kernels.expect_cuda()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # steps end with us
    where = {"source": source_hash(), "device": device()}
    right = check(Path(args.json), where, args.part, run_command, args.fresh)
    print(f"{args.part}: {'all right' if right else 'NOT RIGHT'}, see {args.json}")
    return 0 if right else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m bench.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="kernels", metavar="|".join(PARTS))
    parser.add_argument("--json", default="gpu-check.json", metavar="OUT")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of an earlier run")
    args = parser.parse_args(argv)
    if args.part not in PARTS:
        raise InvalidInputError(f"--part: expected one of {', '.join(PARTS)}, got {args.part}")
    return args


def device() -> dict[str, str]:
    """The device, and what compiles for it."""
    import torch

    return {
        "name": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


def check(path: Path, where: dict[str, Any], part: str, run: Runner, fresh: bool = False) -> bool:
    """Run one part into `path`, as far as it is not there; whether it is right.

    where: of a file about another source or device nothing is kept.
    """
    begun = time.monotonic()
    record = Record(path, where)
    if fresh:
        record.forget(part)
    found = record.part(part)
    found |= {"right": False, "commit": commit(), "environment": collect_env.collect()}
    why = gpu_sanitize.why_not(gpu_sanitize.find_tool()) if part == "sanitize" else ""
    found["refused"] = why
    record.write()
    if why:
        print(why, file=sys.stderr)
        return False
    right = run_steps(record, part, PARTS[part](), run, lambda line: print(line, file=sys.stderr))
    found["seconds"] = time.monotonic() - begun
    record.write()
    return right


if __name__ == "__main__":
    sys.exit(main())
