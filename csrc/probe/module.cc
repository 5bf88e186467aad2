#include "probe/probe.h"

namespace py = pybind11;

PYBIND11_MODULE(_probe, m) {
  m.doc() = "Parts of the core by themselves, for tests and benches.";
  // Imported first, because sbrt._core binds the classes and errors that this module uses.
  py::module_::import("sbrt._core");
  sbrt::bind_accept(m);
  sbrt::bind_choose(m);
  sbrt::bind_lane_probe(m);
  sbrt::bind_matmul_probe(m);
  sbrt::bind_kernel_bench(m);
  sbrt::bind_ring_probe(m);
  sbrt::bind_ops_probe(m);
  sbrt::bind_policy_probe(m);
#if defined(SBRT_CANARY)
  sbrt::bind_canary(m);
#endif
}
