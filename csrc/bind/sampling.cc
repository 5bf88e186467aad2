#include <tuple>

#include "bind/bind.h"
#include "ops/choose.h"
#include "decode/row_bounds.h"

namespace py = pybind11;

namespace sbrt {
namespace {

// `serial`: the gamma steps are a burst before every forward of the target; none overlaps it.
Policy make_policy(int32_t gamma, int32_t branches, bool adaptive, float epsilon, bool serial,
                   bool likely, int32_t width, int32_t nodes, int32_t on_miss, int32_t burst,
                   int32_t burst_width, float lambda, float theta, bool hrad, bool rejection,
                   bool lookup) {
  Policy p{.gamma = gamma,
           .branches = branches,
           .ranking = likely     ? kLikely
                      : adaptive ? kAdaptive
                                 : kFirst,
           .width = width,
           .nodes = nodes,
           .epsilon = epsilon,
           .on_miss = on_miss,
           .burst = burst,
           .burst_width = burst_width,
           .hrad = hrad,
           .lambda = lambda,
           .theta = theta,
           .rejection = rejection,
           .lookup = lookup};
  if (!serial) return p;
  p.on_miss = kBurst;
  std::tie(p.gamma, p.branches, p.width) = std::tuple(0, 0, 1);
  std::tie(p.burst, p.burst_width) = std::tuple(gamma, width);
  return p;
}

void bind_policy(py::module_& m) {
  py::class_<Policy>(m, "Policy", "The knobs of a round; a method is a preset of these.")
      .def(py::init(&make_policy), py::arg("gamma"), py::arg("branches") = 0,
           py::arg("adaptive") = false, py::arg("epsilon") = 0.0f, py::arg("serial") = false,
           py::kw_only(), py::arg("likely") = false, py::arg("width") = 1,
           py::arg("nodes") = kMaxChain, py::arg("on_miss") = 0, py::arg("burst") = 0,
           py::arg("burst_width") = 1, py::arg("lambda_") = 0.0f, py::arg("theta") = 0.0f,
           py::arg("hrad") = false, py::arg("rejection") = false, py::arg("lookup") = false)
      .def_readonly("gamma", &Policy::gamma)
      .def_readonly("branches", &Policy::branches)
      .def_readonly("ranking", &Policy::ranking)
      .def_readonly("width", &Policy::width)
      .def_readonly("nodes", &Policy::nodes)
      .def_readonly("epsilon", &Policy::epsilon)
      .def_readonly("on_miss", &Policy::on_miss)
      .def_readonly("burst", &Policy::burst)
      .def_readonly("burst_width", &Policy::burst_width)
      .def_readonly("lookup", &Policy::lookup)
      .def_property_readonly("most_nodes", &most_nodes, "Most nodes of a chain that it makes.");
}

}  // namespace

void bind_sampling(py::module_& m) {
  py::class_<Sampling>(m, "Sampling",
                       "The sampling parameters of one sequence (csrc/ops/choose.h).")
      .def(py::init([](float temperature, float top_p, int32_t top_k, float min_p, uint64_t seed,
                       uint32_t completion) {
             const float t = temperature < 1e-5f ? 0.0f : temperature;
             return Sampling{t, min_p, top_p, top_k, seed, completion};
           }),
           py::kw_only(), py::arg("temperature") = 1.0f, py::arg("top_p") = 1.0f,
           py::arg("top_k") = 0, py::arg("min_p") = 0.0f, py::arg("seed") = 0,
           py::arg("completion") = 0);
  bind_policy(m);
}

}  // namespace sbrt
