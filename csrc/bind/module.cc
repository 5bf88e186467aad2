#include <pybind11/stl.h>

#include "bind/bind.h"
#include "core/check.h"
#include "core/memory.h"
#include "exec/backends.h"
#include "model/lane.h"
#include "ops/kernels.h"
#include "round/hrad_op.h"

#ifndef SBRT_VERSION
#define SBRT_VERSION "unknown"
#endif
#ifndef SBRT_WITH_CUDA
#define SBRT_WITH_CUDA 0
#endif
#ifndef SBRT_CUDA_VERSION
#define SBRT_CUDA_VERSION ""
#endif
#ifndef SBRT_CUDA_ARCHITECTURES
#define SBRT_CUDA_ARCHITECTURES ""
#endif

namespace py = pybind11;

namespace sbrt {

void bind_errors(py::module_& m) {
  auto engine = py::register_exception<Error>(m, "EngineError", PyExc_RuntimeError);
  engine.doc() = "An error of the engine: one sentence.";
  auto input = py::register_exception<InvalidInput>(
      m, "InvalidInputError", py::make_tuple(engine, py::handle(PyExc_ValueError)).ptr());
  input.doc() = "A bad argument: the thing, what was expected, what was given.";
}

void bind_model(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model", "Weights of a model, shared by lanes.")
      .def_property_readonly("vocab", &Model::vocab)
      .def_property_readonly("max_positions", &Model::max_positions)
      .def_property_readonly("longest", &Model::longest);
}

void bind_capabilities(py::module_& m) {
  using C = Capabilities;
  py::class_<C>(m, "Capabilities", "What a backend can do (csrc/exec/backends.h).")
      .def_readonly("name", &C::name)
      .def_readonly("captures", &C::captures)
      .def_readonly("grows_lazily", &C::grows_lazily)
      .def_readonly("rounds_match_prompts", &C::rounds_match_prompts);
  m.def(
      "capabilities",
      [](const std::string& backend) { return capabilities_of(backend_named(backend)); },
      py::arg("backend"));
}

py::dict build_info() {
  py::dict info;
  info["version"] = SBRT_VERSION;
  info["compiler"] = __VERSION__;
  info["cuda"] = SBRT_WITH_CUDA != 0;
  info["cuda_version"] = SBRT_CUDA_VERSION;
  info["cuda_architectures"] = SBRT_CUDA_ARCHITECTURES;
  info["why_no_cuda"] = why_no_cuda();
  return info;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* k : kernels_here()) names.emplace_back(k->name);
  return names;
}

// Binds the compile-time sizes that Python also uses. costs.cc binds MAX_ROWS.
void bind_sizes(py::module_& m) {
  m.attr("SLOTS") = kSlots;
  m.attr("ON_HOST") = kHostMemory;
  m.attr("MAX_SEATS") = kMaxSeats;
  m.attr("MAX_CHAIN") = kMaxChain;
  m.attr("TARGET_ROWS") = kMaxRows;
  m.attr("MAX_BRANCHES") = kMaxBranches;
  m.attr("MAX_TAIL") = kMaxTail;
  m.attr("CANDIDATES") = kCandidates;
  m.attr("ENDLESS") = kEndless;
  m.attr("FEATURE_LAYERS") = kFeatureLayers;
  m.attr("HRAD_TAIL") = kHradTail;
  m.attr("HRAD_WIDTHS") = py::make_tuple(kHradInner, kHradNarrow, kHradCuts);
}

}  // namespace sbrt

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ core of sbrt: lanes, rings, rounds.";
  m.def("build_info", &sbrt::build_info, "The build of this binary.");
  m.def("allocation_count", &sbrt::allocation_count,
        "Calls of operator new, and blocks of pages, by this library since it was loaded.");
  m.def("instruction_sets", &sbrt::instruction_sets,
        "Kernels that run on this machine, best first.");
  sbrt::bind_errors(m);
  sbrt::bind_sizes(m);
  sbrt::bind_capabilities(m);
  sbrt::bind_model(m);
  sbrt::bind_decoder(m);
  sbrt::bind_toy(m);
  sbrt::bind_recorded(m);
  sbrt::bind_sampling(m);
  sbrt::bind_shaping(m);
  sbrt::bind_costs(m);
  sbrt::bind_hrad(m);
  sbrt::bind_order(m);
  sbrt::bind_quantise(m);
  sbrt::bind_reader(m);
  sbrt::bind_engine(m);
}
