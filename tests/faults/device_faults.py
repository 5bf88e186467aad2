"""More of faults.py: faults that a device would show."""

from tests.faults.faults import Fault

FAULTS = (
    Fault(
        "a product that is launched early does not wait for the kernel before it",
        "triton_kernels/linear.py",
        "        wait_for_previous()",
        "        pass",
        ("triton_kernels/test_early.py",),
    ),
    Fault(
        "the modules export operator new",
        "csrc/core/exports.map",
        "  local: *;\n",
        "",
        ("engine/test_exports.py",),
    ),
    Fault(
        "two lanes reach all of the memory's rate",
        "bench/gpu/cost_file.py",
        "(one.busy + other.busy) / SHARING",
        "one.busy + other.busy",
        ("bench/test_costs.py",),
    ),
)
