// The storage format of a matrix's weights. The kernels read the format as data, so a new file
// format does not need a new kernel.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/dtype.h"

namespace sbrt {

enum class Element : uint8_t { f32, bf16, int8, int4 };
enum class Number : uint8_t { none, f16, f32 };  // storage type of the scales or of the minimums

// weight = scale * (level - zero) (+ minimum), each step rounded to f32. In the weights of one
// output, `group` consecutive inputs share a scale and a minimum. Float formats use only `element`.
struct Format {
  Element element = Element::f32;
  int32_t group = 0;  // number of inputs per group; int8: 16, 32, 64 or 128; int4: 32, 64 or 128
  Number scales = Number::none;
  Number minimums = Number::none;
  int32_t zero = 0;  // the level of weight 0; in int4 without minimums it is 8 or 0

  bool quantised() const { return element == Element::int8 || element == Element::int4; }
  bool operator==(const Format&) const = default;
};

constexpr Format kFloat32{}, kBfloat16{Element::bf16};
constexpr Format kInt8{Element::int8, 64, Number::f32};               // dtype="int8"
constexpr Format kInt4{Element::int4, 32, Number::f16, Number::f16};  // dtype="int4"
// Format of the LM head in a kInt4 model.
constexpr Format kInt8Head{Element::int8, 32, Number::f16};

constexpr int64_t bytes_of(Number n) { return n == Number::none ? 0 : n == Number::f16 ? 2 : 4; }

// Throws InvalidInput if no kernel supports this combination of fields.
void check_format(const Format& format);

// Returns the format with this name: "float32", "bfloat16", "int8" or "int4". Throws InvalidInput
// for other names.
Format format_named(std::string_view name);

// Returns the smallest format that can hold the weights of formats a and b exactly.
Format join(const Format& a, const Format& b);

Element element_named(std::string_view name);
Number number_named(std::string_view name);

}  // namespace sbrt
