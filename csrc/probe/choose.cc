// Binds functions that sample from one row of logits, compute its softmax, and make random numbers.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "core/check.h"
#include "ops/choose.h"
#include "ops/philox.h"
#include "probe/probe.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;

// Returns the top tokens of one row of logits, sampled in the same way as in a lane.
std::vector<int32_t> choose(const Logits& logits, const Sampling& s, int64_t position, int want,
                            const std::vector<int32_t>& ids) {
  check_within("choose: want", 1, kCandidates, want);
  check_within("choose: vocabulary", py::ssize_t{1}, py::ssize_t{1} << 30, logits.size());
  const int n = static_cast<int>(logits.size());
  const ColumnMap map(ids, ids.empty() ? n : *std::max_element(ids.begin(), ids.end()) + 1);
  check_equal("choose: logits of a row", map.columns().n, n);
  ChooseScratch scratch(n);
  std::vector<int32_t> tokens(want);
  int32_t error;
  tokens.resize(
      top_tokens(logits.data(), map.columns(), s, position, scratch, want, tokens.data(), error));
  return tokens;
}

float softmax_at(const Logits& logits, int32_t token) {
  check_within("softmax_at: token", py::ssize_t{0}, logits.size() - 1, token);
  return raw_softmax(logits.data(), static_cast<int>(logits.size()), token);
}

}  // namespace

void bind_choose(py::module_& m) {
  m.def("choose", &choose, py::arg("logits"), py::arg("sampling"), py::arg("position"),
        py::arg("want") = 1, py::arg("ids") = std::vector<int32_t>{},
        "Top tokens of a row f32, best first; none for a NaN row. ids: the token of each column.");
  m.def("softmax_at", &softmax_at, "Softmax of a row [vocab] f32 at one token, as confidence is.");
  m.def(
      "philox",
      [](std::array<uint32_t, 4> c, uint32_t key0, uint32_t key1) {
        const Words4 out = philox({{c[0], c[1], c[2], c[3]}}, key0, key1);
        return std::array<uint32_t, 4>{out.w[0], out.w[1], out.w[2], out.w[3]};
      },
      "Philox4x32-10 of a counter [4] and a key [2].");
}

}  // namespace sbrt
