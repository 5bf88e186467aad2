// Classes whose attributes are the fields of a struct, and which are made from them by name.
#pragma once

#include <string>
#include <string_view>

#include "bind/bind.h"
#include "core/check.h"

namespace sbrt {

// The name of a field in Python, where some are reserved.
inline std::string python_name(std::string_view field) {
  return field == "lambda" ? "lambda_" : std::string(field);
}

// `made` with the fields that are given. Throws InvalidInput for a name that `kind` does not have.
template <class T>
T with_fields(T made, const char* kind, const pybind11::kwargs& given) {
  const pybind11::object fields = pybind11::cast(&made, pybind11::return_value_policy::reference);
  const pybind11::object type = pybind11::type::of(fields);
  for (const auto& [name, value] : given) {
    // A property that Python only reads, or a method, is no field.
    const pybind11::object found = pybind11::getattr(type, name, pybind11::none());
    const bool is_field = !pybind11::getattr(found, "fset", pybind11::none()).is_none();
    check<InvalidInput>(is_field, kind, ": unknown field ", pybind11::cast<std::string>(name));
    pybind11::setattr(fields, name, value);
  }
  return made;
}

}  // namespace sbrt
