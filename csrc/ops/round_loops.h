// Quantises a group of 32 values in plain loops. The order of the steps does not change the result,
// so the compiler may vectorise them. It uses the instructions of the including file, so only one
// source file may include this header.
#pragma once

#include <cstdint>

namespace sbrt {
namespace {

// Returns the bits of the greatest magnitude of 32 values. NaN is greater than infinity.
inline int32_t greatest_bits(const float* x) {
  int32_t bits[32], most = 0;
  __builtin_memcpy(bits, x, sizeof bits);
  for (int i = 0; i < 32; ++i) {
    const int32_t magnitude = bits[i] & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

// Sets q to x / scale, rounded to nearest, halves to even. Sets sum[0] and sum[1] to the sums of
// the first and the second half of q.
inline void round_levels(const float* x, float scale, int8_t* q, int32_t (&sum)[2]) {
  // 1.5 * 2^23; a float becomes an integer when this number is added.
  constexpr float kMagic = 12582912.0f;
  int32_t level[32];
  for (int i = 0; i < 32; ++i) level[i] = static_cast<int32_t>((x[i] / scale + kMagic) - kMagic);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<int8_t>(level[i]);
  sum[0] = sum[1] = 0;
  for (int i = 0; i < 16; ++i) sum[0] += level[i];
  for (int i = 16; i < 32; ++i) sum[1] += level[i];
}

}  // namespace
}  // namespace sbrt
