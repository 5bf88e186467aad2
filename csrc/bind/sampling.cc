#include "bind/bind.h"
#include "bind/fields.h"
#include "decode/request.h"
#include "decode/row_bounds.h"
#include "state/fields.inc"

namespace py = pybind11;

namespace sbrt {
namespace {

#define SBRT_BIND_FIELD(Type, field) bound.def_readwrite(python_name(#field).c_str(), &Type::field);

void bind_policy(py::module_& m) {
  py::class_<Policy> bound(m, "Policy",
                           "The knobs of a round (csrc/state/policy.h); a method is a preset of "
                           "these. What is not given drafts nothing.");
  bound.def(py::init(
      [](const py::kwargs& given) { return with_fields(plain_policy(), "Policy", given); }));
  SBRT_FIELDS_OF_POLICY(SBRT_BIND_FIELD)
  bound.def_property_readonly(
      "most_nodes", [](const Policy& p) { return most_nodes(normalised(p)); },
      "Most nodes of a chain that it makes.");
  m.attr("RANK_FIRST") = static_cast<int>(kFirst);
  m.attr("RANK_ADAPTIVE") = static_cast<int>(kAdaptive);
  m.attr("RANK_LIKELY") = static_cast<int>(kLikely);
  m.attr("GO_ON") = static_cast<int>(kGoOn);
  m.attr("BURST") = static_cast<int>(kBurst);
  m.attr("LOOKUP") = static_cast<int>(kLookup);
}

}  // namespace

void bind_sampling(py::module_& m) {
  py::class_<Sampling> bound(m, "Sampling",
                             "The sampling parameters of one sequence (csrc/ops/choose.h). Without "
                             "any, tokens are sampled from the model's own distribution.");
  bound.def(py::init([](const py::kwargs& given) {
    Sampling s{};
    s.temperature = s.top_p = 1;
    return normalised(with_fields(s, "Sampling", given));
  }));
  SBRT_FIELDS_OF_SAMPLING(SBRT_BIND_FIELD)
  bind_policy(m);
}

}  // namespace sbrt
