// A vector of 16 f32 lanes as four 128-bit registers. Only one source file may include this header
// (kernels_simd.inc says why).
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace sbrt {
namespace {

constexpr int kParts = 4;
struct V {
  float32x4_t a[kParts];
};
// Number of sums of a block of the matmul. A sum takes four of the 32 registers.
constexpr int kAccumulators = 6;
constexpr int kTallestBf16 = 6;
constexpr int kKeys = 4;

template <class F>
inline V each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline V set(float x) {
  return each([=](int) { return vdupq_n_f32(x); });
}
inline V zero() { return set(0.0f); }
inline V load(const float* p) {
  return each([=](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, const V& x) {
  for (int i = 0; i < kParts; ++i) vst1q_f32(p + 4 * i, x.a[i]);
}
inline V load(const float* p, int64_t n) {
  float padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline void store(float* p, const V& x, int64_t n) {
  float padded[16];
  store(padded, x);
  for (int64_t i = 0; i < n; ++i) p[i] = padded[i];
}

inline V add(const V& x, const V& y) {
  return each([&](int i) { return vaddq_f32(x.a[i], y.a[i]); });
}
inline V sub(const V& x, const V& y) {
  return each([&](int i) { return vsubq_f32(x.a[i], y.a[i]); });
}
inline V mul(const V& x, const V& y) {
  return each([&](int i) { return vmulq_f32(x.a[i], y.a[i]); });
}
inline V div(const V& x, const V& y) {
  return each([&](int i) { return vdivq_f32(x.a[i], y.a[i]); });
}
inline V fma(const V& x, const V& y, const V& z) {
  return each([&](int i) { return vfmaq_f32(z.a[i], x.a[i], y.a[i]); });
}
inline V min(const V& x, const V& y) {  // returns y if x or y is NaN, as on x86
  return each([&](int i) { return vbslq_f32(vcltq_f32(x.a[i], y.a[i]), x.a[i], y.a[i]); });
}
inline V max(const V& x, const V& y) {  // returns y if x or y is NaN, as on x86
  return each([&](int i) { return vbslq_f32(vcgtq_f32(x.a[i], y.a[i]), x.a[i], y.a[i]); });
}

inline V low_half(const uint32_t* p) {
  return each([=](int i) { return vreinterpretq_f32_u32(vshlq_n_u32(vld1q_u32(p + 4 * i), 16)); });
}
inline V high_half(const uint32_t* p) {
  return each([=](int i) {
    return vreinterpretq_f32_u32(vandq_u32(vld1q_u32(p + 4 * i), vdupq_n_u32(0xffff0000u)));
  });
}
inline V load_halves(const uint16_t* p) {  // loads 16 float16 numbers
  return each([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline V power_of_two(const V& t) {
  return each([&](int i) {
    const uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(t.a[i]), 23);
    return vreinterpretq_f32_u32(vaddq_u32(n, vdupq_n_u32(127u << 23)));
  });
}
inline V zero_where_less(const V& x, const V& y, const V& limit) {
  return each(
      [&](int i) { return vbslq_f32(vcltq_f32(y.a[i], limit.a[i]), vdupq_n_f32(0.0f), x.a[i]); });
}
inline uint32_t not_less(const V& x, const V& bar) {
  constexpr uint32_t kBits[4] = {1, 2, 4, 8};
  uint32_t mask = 0;
  for (int i = 0; i < kParts; ++i) {
    const uint32x4_t less = vcltq_f32(x.a[i], bar.a[i]);
    mask |= vaddvq_u32(vbicq_u32(vld1q_u32(kBits), less)) << (4 * i);
  }
  return mask;
}

// A vector of 16 words of 32 bits.
struct U {
  uint32x4_t a[kParts];
};
template <class F>
inline U each_word(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline U set_word(uint32_t x) {
  return each_word([=](int) { return vdupq_n_u32(x); });
}
inline U load_words(const uint32_t* p) {
  return each_word([=](int i) { return vld1q_u32(p + 4 * i); });
}
inline void store_words(uint32_t* p, const U& x) {
  for (int i = 0; i < kParts; ++i) vst1q_u32(p + 4 * i, x.a[i]);
}
// Returns (x >> shift) & mask, converted to f32.
inline V field(const U& x, int shift, uint32_t mask) {
  return each([&](int i) {
    const uint32x4_t shifted = vshlq_u32(x.a[i], vdupq_n_s32(-shift));
    return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(mask)));
  });
}
inline U count_from(uint32_t x) {
  uint32_t counted[16];
  for (uint32_t i = 0; i < 16; ++i) counted[i] = x + i;
  return load_words(counted);
}
inline U exclusive_or(const U& x, const U& y) {
  return each_word([&](int i) { return veorq_u32(x.a[i], y.a[i]); });
}
// Sets `high` and `low` to the high and low halves of the 64-bit products x * m.
inline void multiply(const U& x, const U& m, U& high, U& low) {
  const U from = x;  // a copy, because `high` or `low` may be the same object as x
  for (int i = 0; i < kParts; ++i) {
    const uint64x2_t first = vmull_u32(vget_low_u32(from.a[i]), vget_low_u32(m.a[i]));
    const uint64x2_t last = vmull_u32(vget_high_u32(from.a[i]), vget_high_u32(m.a[i]));
    high.a[i] = vcombine_u32(vshrn_n_u64(first, 32), vshrn_n_u64(last, 32));
    low.a[i] = vcombine_u32(vmovn_u64(first), vmovn_u64(last));
  }
}
// top_of_rest() returns (2^32 - 1 - x) / 2^8, rounded down, as f32. bits_of() returns the bits of
// an f32 as an integer, converted to f32.
inline V top_of_rest(const U& x) {
  return each([&](int i) { return vcvtq_f32_u32(vshrq_n_u32(vmvnq_u32(x.a[i]), 8)); });
}
inline V bits_of(const V& x) {
  return each([&](int i) { return vcvtq_f32_u32(vreinterpretq_u32_f32(x.a[i])); });
}

// Sets out[j] to the sum of the 16 lanes of x[j]. The order of additions is the same for every j,
// and the same as with AVX2 and AVX-512.
inline void sum_each(const V (&x)[kKeys], float* out) {
  for (int j = 0; j < kKeys; ++j)
    out[j] =
        vaddvq_f32(vaddq_f32(x[j].a[0], x[j].a[2])) + vaddvq_f32(vaddq_f32(x[j].a[1], x[j].a[3]));
}

}  // namespace
}  // namespace sbrt
