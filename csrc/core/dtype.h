// The element types of stored float tensors (core/tensor.h has the views). A Format (ops/format.h)
// says how a matrix stores its weights.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/bits.h"
#include "core/check.h"

namespace sbrt {

enum class DType : uint8_t { f32, bf16, f16 };

constexpr int64_t bytes_of(DType t) { return t == DType::f32 ? 4 : 2; }

constexpr std::string_view name_of(DType t) {
  constexpr std::string_view kNames[] = {"float32", "bfloat16", "float16"};
  return kNames[static_cast<int>(t)];
}

inline DType dtype_from(std::string_view name) {
  if (name == "float32" || name == "F32") return DType::f32;
  if (name == "bfloat16" || name == "BF16") return DType::bf16;
  if (name == "float16" || name == "F16") return DType::f16;
  throw InvalidInput(sentence("dtype: expected float32, bfloat16 or float16 but got ", name));
}

SBRT_ANY inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Rounds to the nearest bf16, ties to even. NaN stays NaN.
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}

SBRT_ANY inline float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t wide =
      sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (mantissa << 13);
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Rounds to the nearest f16, ties to even. NaN stays NaN. A value that is too large becomes
// infinite.
inline uint16_t to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // adding 0.5f rounds to a multiple of 2^-24, the smallest f16 step
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof bits);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}

}  // namespace sbrt
