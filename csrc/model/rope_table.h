// The inverse frequencies of rope and their scalings. An inverse frequency is the rotation speed of
// one pair of a head's elements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/memory.h"

namespace sbrt {

enum class RopeKind { none, linear, llama3, yarn };

// The scaling of rope. Fields that the kind does not use are checked, too.
struct RopeScaling {
  RopeKind kind = RopeKind::none;
  double factor = 1;  // factor by which the context grows
  // Llama3, yarn: number of positions in the pretraining context.
  double original_max = 1;
  double low_freq = 1, high_freq = 4;    // llama3: turns of a pair within original_max
  double beta_fast = 32, beta_slow = 1;  // yarn: turns of a pair within original_max
  double attention_factor = 1;           // yarn: factor of the cosines and sines
  // Yarn: round the lower end of the ramp down and the upper end up.
  bool truncate = true;
  // [head_dim / 2] one divisor for every frequency; empty: all are 1.
  std::vector<float> divisors;
};

// Returns the kind with this name: "default", "linear", "llama3" or "yarn". Throws InvalidInput for
// other names.
RopeKind rope_kind(const std::string& name);
// Throws InvalidInput. The message names the field, its bounds and the given value.
void check_rope(const RopeScaling& scaling, double theta, int64_t head_dim);

// Returns [head_dim / 2] frequencies. Every step is in f32, as in transformers. With f_i =
// theta^(-2i / head_dim):
//   none    f_i
//   linear  f_i / factor
//   llama3  by wavelength w = 2 pi / f_i: f_i / factor above original_max / low_freq, f_i below
//           original_max / high_freq; between, with s = (original_max / w - low_freq) /
//           (high_freq - low_freq), (1 - s) f_i / factor + s f_i
//   yarn    f_i / factor r_i + f_i (1 - r_i), r_i a ramp from 0 to 1 between the dimensions that
//           turn beta_fast and beta_slow times within original_max
// The result is divided by `divisors`, if there are any.
Buffer<float> inverse_frequencies(int64_t head_dim, double theta, const RopeScaling& scaling);

// Returns the factor of the cosines and sines.
inline float rope_amplitude(const RopeScaling& s) {
  return s.kind == RopeKind::yarn ? static_cast<float>(s.attention_factor) : 1.0f;
}

}  // namespace sbrt
