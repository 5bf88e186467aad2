// Dot products of 4 bytes in each of 16 lanes (two registers), with AVX2. Only one source file may
// include this header (integers_simd.inc says why).
#pragma once

#include "ops/round_loops.h"
#include "ops/simd_avx2.h"

namespace sbrt {
namespace {

struct I {
  __m256i a, b;
};
using B = I;
using N = I;  // 32 values of 16 bits in two registers: sums of two products of levels
constexpr int kTallestIntegers = 4;

inline __m256i quad(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm256_set1_epi32(word);
}
inline B raw_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline __m256i pairs(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// Returns levels; a stored byte is the level + 128. |level| <= 128 and |q| <= 127, so a sum of two
// products is at most 32512. It fits in 16 bits and never saturates.
inline __m256i signed_bytes(__m256i w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }
inline B bytes(const uint8_t* p) {
  const B w = raw_bytes(p);
  return {signed_bytes(w.a), signed_bytes(w.b)};
}
inline I start_bytes(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256i dot_signed(__m256i sum, __m256i w, __m256i q) {
  const __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_add_epi32(sum, pairs(products));
}
inline I dot_bytes(const I& sum, const B& w, const int8_t* q) {
  const __m256i x = quad(q);
  return {dot_signed(sum.a, w.a, x), dot_signed(sum.b, w.b, x)};
}

// For each group, a 16-bit lane adds 8 sums of two products. The total is at most 8 x 2 x 15 x 127
// = 30480, which fits in 16 bits.
inline __m256i low_nibbles(__m256i both) { return _mm256_and_si256(both, _mm256_set1_epi8(15)); }
inline B low_nibbles(const B& both) { return {low_nibbles(both.a), low_nibbles(both.b)}; }
inline B high_nibbles(const B& both) {
  return {low_nibbles(_mm256_srli_epi16(both.a, 4)), low_nibbles(_mm256_srli_epi16(both.b, 4))};
}
inline N start_nibbles(int32_t) { return start_bytes(0); }
inline N dot_nibbles(const N& sum, const B& w, const int8_t* q) {
  const __m256i x = quad(q);
  return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x)),
          _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x))};
}
inline I end_nibbles(const N& sum, int32_t less) {
  const __m256i all = _mm256_set1_epi32(less);
  return {_mm256_add_epi32(pairs(sum.a), all), _mm256_add_epi32(pairs(sum.b), all)};
}

inline V to_float(const I& x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline V fused(V x, V y, V z) { return fma(x, y, z); }

}  // namespace
}  // namespace sbrt
