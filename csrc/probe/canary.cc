#if defined(SBRT_CANARY)
#include "exec/canary.h"

#include "bind/gil.h"
#include "probe/probe.h"

namespace sbrt {

void bind_canary(pybind11::module_& m) {
  m.def("canary", &plant_canary, pybind11::arg("name"), pybind11::call_guard<GilRelease>());
}

}  // namespace sbrt
#endif
