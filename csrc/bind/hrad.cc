#include "round/hrad.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>

#include "bind/bind.h"
#include "core/check.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::vector<float> flat(const Floats& a) { return {a.data(), a.data() + a.size()}; }

// Returns the values of a matrix [out, in] as a vector. Checks the matrix's shape, because a
// transposed matrix would have the same number of values. b: the bias [out].
std::vector<float> matrix(const char* name, const Floats& w, const Floats& b) {
  check<InvalidInput>(w.ndim() == 2 && b.ndim() == 1 && w.shape(0) == b.shape(0), "hrad: ", name,
                      ": expected [out, in] with a bias [out]");
  return flat(w);
}

std::shared_ptr<Hrad> make_hrad(int64_t hidden, const Floats& w1, const Floats& b1,
                                const Floats& w2, const Floats& b2, const Floats& w3,
                                const Floats& b3) {
  return std::make_shared<Hrad>(
      hidden, HradWeights{matrix("w1", w1, b1), flat(b1), matrix("w2", w2, b2), flat(b2),
                          matrix("w3", w3, b3), flat(b3)});
}

std::array<float, 3> scores(const Hrad& hrad, const Floats& x) {
  check_equal("hrad: features", Hrad::inputs(hrad.hidden()), int64_t{x.size()});
  std::vector<float> padded = flat(x), scratch(Hrad::kScratch);
  padded.resize(Hrad::room(hrad.hidden()));
  std::array<float, 3> out;
  hrad.scores(padded.data(), scratch.data(), out.data());
  return out;
}

}  // namespace

void bind_hrad(py::module_& m) {
  py::class_<Hrad, std::shared_ptr<Hrad>>(m, "Hrad", "The classifier of csrc/round/hrad.h.")
      .def(py::init(&make_hrad), py::arg("hidden"), py::arg("w1"), py::arg("b1"), py::arg("w2"),
           py::arg("b2"), py::arg("w3"), py::arg("b3"))
      .def_property_readonly("hidden", &Hrad::hidden)
      .def("logits", &scores, py::arg("x"))
      .def(
          "classify",
          [](const Hrad& hrad, const Floats& x) {
            const std::array<float, 3> out = scores(hrad, x);
            return static_cast<int>(std::max_element(out.begin(), out.end()) - out.begin());
          },
          py::arg("x"));
}

}  // namespace sbrt
