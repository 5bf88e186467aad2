// The inverse frequencies of rope and their scalings. An inverse frequency is the rotation speed of
// one pair of a head's elements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/memory.h"

namespace sbrt {

enum class RopeKind { none, linear, llama3, yarn };

// The scaling of rope, as config.json gives it. check_rope checks all fields, including those that
// `kind` does not use.
struct RopeScaling {
  RopeKind kind = RopeKind::none;
  double factor = 1;  // factor by which the context is extended
  // llama3 and yarn: number of positions in the context of pretraining.
  double original_max = 1;
  // Llama3: limits of the ramp, in turns of a pair over original_max positions.
  double low_freq = 1, high_freq = 4;
  // Yarn: limits of the ramp, in turns of a pair over original_max positions.
  double beta_fast = 32, beta_slow = 1;
  double attention_factor = 1;  // yarn: factor of the cosines and sines
  // yarn: round the lower end of the ramp down, and its upper end up.
  bool truncate = true;
  // [head_dim / 2]: a divisor of each inverse frequency. Empty: no division.
  std::vector<float> divisors;
};

// Returns the kind with this name: "default", "linear", "llama3" or "yarn". Throws InvalidInput for
// other names.
RopeKind rope_kind(const std::string& name);
// Throws InvalidInput if a field is invalid. The message names the field, its bounds and its value.
void check_rope(const RopeScaling& scaling, double theta, int64_t head_dim);

// Returns the inverse frequencies, [head_dim / 2]. Every step is computed in f32, as in
// transformers. Let f_i = theta^(-2i / head_dim). By kind, inverse frequency i is:
//   none    f_i
//   linear  f_i / factor
//   llama3  Let w = 2 pi / f_i, the wavelength.
//           If w > original_max / low_freq: f_i / factor.
//           If w < original_max / high_freq: f_i.
//           Otherwise (1 - s) f_i / factor + s f_i, where
//           s = (original_max / w - low_freq) / (high_freq - low_freq).
//   yarn    r_i f_i / factor + (1 - r_i) f_i. The ramp r_i rises from 0 to 1 between two pairs:
//           the pair that makes beta_fast turns over original_max positions, and the pair that
//           makes beta_slow turns.
// If there are `divisors`, inverse frequency i is divided by divisors[i].
Buffer<float> inverse_frequencies(int64_t head_dim, double theta, const RopeScaling& scaling);

// Returns the factor by which the cosines and sines of rope are multiplied.
inline float rope_amplitude(const RopeScaling& s) {
  return s.kind == RopeKind::yarn ? static_cast<float>(s.attention_factor) : 1.0f;
}

}  // namespace sbrt
