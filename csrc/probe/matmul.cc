// Computes products with one packed matrix, so that tests can check them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bind/gil.h"
#include "ops/matmul.h"
#include "probe/probe.h"
#include "exec/runner.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;

// Describes how a product is computed: the kernels, the integer kernels, the size of the team. If
// `integers` is empty, the rows stay f32.
struct Way {
  std::string isa, integers;
  int width;
};

struct Added {
  explicit Added(const py::object& given)
      : is_given(!given.is_none()), values(is_given ? given.cast<Floats>() : Floats()) {}
  const float* data() const { return is_given ? values.data() : nullptr; }
  bool is_given;
  Floats values;
};

// The buffers of a product of x [rows, in]. The result is [rows, out], or [rows, gates] if gated.
class Product {
 public:
  Product(const PackedMatrix& w, const Floats& x, const Way& way)
      : rows_(static_cast<int32_t>(x.shape(0))),
        both_(w.gated() ? int64_t{way.width} * rows_ * kGatedWidth : 0),
        groups_(way.width * row_groups_size(w.in(), rows_)),
        made_(w.gated() ? row_groups_size(w.gates(), rows_) : 0),
        y({py::ssize_t{rows_}, static_cast<py::ssize_t>(w.gated() ? w.gates() : w.out())}) {
    table_.n = rows_;
    args = {&kernels_named(way.isa), &w, &table_, x.data(), y.mutable_data(), nullptr, nullptr};
    args.both = both_.data();
    args.max_rows = rows_;
    if (!way.integers.empty())
      args.integers = {&integers_named(way.integers), groups_.data(), nullptr, nullptr};
  }
  void run(int width) {
    Graph graph("probe.matmul");
    graph.add(matmul, args);
    const GilRelease nogil;
    Runner(width).run(graph, width);
  }
  RowGroup* made() const { return made_.data(); }

  MatmulArgs args{};

 private:
  int32_t rows_;
  Batch table_{};
  Buffer<float> both_;
  Buffer<RowGroup> groups_, made_;

 public:
  py::array_t<float> y;
};

class MatmulProbe {
 public:
  MatmulProbe(const std::vector<std::pair<Format, int64_t>>& parts, int64_t in, bool gated)
      : matrix_(to_parts(parts), in, gated ? Order::gated : Order::plain) {}

  void pack(const Floats& w, int64_t first) {
    check_equal("probe: dimensions of w", 2, w.ndim());
    matrix_.pack(first, {w.data(), DType::f32, {w.shape(0), w.shape(1)}, 2});
  }
  void pack_levels(const Format& format, const Bytes& levels, const Floats& scales,
                   const py::object& minimums, int64_t first) {
    check_equal("probe: dimensions of levels", 2, levels.ndim());
    const Added shift(minimums);
    matrix_.pack(first,
                 {levels.data(), scales.data(), shift.data(), levels.shape(0), levels.shape(1)},
                 format);
  }
  py::array_t<float> row(int64_t o) const {
    py::array_t<float> out(static_cast<py::ssize_t>(matrix_.in()));
    matrix_.read(o, out.mutable_data());
    return out;
  }
  py::array_t<float> run(const Floats& x, const std::string& isa, const std::string& integers,
                         int width, const py::object& add, const py::object& bias) const {
    check_equal("probe: dimensions of x", 2, x.ndim());
    check_equal("probe: columns of x", matrix_.in(), int64_t{x.shape(1)});
    check_within("probe: rows", py::ssize_t{1}, py::ssize_t{kMaxStepRows}, x.shape(0));
    check_within("probe: width", 1, 64, width);
    const Added added(add), biased(bias);
    Product product(matrix_, x, {isa, integers, width});
    product.args.add = added.data();
    product.args.bias = biased.data();
    product.run(width);
    return product.y;
  }
  // Returns the result of a gated product as integers: the bytes of RowGroups [rows, groups].
  py::bytes made(const Floats& x, const std::string& isa, const std::string& integers,
                 int width) const {
    check<InvalidInput>(matrix_.gated(), "probe: expected a gated matrix");
    Product product(matrix_, x, {isa, integers, width});
    product.args.integers.make = product.made();
    product.run(width);
    return groups_of(product.made(), matrix_.gates(), x.shape(0));
  }
  static py::bytes groups_of(const RowGroup* from, int64_t n, int64_t rows) {
    std::vector<RowGroup> out;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t g = 0; g < row_groups(n); ++g) out.push_back(from[g * row_stride(rows) + row]);
    return {reinterpret_cast<const char*>(out.data()), out.size() * sizeof(RowGroup)};
  }
  int64_t bytes() const { return matrix_.bytes(); }

 private:
  static std::vector<PackedMatrix::Part> to_parts(
      const std::vector<std::pair<Format, int64_t>>& given) {
    std::vector<PackedMatrix::Part> parts;
    for (const auto& [format, out] : given) parts.push_back({format, out});
    return parts;
  }
  PackedMatrix matrix_;
};

