// A vector of 16 f32 lanes as two 256-bit registers. Only one source file may include this header
// (kernels_simd.inc says why).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace sbrt {
namespace {

struct V {
  __m256 a, b;
};
// Number of sums of a block of the matmul; a sum takes two registers.
constexpr int kAccumulators = 5;
// Largest number of rows of a block with bf16 weights. With 6 rows, no register is left for a mask.
constexpr int kTallestBf16 = 5;
constexpr int kKeys = 4;

inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V set(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, V x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline V load(const float* p, int64_t n) {
  float padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline void store(float* p, V x, int64_t n) {
  float padded[16];
  store(padded, x);
  for (int64_t i = 0; i < n; ++i) p[i] = padded[i];
}

inline V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline V fma(V x, V y, V z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline V min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline V max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }

inline __m256i words(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline V low_half(const uint32_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words(p), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(words(p + 8), 16))};
}
inline V high_half(const uint32_t* p) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(words(p), mask)),
          _mm256_castsi256_ps(_mm256_and_si256(words(p + 8), mask))};
}
inline __m256 halves8(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline V load_halves(const uint16_t* p) {  // loads 16 float16 numbers
  return {halves8(p), halves8(p + 8)};
}
inline __m256 power_of_two(__m256 t) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)));
}
inline V power_of_two(V t) { return {power_of_two(t.a), power_of_two(t.b)}; }
inline V zero_where_less(V x, V y, V limit) {
  return {_mm256_and_ps(x.a, _mm256_cmp_ps(y.a, limit.a, _CMP_NLT_UQ)),
          _mm256_and_ps(x.b, _mm256_cmp_ps(y.b, limit.b, _CMP_NLT_UQ))};
}

inline uint32_t not_less(V x, V bar) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, bar.a, _CMP_NLT_UQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, bar.b, _CMP_NLT_UQ))) << 8;
}

// A vector of 16 words of 32 bits.
struct U {
  __m256i a, b;
};
inline U set_word(uint32_t x) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(x));
  return {all, all};
}
inline U count_from(uint32_t x) {
  const __m256i all = set_word(x).a;
  return {_mm256_add_epi32(all, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_add_epi32(all, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline U exclusive_or(U x, U y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
inline U load_words(const uint32_t* p) { return {words(p), words(p + 8)}; }
inline void store_words(uint32_t* p, U x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
// Returns (x >> shift) & mask, converted to f32.
inline V field(U x, int shift, uint32_t mask) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  const __m256i all = set_word(mask).a;
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(x.a, by), all)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(x.b, by), all))};
}
inline void multiply(__m256i x, __m256i m, __m256i& high, __m256i& low) {
  const __m256i even = _mm256_mul_epu32(x, m);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
// Sets `high` and `low` to the high and low halves of the 64-bit products x * m.
inline void multiply(U x, U m, U& high, U& low) {
  multiply(x.a, m.a, high.a, low.a);
  multiply(x.b, m.b, high.b, low.b);
}
// top_of_rest() returns (2^32 - 1 - x) / 2^8, rounded down, as f32. bits_of() returns the bits of
// an f32 as an integer, converted to f32.
inline __m256 top_of_rest(__m256i x) {
  return _mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_xor_si256(x, _mm256_set1_epi32(-1)), 8));
}
inline V top_of_rest(U x) { return {top_of_rest(x.a), top_of_rest(x.b)}; }
inline V bits_of(V x) {
  return {_mm256_cvtepi32_ps(_mm256_castps_si256(x.a)),
          _mm256_cvtepi32_ps(_mm256_castps_si256(x.b))};
}

// Sets out[j] to the sum of the 16 lanes of x[j]. The order of additions is the same for every j.
inline void sum_each(const V (&x)[kKeys], float* out) {
  const __m256 ab = _mm256_hadd_ps(_mm256_add_ps(x[0].a, x[0].b), _mm256_add_ps(x[1].a, x[1].b));
  const __m256 cd = _mm256_hadd_ps(_mm256_add_ps(x[2].a, x[2].b), _mm256_add_ps(x[3].a, x[3].b));
  const __m256 abcd = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

}  // namespace
}  // namespace sbrt
