#include "state/policy.h"

#include "probe/probe.h"

namespace py = pybind11;

namespace sbrt {
namespace {

// Returns a policy made from the parameters that tests use. serial: a burst of gamma steps runs
// before every target forward, and no draft step overlaps a forward. adaptive, likely: these select
// the ranking.
Policy policy(int32_t gamma, int32_t branches, bool adaptive, float epsilon, bool serial,
              bool likely, const py::kwargs& fields) {
  py::object made = py::cast(plain_policy());
  made.attr("gamma") = gamma;
  made.attr("branches") = branches;
  made.attr("epsilon") = epsilon;
  made.attr("ranking") = static_cast<int>(likely ? kLikely : adaptive ? kAdaptive : kFirst);
  for (const auto& [name, value] : fields) py::setattr(made, name, value);
  auto p = made.cast<Policy>();
  if (!serial) return p;
  p.on_miss = kBurst;
  p.burst = gamma;
  p.burst_width = p.width;
  p.gamma = p.branches = 0;
  p.width = 1;
  return p;
}

}  // namespace

void bind_policy_probe(py::module_& m) {
  m.def("policy", &policy, py::arg("gamma") = 0, py::arg("branches") = 0,
        py::arg("adaptive") = false, py::arg("epsilon") = 0.0f, py::arg("serial") = false,
        py::arg("likely") = false, "A Policy of the core, by few words.");
}

}  // namespace sbrt
