// Errors and checks. A check that fails throws and never aborts. Its message contains the checked
// values.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sbrt {

// The engine or one of its workers is broken. In Python this error is sbrt.EngineError.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The caller gave an invalid value. In Python this error is sbrt.InvalidInputError, a ValueError.
struct InvalidInput : Error {
  using Error::Error;
};

template <class... Parts>
std::string sentence(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class E = Error, class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw E(sentence(parts...));
}

template <class Expected, class Given>
void check_equal(std::string_view thing, const Expected& expected, const Given& given) {
  if (!(expected == given)) [[unlikely]]
    throw InvalidInput(sentence(thing, ": expected ", expected, " but got ", given));
}

template <class Low, class High, class Given>
void check_within(std::string_view thing, const Low& low, const High& high, const Given& given) {
  if (!(given >= low && given <= high)) [[unlikely]]
    throw InvalidInput(
        sentence(thing, ": expected a value from ", low, " to ", high, " but got ", given));
}

}  // namespace sbrt
