#include "model/decoder.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>

#include "bind/bind.h"
#include "bind/gil.h"

namespace py = pybind11;

namespace sbrt {
namespace {

int64_t contiguous_bytes(const py::buffer_info& data, const std::string& name) {
  py::ssize_t bytes = data.itemsize;
  for (py::ssize_t i = data.ndim; i-- > 0; bytes *= data.shape[i])
    check<InvalidInput>(data.strides[i] == bytes || data.shape[i] == 1, "weights: data of ", name,
                        ": expected contiguous bytes but got a stride of ", data.strides[i]);
  return bytes;
}

// Returns a tensor that views the bytes of a buffer. The tensor is valid while the buffer lives.
TensorView view_of(const py::buffer_info& data, const std::string& name, DType dtype,
                   const std::vector<int64_t>& shape) {
  check<InvalidInput>(shape.size() == 1 || shape.size() == 2, "weights: dimensions of ", name,
                      ": expected 1 or 2 but got ", shape.size());
  TensorView t;
  t.data = data.ptr;
  t.dtype = dtype;
  t.dims = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    check_within("weights: sizes of " + name, int64_t{1}, std::numeric_limits<int64_t>::max(),
                 shape[i]);
    t.shape[i] = shape[i];
  }
  const int64_t bytes = checked_mul(checked_mul(t.shape[0], t.shape[1]), bytes_of(dtype));
  check_equal("weights: bytes of " + name, bytes, contiguous_bytes(data, name));
  return t;
}

void load(Decoder& decoder, const std::string& name, const std::string& dtype,
          const std::vector<int64_t>& shape, const py::buffer& data) {
  const py::buffer_info info = data.request();
  const TensorView tensor = view_of(info, name, dtype_from(dtype), shape);
  const GilRelease nogil;
  decoder.weights().load(name, tensor);
}

RopeScaling make_rope(const std::string& kind, double factor, double original_max, double low_freq,
                      double high_freq, double beta_fast, double beta_slow, double attention_factor,
                      bool truncate, std::vector<float> divisors) {
  return {rope_kind(kind), factor,    original_max,     low_freq, high_freq,
          beta_fast,       beta_slow, attention_factor, truncate, std::move(divisors)};
}

DecoderConfig make_config(int64_t hidden, int64_t inner, int64_t layers, int64_t heads,
                          int64_t kv_heads, int64_t head_dim, int64_t vocab, int64_t max_positions,
                          double rms_eps, double rope_theta, bool tied, int64_t window,
                          bool qkv_bias, bool o_bias, bool mlp_bias, bool head_norms,
                          const RopeScaling& rope, std::vector<bool> local, double local_theta,
                          const RopeScaling& local_rope, double query_scalar, bool gelu,
                          bool post_norms, bool norm_offset, bool scaled_embedding) {
  DecoderConfig config{hidden,   inner,         layers,   heads,      kv_heads, head_dim,
                       vocab,    max_positions, rms_eps,  rope_theta, tied,     window,
                       qkv_bias, o_bias,        mlp_bias, head_norms, rope};
  config.local = std::move(local);
  config.local_theta = local_theta;
  config.local_rope = local_rope;
  config.query_scalar = query_scalar;
  config.gelu = gelu;
  config.post_norms = post_norms;
  config.norm_offset = norm_offset;
  config.scaled_embedding = scaled_embedding;
  check_config(config);
  return config;
}

Format make_format(const std::string& element, int32_t group, const std::string& scales,
                   const std::string& minimums, int32_t zero) {
  const Element kind = element_named(element);
  const bool is_float = kind == Element::f32 || kind == Element::bf16;
  const Format format{kind, group, is_float ? Number::none : number_named(scales),
                      number_named(minimums), zero};
  check_format(format);
  return format;
}

std::shared_ptr<Decoder> make_decoder(const DecoderConfig& config, const std::string& storage,
                                      const std::string& isa, const std::string& activations,
                                      const std::unordered_map<std::string, Format>& formats,
                                      std::vector<int32_t> head_ids, const Decoder* target) {
  const bool is_int8 = activations == "int8";
  check<InvalidInput>(is_int8 || activations == "float32",
                      "activations: expected float32 or int8 but got ", activations);
  return std::make_shared<Decoder>(
      config, WeightFormats{format_named(storage), formats}, isa, is_int8,
      DraftParts{std::move(head_ids), target ? target->shared_weights() : nullptr});
}

using Numbers = py::array_t<float, py::array::c_style>;

// Returns the array `given` of scales or minimums, [rows, groups], or null if `given` is None.
// Throws InvalidInput if its type or its shape is wrong.
const float* numbers_of(const py::object& given, const std::string& what, int64_t rows,
                        int64_t groups) {
  if (given.is_none()) return nullptr;
  check<InvalidInput>(py::isinstance<Numbers>(given), what, ": expected contiguous float32");
  const auto numbers = given.cast<Numbers>();
  check_equal("dimensions of " + what, py::ssize_t{2}, numbers.ndim());
  check_equal("rows of " + what, rows, int64_t{numbers.shape(0)});
  check_equal("groups of " + what, groups, int64_t{numbers.shape(1)});
  return numbers.data();
}

void load_quantised(Decoder& decoder, const std::string& name, const py::buffer& levels,
                    const py::object& scales, const py::object& minimums, int64_t first) {
  const py::buffer_info info = levels.request();
  check<InvalidInput>(info.ndim == 2 && info.itemsize == 1, "weights: levels of ", name,
                      ": expected bytes [rows, columns]");
  contiguous_bytes(info, name);
  Levels rows{static_cast<const uint8_t*>(info.ptr), nullptr, nullptr, info.shape[0],
              info.shape[1]};
  const int64_t groups = decoder.weights().groups(name);
  rows.scales = numbers_of(scales, "scales of " + name, rows.rows, groups);
  rows.minimums = numbers_of(minimums, "minimums of " + name, rows.rows, groups);
  check<InvalidInput>(rows.scales, "weights: expected scales of ", name, " but got none");
  const GilRelease nogil;
  decoder.weights().load(name, rows, first);
}

py::array_t<float> row_of(Decoder& decoder, const std::string& name, int64_t index) {
  const std::vector<float> row = decoder.weights().row(name, index);
  return py::array_t<float>(static_cast<py::ssize_t>(row.size()), row.data());
}

}  // namespace

