// Types and functions that run on every device: a 64-bit mask kept as two 32-bit words, and a hash.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SBRT_ANY __host__ __device__
#else
#define SBRT_ANY
#endif

namespace sbrt {

// Returns a hash of two words (the finaliser of splitmix64).
SBRT_ANY inline uint64_t mix64(uint64_t a, uint64_t b) {
  uint64_t z = a ^ (b * 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct Mask {
  uint32_t word[2];

  SBRT_ANY static Mask none() { return {{0, 0}}; }
  SBRT_ANY static Mask upto(int n) {  // the mask of bits 0 .. n - 1
    return {{n >= 32 ? 0xffffffffu : (1u << n) - 1u, n <= 32   ? 0u
                                                     : n >= 64 ? 0xffffffffu
                                                               : (1u << (n - 32)) - 1u}};
  }
  SBRT_ANY bool has(int i) const { return (word[i >> 5] >> (i & 31)) & 1u; }
  SBRT_ANY Mask with(int i) const {
    Mask m = *this;
    m.word[i >> 5] |= 1u << (i & 31);
    return m;
  }
  SBRT_ANY Mask without(int i) const {
    Mask m = *this;
    m.word[i >> 5] &= ~(1u << (i & 31));
    return m;
  }
  SBRT_ANY uint64_t bits() const { return word[0] | static_cast<uint64_t>(word[1]) << 32; }
  SBRT_ANY static Mask of(uint64_t bits) {
    return {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)}};
  }
  // Returns this mask with bit i moved to bit i + n, and with the first n bits set.
  SBRT_ANY Mask after(int n) const { return n == 0 ? *this : of(bits() << n | upto(n).bits()); }
  SBRT_ANY int count() const {
    int n = 0;
    for (uint64_t b = bits(); b; b &= b - 1) ++n;
    return n;
  }
  SBRT_ANY int last() const {  // index of the highest bit, -1 if none
    int i = -1;
    for (uint64_t b = bits(); b; b >>= 1) ++i;
    return i;
  }
};

}  // namespace sbrt
