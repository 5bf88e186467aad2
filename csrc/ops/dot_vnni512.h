// Dot products of 4 bytes in each of 16 lanes, with AVX-512 VNNI. Only one source file may include
// this header (integers_simd.inc says why).
#pragma once

#include "ops/simd_avx512.h"

namespace sbrt {
namespace {

using I = __m512i;  // 16 integer sums
using B = __m512i;  // 4 bytes for each of 16 outputs
using N = __m512i;  // partial sums of products of int4 levels
constexpr int kTallestIntegers = 8;

inline I quad(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm512_set1_epi32(word);
}
inline B raw_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

// Returns the stored bytes, level + 128, because the instruction needs unsigned bytes. Each sum
// starts at -128 times the sum of q. This cancels the 128 of each level.
inline B bytes(const uint8_t* p) { return raw_bytes(p); }
inline I start_bytes(int32_t less_128) { return _mm512_set1_epi32(less_128); }
inline I dot_bytes(I sum, B w, const int8_t* q) { return _mm512_dpbusd_epi32(sum, w, quad(q)); }

inline B low_nibbles(B both) { return _mm512_and_si512(both, _mm512_set1_epi8(15)); }
inline B high_nibbles(B both) { return low_nibbles(_mm512_srli_epi16(both, 4)); }
inline N start_nibbles(int32_t less) { return _mm512_set1_epi32(less); }
inline N dot_nibbles(N sum, B w, const int8_t* q) { return _mm512_dpbusd_epi32(sum, w, quad(q)); }
inline I end_nibbles(N sum, int32_t) { return sum; }

// The two functions below replace those of round_loops.h. They keep the 32 values in two registers.
inline int32_t greatest_bits(const float* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i low = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
  const __m512i high = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
  return _mm512_reduce_max_epi32(_mm512_max_epi32(low, high));
}
inline void round_levels(const float* x, float scale, int8_t* q, int32_t (&sum)[2]) {
  const V by = set(scale), magic = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const V level = sub(add(div(load(x + 16 * half), by), magic), magic);
    const __m512i word = _mm512_cvttps_epi32(level);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * half), _mm512_cvtepi32_epi8(word));
    sum[half] = _mm512_reduce_add_epi32(word);
  }
}

inline V to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline V fused(V a, V b, V c) { return fma(a, b, c); }

}  // namespace
}  // namespace sbrt
