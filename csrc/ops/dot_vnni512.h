// Dot products of 4 bytes in 16 lanes, by AVX-512 VNNI. Included by one source file only; see
// integers_body.inc.
#pragma once

#include "ops/simd_avx512.h"

namespace sbrt {
namespace {

using I = __m512i;  // 16 sums
using B = __m512i;  // 4 bytes of each of 16 outputs
using N = __m512i;  // partial sums of int4 products
constexpr int kTallestIntegers = 8;

inline I quad(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm512_set1_epi32(word);
}
inline B raw_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

// A stored byte is the level + 128, used as unsigned. So a sum starts at -128 times the sum of q.
inline B bytes(const uint8_t* p) { return raw_bytes(p); }
inline I start_bytes(int32_t less_128) { return _mm512_set1_epi32(less_128); }
inline I dot_bytes(I sum, B w, const int8_t* q) { return _mm512_dpbusd_epi32(sum, w, quad(q)); }

inline B low_nibbles(B both) { return _mm512_and_si512(both, _mm512_set1_epi8(15)); }
inline B high_nibbles(B both) { return low_nibbles(_mm512_srli_epi16(both, 4)); }
inline N start_nibbles(int32_t less) { return _mm512_set1_epi32(less); }
inline N dot_nibbles(N sum, B w, const int8_t* q) { return _mm512_dpbusd_epi32(sum, w, quad(q)); }
inline I end_nibbles(N sum, int32_t) { return sum; }

inline V to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline V fused(V a, V b, V c) { return fma(a, b, c); }

}  // namespace
}  // namespace sbrt
