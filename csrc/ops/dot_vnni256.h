// Dot products of 4 bytes in each of 16 lanes (two registers), with AVX-VNNI. Only one source file
// may include this header (integers_simd.inc says why).
#pragma once

#include "ops/round_loops.h"
#include "ops/simd_avx2.h"

namespace sbrt {
namespace {

struct I {
  __m256i a, b;
};
using B = I;
using N = I;
constexpr int kTallestIntegers = 4;

inline I repeat(int32_t x) {
  const __m256i all = _mm256_set1_epi32(x);
  return {all, all};
}
inline I dot_unsigned(const I& sum, const B& w, const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  const __m256i x = _mm256_set1_epi32(word);
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sum.a, w.a, x), _mm256_dpbusd_avx_epi32(sum.b, w.b, x)};
#else  // AVX-512 has the same instructions: tests compile this file for it
  return {_mm256_dpbusd_epi32(sum.a, w.a, x), _mm256_dpbusd_epi32(sum.b, w.b, x)};
#endif
}
inline B raw_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}

// Returns the stored bytes, level + 128, because the instruction needs unsigned bytes. Each sum
// starts at -128 times the sum of q. This cancels the 128 of each level.
inline B bytes(const uint8_t* p) { return raw_bytes(p); }
inline I start_bytes(int32_t less_128) { return repeat(less_128); }
inline I dot_bytes(const I& sum, const B& w, const int8_t* q) { return dot_unsigned(sum, w, q); }

inline __m256i low_nibbles(__m256i both) { return _mm256_and_si256(both, _mm256_set1_epi8(15)); }
inline B low_nibbles(const B& both) { return {low_nibbles(both.a), low_nibbles(both.b)}; }
inline B high_nibbles(const B& both) {
  return {low_nibbles(_mm256_srli_epi16(both.a, 4)), low_nibbles(_mm256_srli_epi16(both.b, 4))};
}
inline N start_nibbles(int32_t less) { return repeat(less); }
inline N dot_nibbles(const N& sum, const B& w, const int8_t* q) { return dot_unsigned(sum, w, q); }
inline I end_nibbles(const N& sum, int32_t) { return sum; }

inline V to_float(const I& x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline V fused(V x, V y, V z) { return fma(x, y, z); }

}  // namespace
}  // namespace sbrt
