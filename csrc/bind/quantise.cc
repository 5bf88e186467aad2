#include "ops/quantise.h"

#include <pybind11/numpy.h>

#include <algorithm>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

// The arrays that hold rows after quantisation.
struct Rounded {
  Rounded(py::ssize_t rows, py::ssize_t columns, py::ssize_t groups)
      : levels({rows, columns}), scales({rows, groups}), minimums({rows, groups}) {}
  py::array_t<uint8_t> levels;
  Floats scales, minimums;
};

void round_row(const Format& f, const float* w, int64_t columns, uint8_t* levels, float* scales,
               float* minimums) {
  QuantisedGroup made;
  for (int64_t k = 0, group = 0; k < columns; k += f.group, ++group) {
    const int64_t n = std::min<int64_t>(f.group, columns - k);
    quantise_group(f, w + k, n, made);
    scales[group] = made.scale;
    minimums[group] = made.minimum;
    for (int64_t i = 0; i < n; ++i) levels[k + i] = static_cast<uint8_t>(made.level[i]);
  }
}

py::tuple quantise(const Format& f, const Floats& w) {
  check<InvalidInput>(f.quantised(), "quantise: expected a format of int8 or int4");
  check_equal("quantise: dimensions of w", py::ssize_t{2}, w.ndim());
  const py::ssize_t rows = w.shape(0), columns = w.shape(1),
                    groups = (columns + f.group - 1) / f.group;
  Rounded out(rows, columns, groups);
  const float* from = w.data();
  uint8_t* levels = out.levels.mutable_data();
  float* scales = out.scales.mutable_data();
  float* minimums = out.minimums.mutable_data();
  {
    const GilRelease nogil;
    for (int64_t i = 0; i < rows; ++i)
      round_row(f, from + i * columns, columns, levels + i * columns, scales + i * groups,
                minimums + i * groups);
  }
  const bool shifts = f.minimums != Number::none;
  return py::make_tuple(out.levels, out.scales, shifts ? py::object(out.minimums) : py::none());
}

}  // namespace

void bind_quantise(py::module_& m) {
  m.def("quantise", &quantise, py::arg("format"), py::arg("w"),
        "Rounds w, float32 [rows, columns], to a format as a Decoder does.");
}

}  // namespace sbrt
