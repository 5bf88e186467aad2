#include "model/toy.h"

#include <pybind11/stl.h>

#include "bind/bind.h"

namespace py = pybind11;

namespace sbrt {

void bind_toy(py::module_& m) {
  py::class_<Toy, Model, std::shared_ptr<Toy>>(
      m, "Toy", "A model whose logits are a hash of the prefix (csrc/model/toy.h has the formula).")
      .def(py::init([](int32_t vocab, uint64_t seed, int32_t noise16, int64_t max_positions,
                       int64_t window, int64_t nan_at, int64_t throw_at, int64_t gate_at,
                       float acceptance, std::vector<int32_t> head_ids) {
             return std::make_shared<Toy>(ToyConfig{vocab, seed, noise16, max_positions, window,
                                                    nan_at, throw_at, gate_at, acceptance,
                                                    std::move(head_ids)});
           }),
           py::arg("vocab") = 32, py::arg("seed") = 0, py::arg("noise16") = 0,
           py::arg("max_positions") = int64_t{1} << 20, py::arg("window") = 0,
           py::arg("nan_at") = -1, py::arg("throw_at") = -1, py::arg("gate_at") = -1,
           py::arg("acceptance") = -1.0f, py::arg("head_ids") = std::vector<int32_t>{})
      .def_property_readonly("waiting", &Toy::waiting)
      .def("open_gate", &Toy::open_gate);
}

}  // namespace sbrt
