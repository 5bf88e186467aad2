#include "model/reader.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bind/bind.h"
#include "bind/gil.h"

namespace py = pybind11;

namespace sbrt {
namespace {

py::array_t<float> logits_of(const LogitReader& reader) {
  py::array_t<float> out({reader.rows(), reader.columns()});
  std::copy_n(reader.logits(), out.size(), out.mutable_data());
  return out;
}

}  // namespace

void bind_reader(py::module_& m) {
  py::class_<LogitReader>(m, "LogitReader",
                          "Reads a model's logits along a text, without an engine. longest: tokens "
                          "of a text at most. One thread uses it at a time.")
      .def(py::init<std::shared_ptr<Model>, int64_t, int32_t>(), py::arg("model"),
           py::arg("longest"), py::arg("threads"))
      .def(
          "forward",
          [](LogitReader& reader, int64_t head, const std::vector<int32_t>& tokens,
             bool logits) -> py::object {
            {
              const GilRelease nogil;
              reader.forward(head, tokens, logits);
            }
            return logits ? py::object(logits_of(reader)) : py::none();
          },
          py::arg("head"), py::arg("tokens"), py::arg("logits") = true,
          "Feed up to 64 tokens that follow the first `head` ones. Gives f32 logits [tokens, "
          "columns], or None without logits. Raises InvalidInputError.");
}

}  // namespace sbrt
