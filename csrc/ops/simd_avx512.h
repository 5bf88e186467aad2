// A vector of 16 f32 lanes as one 512-bit register. Only one source file may include this header
// (kernels_simd.inc says why).
#pragma once

// GCC 12 warns about registers that its own header leaves undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

namespace sbrt {
namespace {

using V = __m512;
// Number of registers for the sums of a block of the matmul.
constexpr int kAccumulators = 24;
constexpr int kTallestBf16 = 6;  // largest number of rows of a block with bf16 weights
constexpr int kKeys = 8;         // number of vectors that one call of sum_each adds up

inline V zero() { return _mm512_setzero_ps(); }
inline V set(float a) { return _mm512_set1_ps(a); }
inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline V load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float* p, V a) { _mm512_storeu_ps(p, a); }
inline void store(float* p, V a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }

inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V div(V a, V b) { return _mm512_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V min(V a, V b) { return _mm512_min_ps(a, b); }  // returns b if a or b is NaN
inline V max(V a, V b) { return _mm512_max_ps(a, b); }  // returns b if a or b is NaN

// These functions return the low halves, or the high halves, of 16 words of two bf16 numbers, as
// f32.
inline V low_half(const uint32_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
inline V high_half(const uint32_t* p) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline V load_halves(const uint16_t* p) {  // loads 16 float16 numbers
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Returns 2^n. The low bits of `t` hold the integer n, -126 <= n <= 127.
inline V power_of_two(V t) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23)));
}
inline V zero_where_less(V a, V x, V limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}

inline uint32_t not_less(V a, V bar) { return _mm512_cmp_ps_mask(a, bar, _CMP_NLT_UQ); }

// A vector of 16 words of 32 bits.
using U = __m512i;
inline U set_word(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
inline U count_from(uint32_t a) {
  return _mm512_add_epi32(set_word(a),
                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline U exclusive_or(U a, U b) { return _mm512_xor_si512(a, b); }
inline U load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_words(uint32_t* p, U a) { _mm512_storeu_si512(p, a); }
// Returns (a >> shift) & mask, converted to f32.
inline V field(U a, int shift, uint32_t mask) {
  const __m512i shifted = _mm512_srl_epi32(a, _mm_cvtsi32_si128(shift));
  return _mm512_cvtepi32_ps(_mm512_and_si512(shifted, set_word(mask)));
}
// Sets `high` and `low` to the high and low halves of the 64-bit products a * m.
inline void multiply(U a, U m, U& high, U& low) {
  const U even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
  high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
  low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
}
// top_of_rest() returns (2^32 - 1 - a) / 2^8, rounded down, as f32. bits_of() returns the bits of
// an f32 as an integer, converted to f32.
inline V top_of_rest(U a) {
  return _mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_xor_si512(a, _mm512_set1_epi32(-1)), 8));
}
inline V bits_of(V a) { return _mm512_cvtepi32_ps(_mm512_castps_si512(a)); }

inline V sum_halves(V a) {
  return _mm512_castps256_ps512(
      _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
inline __m256 low(V a) { return _mm512_castps512_ps256(sum_halves(a)); }

// Sets out[j] to the sum of the 16 lanes of a[j]. The order of additions is the same for every j.
inline void sum_each(const V (&a)[kKeys], float* out) {
  const __m256 ab = _mm256_hadd_ps(low(a[0]), low(a[1])), cd = _mm256_hadd_ps(low(a[2]), low(a[3]));
  const __m256 ef = _mm256_hadd_ps(low(a[4]), low(a[5])), gh = _mm256_hadd_ps(low(a[6]), low(a[7]));
  const __m256 abcd = _mm256_hadd_ps(ab, cd), efgh = _mm256_hadd_ps(ef, gh);
  const __m256 lower = _mm256_permute2f128_ps(abcd, efgh, 0x20);
  const __m256 upper = _mm256_permute2f128_ps(abcd, efgh, 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(lower, upper));
}

}  // namespace
}  // namespace sbrt
