"""`python -m tests.device.ready`: checks that build and machine are ready for device checks.

The program checks the core with its CUDA backend, torch, Triton, and a matrix product as in the
lanes. It also checks a captured graph of a kernel and a product. It prints a line for each check.
It stops at the first failure with one sentence, because the later checks depend on the earlier
ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench.gpu.device import expect_cuda
from sbrt import _core, build_info
from sbrt.errors import EngineError, InvalidInputError
from sbrt.tools import flags

T = TypeVar("T")
NO_KERNEL = "expected ops with a kernel"  # a working device refuses the toy lane with these words


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks; return the exit code, which is 2 after a failure."""
    return flags.guarded("tests.device.ready", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags.Parser(prog="python -m tests.device.ready", description=__doc__).parse_args(argv)
    for look in (core, torch_there, triton_there, products, captures):
        begun = time.monotonic()
        print(f"{look()}, {time.monotonic() - begun:.1f} s", flush=True)
    return 0


def core() -> str:
    """Check that the core was built with CUDA for this device and that the driver accepts the
    build. Return the line to print."""
    info = build_info()
    if not info["cuda"]:
        raise EngineError("core: expected one built with CUDA (SBRT_CUDA=ON says why), got none")
    if info["why_no_cuda"]:
        raise EngineError(f"core: {info['why_no_cuda']}")
    try:
        _core.EngineCore(_core.Toy(vocab=32), None, max_model_len=100, backend="cuda")
    except InvalidInputError as error:
        if NO_KERNEL not in str(error):
            raise EngineError(f"core: {error}; built for {info['cuda_architectures']}") from None
    return f"core: CUDA {info['cuda_version']}, architectures {info['cuda_architectures']}"


def torch_there() -> str:
    """Check that torch finds the device. Return the line to print."""
    expect_cuda()
    import torch

    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return f"torch {torch.__version__}: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"


def triton_there() -> str:
    """Check that Triton compiles a kernel, and that the kernel gives torch's result. Return the
    line to print."""
    import torch
    import triton

    from sbrt.triton_kernels.norm import rms_norm, rms_norm_torch

    x = torch.randn(16, 512, device="cuda", dtype=torch.bfloat16)
    weight = torch.ones(512, device="cuda", dtype=torch.bfloat16)
    got, want = torch.empty_like(x), torch.empty_like(x)
    _said("triton", lambda: rms_norm(x, weight, eps=1e-5, out=got))
    rms_norm_torch(x, weight, eps=1e-5, out=want)
    worst = float((got.float() - want.float()).abs().max())
    if not worst < 0.05:
        raise EngineError(f"triton: expected rms_norm within 0.05 of its twin, got {worst}")
    return f"triton {triton.__version__}: rms_norm is {worst:.4f} from its twin"


def products() -> str:
    """Check matrix products of bfloat16 that write float32 results into existing memory. Return the
    line to print."""
    import torch

    from sbrt.gpu.ops import matmul_float32
    from sbrt.gpu.recorder import exact_products

    x, weight = (torch.randn(n, 512, device="cuda", dtype=torch.bfloat16) for n in (16, 1024))
    out = torch.empty(16, 1024, device="cuda")
    with exact_products():
        _said("products", lambda: matmul_float32(x, weight, out=out))
    worst = float((out - x.float() @ weight.float().t()).abs().max())
    if not worst < 0.1:
        raise EngineError(f"products: expected within 0.1 of float32's, got {worst}")
    return f"products: {worst:.4f} from float32's"


def captures() -> str:
    """Check that a captured graph gives the same results as its calls without a graph. Return the
    line to print, with the number of its nodes."""
    import torch

    from sbrt.gpu.ops import Run, matmul
    from sbrt.gpu.recorder import CudaRecorder
    from sbrt.triton_kernels.norm import rms_norm

    x, weight = (torch.randn(n, 512, device="cuda", dtype=torch.bfloat16) for n in (16, 1024))
    ones = torch.ones(512, device="cuda", dtype=torch.bfloat16)
    normed, out = torch.empty_like(x), torch.empty(16, 1024, device="cuda", dtype=torch.bfloat16)

    def function(run: Run) -> None:
        run(rms_norm, x, ones, eps=1e-5, out=normed)
        run(matmul, normed, weight, out=out)

    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))
    piece = _said("capture", lambda: recorder.record(function, 16))
    want = out.clone()
    out.fill_(float("nan"))
    torch.cuda.synchronize()
    with torch.cuda.stream(recorder.stream):
        piece.replay()
    torch.cuda.synchronize()
    if not torch.equal(out, want):
        raise EngineError("capture: expected a replay to give the bits of its calls, it does not")
    return f"capture: {piece.nodes} nodes for two calls"


def _said(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except EngineError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise EngineError(f"{what}: {type(error).__name__}: {lines[0]}") from error


if __name__ == "__main__":
    sys.exit(main())