// Returns x [rows, in] times the transpose of w [out, in]. Adds `bias` [out] and `add` if they are
// given. The rows stay f32.
py::array_t<float> matmul_probe(const Floats& x, const Floats& w, const std::string& storage,
                                const std::string& isa, int width, const py::object& add,
                                const py::object& bias) {
  check_equal("probe: dimensions of w", 2, w.ndim());
  MatmulProbe probe({{format_named(storage), w.shape(0)}}, w.shape(1), false);
  probe.pack(w, 0);
  return probe.run(x, isa, "", width, add, bias);
}

// Returns the rows x [rows, n] as integers: the bytes of RowGroups [rows, groups].
py::bytes quantise_probe(const Floats& x, const std::string& integers) {
  check_equal("probe: dimensions of x", 2, x.ndim());
  const int64_t rows = x.shape(0), n = x.shape(1);
  Buffer<RowGroup> groups(row_groups_size(n, rows));
  for (int64_t row = 0; row < rows; ++row)
    integers_named(integers).quantise(x.data(row, 0), n, row_stride(rows), groups.data() + row);
  return MatmulProbe::groups_of(groups.data(), n, rows);
}

std::vector<std::string> integer_sets() {
  std::vector<std::string> names;
  for (const Integers* k : integers_here()) names.emplace_back(k->name);
  return names;
}

}  // namespace

void bind_matmul_probe(py::module_& m) {
  py::class_<MatmulProbe>(m, "MatmulProbe",
                          "A packed matrix by itself: parts are (Format, outputs).")
      .def(py::init<const std::vector<std::pair<Format, int64_t>>&, int64_t, bool>(),
           py::arg("parts"), py::arg("columns"), py::arg("gated") = false)
      .def("pack", &MatmulProbe::pack, py::arg("w"), py::arg("first") = 0)
      .def("pack_levels", &MatmulProbe::pack_levels, py::arg("format"), py::arg("levels"),
           py::arg("scales"), py::arg("minimums") = py::none(), py::arg("first") = 0)
      .def("row", &MatmulProbe::row, py::arg("index"))
      .def("run", &MatmulProbe::run, py::arg("x"), py::arg("isa") = "auto",
           py::arg("integers") = "", py::arg("width") = 1, py::arg("add") = py::none(),
           py::arg("bias") = py::none())
      .def("made", &MatmulProbe::made, py::arg("x"), py::arg("isa") = "auto",
           py::arg("integers") = "auto", py::arg("width") = 1)
      .def_property_readonly("bytes", &MatmulProbe::bytes);
  m.def("matmul_probe", &matmul_probe, py::arg("x"), py::arg("w"), py::arg("storage") = "float32",
        py::arg("isa") = "auto", py::arg("width") = 1, py::arg("add") = py::none(),
        py::arg("bias") = py::none());
  m.def(
      "format_named", [](const std::string& name) { return format_named(name); }, py::arg("name"),
      "The format that `dtype` names.");
  m.def("quantise_probe", &quantise_probe, py::arg("x"), py::arg("integers") = "auto");
  m.def("integer_sets", &integer_sets, "Integer products that run on this machine, best first.");
}

}  // namespace sbrt
