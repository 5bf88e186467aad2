// Dot products of 4 bytes in each of 16 lanes (four registers), with NEON's dot product
// instruction. Only one source file may include this header (integers_simd.inc says why).
#pragma once

#include "ops/round_loops.h"
#include "ops/simd_neon.h"

namespace sbrt {
namespace {

struct I {
  int32x4_t a[kParts];
};
struct B {
  int8x16_t a[kParts];
};
using N = I;
constexpr int kTallestIntegers = 4;

inline I repeat(int32_t x) {
  const int32x4_t all = vdupq_n_s32(x);
  return {{all, all, all, all}};
}
inline I dot(const I& sum, const B& w, const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
  I out;
  for (int i = 0; i < kParts; ++i) out.a[i] = vdotq_s32(sum.a[i], w.a[i], x);
  return out;
}
inline B raw_bytes(const uint8_t* p) {
  B out;
  for (int i = 0; i < kParts; ++i) out.a[i] = vreinterpretq_s8_u8(vld1q_u8(p + 16 * i));
  return out;
}

// Returns levels; a stored byte is the level + 128.
inline B bytes(const uint8_t* p) {
  B out = raw_bytes(p);
  for (int i = 0; i < kParts; ++i) out.a[i] = veorq_s8(out.a[i], vdupq_n_s8(-128));
  return out;
}
inline I start_bytes(int32_t) { return repeat(0); }
inline I dot_bytes(const I& sum, const B& w, const int8_t* q) { return dot(sum, w, q); }

inline B low_nibbles(const B& both) {
  B out;
  for (int i = 0; i < kParts; ++i) out.a[i] = vandq_s8(both.a[i], vdupq_n_s8(15));
  return out;
}
inline B high_nibbles(const B& both) {
  B out;
  for (int i = 0; i < kParts; ++i)
    out.a[i] = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(both.a[i]), 4));
  return out;
}
inline N start_nibbles(int32_t less) { return repeat(less); }
inline N dot_nibbles(const N& sum, const B& w, const int8_t* q) { return dot(sum, w, q); }
inline I end_nibbles(const N& sum, int32_t) { return sum; }

inline V to_float(const I& x) {
  return each([&](int i) { return vcvtq_f32_s32(x.a[i]); });
}
inline V fused(const V& x, const V& y, const V& z) { return fma(x, y, z); }

}  // namespace
}  // namespace sbrt
