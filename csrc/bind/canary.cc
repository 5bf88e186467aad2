#if defined(SBRT_CANARY)
#include "exec/canary.h"

#include "bind/bind.h"

namespace sbrt {

void bind_canary(pybind11::module_& m) {
  m.def("canary", &plant_canary, pybind11::arg("name"),
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace sbrt
#endif
