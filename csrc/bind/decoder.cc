#include "model/decoder.h"

#include <pybind11/stl.h>

#include <limits>

#include "bind/bind.h"

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

// A buffer of bytes seen as a tensor; good while the buffer lives.
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
  const py::gil_scoped_release nogil;
  decoder.load(name, tensor);
}

RopeScaling make_rope(const std::string& kind, double factor, double original_max, double low_freq,
                      double high_freq, double beta_fast, double beta_slow, double attention_factor,
                      bool truncate, std::vector<float> divisors) {
  return {rope_kind(kind), factor,           original_max, low_freq, high_freq, beta_fast,
          beta_slow,       attention_factor, truncate,     std::move(divisors)};
}

DecoderConfig make_config(int64_t hidden, int64_t inner, int64_t layers, int64_t heads,
                          int64_t kv_heads, int64_t head_dim, int64_t vocab, int64_t max_positions,
                          double rms_eps, double rope_theta, bool tied, int64_t window,
                          bool qkv_bias, bool o_bias, bool mlp_bias, bool head_norms,
                          const RopeScaling& rope) {
  const DecoderConfig config{hidden,   inner,         layers,   heads,      kv_heads, head_dim,
                             vocab,    max_positions, rms_eps,  rope_theta, tied,     window,
                             qkv_bias, o_bias,        mlp_bias, head_norms, rope};
  check_config(config);
  return config;
}

}  // namespace

void bind_decoder(py::module_& m) {
  py::class_<RopeScaling>(m, "RopeScaling", "How rope is stretched; formulas: model/rope_table.h.")
      .def(py::init(&make_rope), py::kw_only(), py::arg("kind") = "default",
           py::arg("factor") = 1.0, py::arg("original_max") = 1.0, py::arg("low_freq") = 1.0,
           py::arg("high_freq") = 4.0, py::arg("beta_fast") = 32.0, py::arg("beta_slow") = 1.0,
           py::arg("attention_factor") = 1.0, py::arg("truncate") = true,
           py::arg("divisors") = std::vector<float>{});
  py::class_<DecoderConfig>(m, "DecoderConfig",
                            "Sizes and switches of a decoder of the Llama family, checked.")
      .def(py::init(&make_config), py::kw_only(), py::arg("hidden"), py::arg("inner"),
           py::arg("layers"), py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"),
           py::arg("vocab"), py::arg("max_positions"), py::arg("rms_eps"), py::arg("rope_theta"),
           py::arg("tied"), py::arg("window") = 0, py::arg("qkv_bias") = false,
           py::arg("o_bias") = false, py::arg("mlp_bias") = false, py::arg("head_norms") = false,
           py::arg("rope") = RopeScaling{});
  py::class_<Decoder, Model, std::shared_ptr<Decoder>>(
      m, "Decoder", "A Llama-shaped decoder on the CPU: weights in `storage`, arithmetic in f32.")
      .def(py::init(
               [](const DecoderConfig& config, const std::string& storage, const std::string& isa) {
                 return std::make_shared<Decoder>(config, storage_from(storage), isa);
               }),
           py::arg("config"), py::arg("storage") = "float32", py::arg("isa") = "auto")
      .def("load", &load, py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("data"),
           "Packs a copy of one tensor under its Hugging Face name. `data`: contiguous bytes.")
      .def("finish", &Decoder::finish, "Says that all is loaded; raises naming what is missing.")
      .def_property_readonly("parameters", &Decoder::parameters)
      .def_property_readonly("isa", &Decoder::isa);
}

}  // namespace sbrt
