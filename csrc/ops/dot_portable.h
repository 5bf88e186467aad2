// Dot products of 4 bytes in each of 16 lanes of a plain array. Only one source file may include
// this header (integers_simd.inc says why).
#pragma once

#include "ops/round_loops.h"
#include "ops/simd_portable.h"

namespace sbrt {
namespace {

struct I {
  int32_t a[16];
};
struct B {
  int8_t a[64];
};
using N = I;
constexpr int kTallestIntegers = 4;

inline I repeat(int32_t x) {
  I out;
  for (int i = 0; i < 16; ++i) out.a[i] = x;
  return out;
}
inline I dot(const I& sum, const B& w, const int8_t* q) {
  I out = sum;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) out.a[i] += w.a[4 * i + j] * q[j];
  return out;
}
inline B raw_bytes(const uint8_t* p) {
  B out;
  std::memcpy(out.a, p, sizeof out.a);
  return out;
}

// Returns levels; a stored byte is the level + 128.
inline B bytes(const uint8_t* p) {
  B out;
  for (int i = 0; i < 64; ++i) out.a[i] = static_cast<int8_t>(p[i] - 128);
  return out;
}
inline I start_bytes(int32_t) { return repeat(0); }
inline I dot_bytes(const I& sum, const B& w, const int8_t* q) { return dot(sum, w, q); }

inline B low_nibbles(const B& both) {
  B out;
  for (int i = 0; i < 64; ++i) out.a[i] = static_cast<int8_t>(both.a[i] & 15);
  return out;
}
inline B high_nibbles(const B& both) {
  B out;
  for (int i = 0; i < 64; ++i) out.a[i] = static_cast<int8_t>(both.a[i] >> 4 & 15);
  return out;
}
inline N start_nibbles(int32_t less) { return repeat(less); }
inline N dot_nibbles(const N& sum, const B& w, const int8_t* q) { return dot(sum, w, q); }
inline I end_nibbles(const N& sum, int32_t) { return sum; }

inline V to_float(const I& x) {
  return each([&](int i) { return static_cast<float>(x.a[i]); });
}
// Computes x * y + z with one rounding, as on other machines. (`fma` of simd_portable.h rounds
// twice.)
inline V fused(const V& x, const V& y, const V& z) {
  return each([&](int i) { return __builtin_fmaf(x.a[i], y.a[i], z.a[i]); });
}

}  // namespace
}  // namespace sbrt
