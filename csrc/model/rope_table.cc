#include "model/rope_table.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr double kTwoPi = 6.283185307179586;

void scale_llama3(const RopeScaling& s, Buffer<float>& inv_freq) {
  const float factor = static_cast<float>(s.factor), original = static_cast<float>(s.original_max);
  const float low = static_cast<float>(s.low_freq), high = static_cast<float>(s.high_freq);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float f = inv_freq[i], wavelength = static_cast<float>(kTwoPi) / f;
    if (wavelength < static_cast<float>(s.original_max / s.high_freq)) continue;
    if (wavelength > static_cast<float>(s.original_max / s.low_freq)) {
      inv_freq[i] = f / factor;
    } else {
      const float share = (original / wavelength - low) / (high - low);
      inv_freq[i] = (1.0f - share) * f / factor + share * f;
    }
  }
}

// Returns the index of the rope pair that makes `turns` full turns over original_max positions. The
// index is a real number below head_dim / 2.
double yarn_dimension(const RopeScaling& s, double turns, double head_dim, double theta) {
  return head_dim * std::log(s.original_max / (turns * kTwoPi)) / (2 * std::log(theta));
}

void scale_yarn(const RopeScaling& s, int64_t head_dim, double theta, Buffer<float>& inv_freq) {
  const double d = static_cast<double>(head_dim);
  double low = yarn_dimension(s, s.beta_fast, d, theta);
  double high = yarn_dimension(s, s.beta_slow, d, theta);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float at =
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(at, 0.0f, 1.0f);
    const float near = inv_freq[i], far = near / static_cast<float>(s.factor);
    inv_freq[i] = far * (1.0f - keep) + near * keep;
  }
}

void check_positive(const char* field, double value) {
  check<InvalidInput>(std::isfinite(value) && value > 0, "config: rope ", field,
                      ": expected a finite number above 0 but got ", value);
}

}  // namespace

RopeKind rope_kind(const std::string& name) {
  if (name == "default") return RopeKind::none;
  if (name == "linear") return RopeKind::linear;
  if (name == "llama3") return RopeKind::llama3;
  check<InvalidInput>(name == "yarn",
                      "config: rope kind: expected default, linear, llama3 or yarn but got ", name);
  return RopeKind::yarn;
}

void check_rope(const RopeScaling& s, double theta, int64_t head_dim) {
  check<InvalidInput>(std::isfinite(theta) && theta >= 1,
                      "config: rope_theta: expected a finite number from 1 up but got ", theta);
  check<InvalidInput>(s.kind != RopeKind::yarn || theta > 1,
                      "config: rope_theta: expected a number above 1 for yarn but got ", theta);
  check_within("config: rope factor", 1.0, 1e9, s.factor);
  check_within("config: rope original_max", 1.0, 1e12, s.original_max);
  check_positive("low_freq", s.low_freq);
  check_positive("high_freq", s.high_freq);
  check<InvalidInput>(s.low_freq < s.high_freq, "config: rope high_freq: expected a number above ",
                      s.low_freq, ", which is low_freq, but got ", s.high_freq);
  check_positive("beta_fast", s.beta_fast);
  check_positive("beta_slow", s.beta_slow);
  check_positive("attention_factor", s.attention_factor);
  const int64_t divisors = static_cast<int64_t>(s.divisors.size());
  check<InvalidInput>(divisors == 0 || divisors == head_dim / 2,
                      "config: rope divisors: expected none or ", head_dim / 2, " but got ",
                      divisors);
  for (const float divisor : s.divisors) check_positive("divisor", divisor);
}

Buffer<float> inverse_frequencies(int64_t head_dim, double theta, const RopeScaling& s) {
  Buffer<float> out(head_dim / 2);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    out[i] = 1.0f / std::pow(static_cast<float>(theta), exponent);
    if (s.kind == RopeKind::linear) out[i] /= static_cast<float>(s.factor);
  }
  if (s.kind == RopeKind::llama3) scale_llama3(s, out);
  if (s.kind == RopeKind::yarn) scale_yarn(s, head_dim, theta, out);
  for (size_t i = 0; i < s.divisors.size(); ++i) out[i] /= s.divisors[i];
  return out;
}

}  // namespace sbrt
