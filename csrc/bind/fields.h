// Binds Python classes whose attributes are the fields of a C++ struct. Their constructors take
// fields as keyword arguments.
#pragma once

#include <string>
#include <string_view>

#include "bind/bind.h"
#include "core/check.h"

namespace sbrt {

// Returns the Python name of a C++ field. `lambda` is reserved in Python, so its name differs.
inline std::string python_name(std::string_view field) {
  return field == "lambda" ? "lambda_" : std::string(field);
}

// Returns `made` with the given fields set. Throws InvalidInput for an argument that is not a
// field. kind: the name of the class, for the message.
template <class T>
T with_fields(T made, const char* kind, const pybind11::kwargs& given) {
  const pybind11::object fields = pybind11::cast(&made, pybind11::return_value_policy::reference);
  const pybind11::object type = pybind11::type::of(fields);
  for (const auto& [name, value] : given) {
    // A read-only property or a method is not a field.
    const pybind11::object found = pybind11::getattr(type, name, pybind11::none());
    const bool is_field = !pybind11::getattr(found, "fset", pybind11::none()).is_none();
    check<InvalidInput>(is_field, kind, ": unknown field ", pybind11::cast<std::string>(name));
    pybind11::setattr(fields, name, value);
  }
  return made;
}

}  // namespace sbrt
