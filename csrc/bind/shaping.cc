#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"
#include "decode/request.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Words = std::vector<std::vector<int32_t>>;

ShapingRequest make_shaping(float repetition, float presence, float frequency, int64_t min_tokens,
                            const std::vector<std::pair<int32_t, float>>& bias,
                            std::optional<std::vector<int32_t>> allowed, Words words) {
  ShapingRequest s;
  s.repetition = repetition;
  s.presence = presence;
  s.frequency = frequency;
  s.min_tokens = min_tokens;
  s.restricts = allowed.has_value();
  if (allowed) s.allowed = std::move(*allowed);
  for (const auto& [token, value] : bias) s.bias.push_back({token, value});
  s.words = std::move(words);
  return s;
}

}  // namespace

void bind_shaping(py::module_& m) {
  py::class_<ShapingRequest>(
      m, "Shaping", "A request's changes to logits before their temperature (csrc/ops/shaping.h).")
      .def(py::init(&make_shaping), py::kw_only(), py::arg("repetition_penalty") = 1.0f,
           py::arg("presence_penalty") = 0.0f, py::arg("frequency_penalty") = 0.0f,
           py::arg("min_tokens") = 0, py::arg("logit_bias") = py::tuple(),
           py::arg("allowed_token_ids") = py::none(), py::arg("bad_words") = py::tuple())
      .def_property_readonly("active", &ShapingRequest::active);
  py::class_<LogprobRequest>(m, "Logprobs", "Log-probs that a request asks for.")
      .def(py::init([](int32_t output, int32_t prompt) { return LogprobRequest{output, prompt}; }),
           py::kw_only(), py::arg("output") = -1, py::arg("prompt") = -1)
      .def_readonly("output", &LogprobRequest::output)
      .def_readonly("prompt", &LogprobRequest::prompt);
}

}  // namespace sbrt
