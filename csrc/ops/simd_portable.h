// A vector of 16 f32 lanes as a plain array. A multiplication and an addition round separately.
// Only one source file may include this header (kernels_simd.inc says why).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace sbrt {
namespace {

struct V {
  float a[16];
};
constexpr int kAccumulators = 2;
constexpr int kTallestBf16 = 6;
constexpr int kKeys = 4;

template <class F>
inline V each(F f) {
  V out;
  for (int i = 0; i < 16; ++i) out.a[i] = f(i);
  return out;
}
inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline V zero() { return V{}; }
inline V set(float x) {
  return each([=](int) { return x; });
}
inline V load(const float* p) {
  return each([=](int i) { return p[i]; });
}
inline V load(const float* p, int64_t n) {
  return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, const V& x) { std::memcpy(p, x.a, sizeof x.a); }
inline void store(float* p, const V& x, int64_t n) { std::memcpy(p, x.a, n * sizeof(float)); }

inline V add(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] + y.a[i]; });
}
inline V sub(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] - y.a[i]; });
}
inline V mul(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] * y.a[i]; });
}
inline V div(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] / y.a[i]; });
}
inline V fma(const V& x, const V& y, const V& z) { return add(mul(x, y), z); }
inline V min(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] < y.a[i] ? x.a[i] : y.a[i]; });
}
inline V max(const V& x, const V& y) {
  return each([&](int i) { return x.a[i] > y.a[i] ? x.a[i] : y.a[i]; });
}

inline V low_half(const uint32_t* p) {
  return each([=](int i) { return as_float(p[i] << 16); });
}
inline V high_half(const uint32_t* p) {
  return each([=](int i) { return as_float(p[i] & 0xffff0000u); });
}
inline V load_halves(const uint16_t* p) {  // loads 16 float16 numbers
  return each([=](int i) { return from_f16(p[i]); });
}
inline V power_of_two(const V& t) {
  return each([&](int i) { return as_float((as_bits(t.a[i]) << 23) + (127u << 23)); });
}
inline V zero_where_less(const V& x, const V& y, const V& limit) {
  return each([&](int i) { return y.a[i] < limit.a[i] ? 0.0f : x.a[i]; });
}

inline uint32_t not_less(const V& x, const V& bar) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(!(x.a[i] < bar.a[i])) << i;
  return mask;
}

// A vector of 16 words of 32 bits.
struct U {
  uint32_t a[16];
};
template <class F>
inline U each_word(F f) {
  U out;
  for (int i = 0; i < 16; ++i) out.a[i] = f(i);
  return out;
}
inline U set_word(uint32_t x) {
  return each_word([=](int) { return x; });
}
inline U count_from(uint32_t x) {
  return each_word([=](int i) { return x + static_cast<uint32_t>(i); });
}
inline U exclusive_or(const U& x, const U& y) {
  return each_word([&](int i) { return x.a[i] ^ y.a[i]; });
}
inline U load_words(const uint32_t* p) {
  return each_word([=](int i) { return p[i]; });
}
inline void store_words(uint32_t* p, const U& x) { std::memcpy(p, x.a, sizeof x.a); }
// Returns (x >> shift) & mask, converted to f32.
inline V field(const U& x, int shift, uint32_t mask) {
  return each([&](int i) { return static_cast<float>(x.a[i] >> shift & mask); });
}
// Sets `high` and `low` to the high and low halves of the 64-bit products x * m.
inline void multiply(const U& x, const U& m, U& high, U& low) {
  const U from = x;  // a copy, because `high` or `low` may be the same object as x
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = uint64_t{from.a[i]} * m.a[i];
    high.a[i] = static_cast<uint32_t>(product >> 32);
    low.a[i] = static_cast<uint32_t>(product);
  }
}
// top_of_rest() returns (2^32 - 1 - x) / 2^8, rounded down, as f32. bits_of() returns the bits of
// an f32 as an integer, converted to f32.
inline V top_of_rest(const U& x) {
  return each([&](int i) { return static_cast<float>(~x.a[i] >> 8); });
}
inline V bits_of(const V& x) {
  return each([&](int i) { return static_cast<float>(as_bits(x.a[i])); });
}

// Sets out[j] to the sum of the 16 lanes of x[j]. The order of additions is the same for every j.
inline void sum_each(const V (&x)[kKeys], float* out) {
  for (int j = 0; j < kKeys; ++j) {
    float t[16];
    store(t, x[j]);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) t[i] += t[i + half];
    out[j] = t[0];
  }
}

}  // namespace
}  // namespace sbrt
