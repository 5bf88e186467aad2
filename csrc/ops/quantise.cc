#include "ops/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sbrt {
namespace {

float kept(Number kind, float value) {
  return kind == Number::f16 ? from_f16(to_f16(value)) : value;
}

void quantise_signed(const Format& f, const float* x, int64_t n, QuantisedGroup& out) {
  float most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(x[i]));
  out.scale = kept(f.scales, most / 127.0f);
  for (int64_t i = 0; i < n; ++i)
    out.level[i] = out.scale > 0
                       ? static_cast<int>(std::clamp(std::lround(x[i] / out.scale), -127L, 127L))
                       : 0;
}

constexpr float kTop = 15;  // the greatest int4 level
// 1.5 * 2^23. A float becomes an integer when this number is added; halves become even.
constexpr float kMagic = 12582912.0f;
// Number of partial sums. They are independent, so that one addition need not wait for another.
constexpr int64_t kLanes = 8;

struct Tried {
  float scale = 0, minimum = 0, error = std::numeric_limits<float>::infinity();
  float level[kLargestGroup] = {};
};

// Returns the sum of f(0) .. f(n - 1).
template <class F>
float sum_of(int64_t n, F f) {
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lane[j] += f(i + j);
  for (; i < n; ++i) lane[0] += f(i);
  for (int64_t j = 1; j < kLanes; ++j) lane[0] += lane[j];
  return lane[0];
}

// Rounds x to levels, with the scale and the minimum of `t`. Stores the levels and their squared
// error in `t`.
void round_levels(const float* x, int64_t n, float zero, Tried& t) {
  const float scale = t.scale, minimum = t.minimum;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float place = ((x[i] - minimum) * inverse + zero + kMagic) - kMagic;
    const float above = place > 0 ? place : 0;
    t.level[i] = above < kTop ? above : kTop;
  }
  t.error = sum_of(n, [&](int64_t i) {
    const float off = scale * (t.level[i] - zero) + minimum - x[i];
    return off * off;
  });
}

// Sets the scale and the minimum of `t` to those of least squared error for the levels of `t`.
void fit(const Format& f, const float* x, int64_t n, float sum, Tried& t) {
  const float zero = static_cast<float>(f.zero), count = static_cast<float>(n);
  const float levels = sum_of(n, [&](int64_t i) { return t.level[i] - zero; });
  const float mean = f.minimums != Number::none ? levels / count : 0;
  const float below = sum_of(n, [&](int64_t i) {
    const float off = t.level[i] - zero - mean;
    return off * off;
  });
  if (below <= 0) return;
  const float above = sum_of(n, [&](int64_t i) { return (t.level[i] - zero - mean) * x[i]; });
  t.scale = kept(f.scales, above / below);
  if (f.minimums != Number::none) t.minimum = kept(f.minimums, (sum - t.scale * levels) / count);
}

// Searches for the scale and the minimum with the least squared error. Tries ranges a little
// narrower and a little wider than the range of x. For each range, x is rounded to levels. Then,
// twice, least squares gives a new scale and minimum, and x is rounded again.
void search(const Format& f, const float* x, int64_t n, QuantisedGroup& out) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const bool shifts = f.minimums != Number::none;
  // In a format without minimums, level - zero lies from -zero to 15 - zero. If zero is 8, the
  // negative side is longer. So the sign of the scale is chosen such that the value of greatest
  // magnitude gets level 0.
  const float extreme = std::abs(*low) > std::abs(*high) ? *low : *high;
  const float range = shifts ? *high - *low : f.zero ? -2 * extreme : extreme;
  const float sum = sum_of(n, [&](int64_t i) { return x[i]; });
  Tried best, tried;
  for (int step = -4; step <= 8; ++step) {
    const float levels = kTop + (f.zero ? 1.0f : 0.0f) + 0.25f * static_cast<float>(step);
    tried.scale = kept(f.scales, range / levels);
    tried.minimum = shifts ? kept(f.minimums, *low) : 0;
    for (int turn = 0; turn < 3; ++turn) {
      if (turn > 0) fit(f, x, n, sum, tried);
      round_levels(x, n, static_cast<float>(f.zero), tried);
      if (tried.error < best.error) best = tried;
    }
  }
  // The scale becomes NaN if the weights are too large for scales of this format. Otherwise they
  // would silently become zeros.
  const bool is_found = best.error < std::numeric_limits<float>::infinity();
  out.scale = is_found ? best.scale : std::numeric_limits<float>::quiet_NaN();
  out.minimum = best.minimum;
  for (int64_t i = 0; i < n; ++i) out.level[i] = static_cast<int>(best.level[i]);
}

}  // namespace

void quantise_group(const Format& f, const float* x, int64_t n, QuantisedGroup& out) {
  out = {};
  if (!std::all_of(x, x + n, [](float v) { return std::isfinite(v); })) {
    out.scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  f.element == Element::int8 ? quantise_signed(f, x, n, out) : search(f, x, n, out);
}

}  // namespace sbrt