void bind_decoder(py::module_& m) {
  py::class_<Format>(m, "Format", "How a matrix keeps its weights; formulas: ops/format.h.")
      .def(py::init(&make_format), py::arg("element"), py::arg("group") = 0,
           py::arg("scales") = "float32", py::arg("minimums") = "none", py::arg("zero") = 0)
      .def("__eq__", [](const Format& a, const Format& b) { return a == b; });
  py::class_<RopeScaling>(m, "RopeScaling", "How rope is stretched; formulas: model/rope_table.h.")
      .def(py::init(&make_rope), py::kw_only(), py::arg("kind") = "default",
           py::arg("factor") = 1.0, py::arg("original_max") = 1.0, py::arg("low_freq") = 1.0,
           py::arg("high_freq") = 4.0, py::arg("beta_fast") = 32.0, py::arg("beta_slow") = 1.0,
           py::arg("attention_factor") = 1.0, py::arg("truncate") = true,
           py::arg("divisors") = std::vector<float>{});
  py::class_<DecoderConfig>(m, "DecoderConfig",
                            "Sizes and switches of a Llama or Gemma 3 decoder, checked.")
      .def(py::init(&make_config), py::kw_only(), py::arg("hidden"), py::arg("inner"),
           py::arg("layers"), py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"),
           py::arg("vocab"), py::arg("max_positions"), py::arg("rms_eps"), py::arg("rope_theta"),
           py::arg("tied"), py::arg("window") = 0, py::arg("qkv_bias") = false,
           py::arg("o_bias") = false, py::arg("mlp_bias") = false, py::arg("head_norms") = false,
           py::arg("rope") = RopeScaling{}, py::arg("local") = std::vector<bool>{},
           py::arg("local_theta") = 0.0, py::arg("local_rope") = RopeScaling{},
           py::arg("query_scalar") = 0.0, py::arg("gelu") = false, py::arg("post_norms") = false,
           py::arg("norm_offset") = false, py::arg("scaled_embedding") = false);
  py::class_<Decoder, Model, std::shared_ptr<Decoder>>(m, "Decoder",
                                                       "A Llama-shaped decoder on the CPU.")
      .def(py::init(&make_decoder), py::arg("config"), py::arg("storage") = "float32",
           py::arg("isa") = "auto", py::arg("activations") = "float32",
           py::arg("formats") = std::unordered_map<std::string, Format>{},
           py::arg("head_ids") = std::vector<int32_t>{}, py::arg("target") = nullptr)
      .def("load", &load, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("data"),
           "Packs a copy of one tensor under its Hugging Face name. `data`: contiguous bytes.")
      .def("load_quantised", &load_quantised, py::arg("name"), py::arg("levels"), py::arg("scales"),
           py::arg("minimums") = py::none(), py::arg("first") = 0,
           "Packs rows `first` and on of a tensor that is quantised in the format given for it.")
      .def("row", &row_of, py::arg("name"), py::arg("index"),
           "Row of a matrix as the arithmetic has it, float32 [columns].")
      .def("finish", &Decoder::finish, "Ends loading; raises an error that names a missing tensor.")
      .def_property_readonly("parameters", &Decoder::parameters)
      .def_property_readonly("isa", &Decoder::isa);
}

}  // namespace sbrt
