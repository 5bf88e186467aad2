// A contiguous, row-major tensor of stored weights. The caller owns its memory.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "core/check.h"
#include "core/dtype.h"

namespace sbrt {

struct TensorView {
  const void* data = nullptr;  // [shape[0], shape[1]] or [shape[0]]; owned by the caller
  DType dtype = DType::f32;
  std::array<int64_t, 2> shape{0, 1};
  int dims = 1;

  int64_t size() const { return shape[0] * shape[1]; }
  float at(int64_t i) const {
    if (dtype == DType::f32) return static_cast<const float*>(data)[i];
    const uint16_t bits = static_cast<const uint16_t*>(data)[i];
    return dtype == DType::bf16 ? from_bf16(bits) : from_f16(bits);
  }
};

inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t out;
  check<InvalidInput>(!__builtin_mul_overflow(a, b, &out), "size overflows 64 bits: ", a, " x ", b);
  return out;
}

}  // namespace sbrt
