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

constexpr int kTop = 15;  // the greatest level of int4

// Levels of x for a given scale and minimum, and the squared error.
double round_levels(const float* x, int64_t n, QuantisedGroup& g, int zero) {
  const float inverse = g.scale != 0 ? 1.0f / g.scale : 0.0f;
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float place = (x[i] - g.minimum) * inverse + static_cast<float>(zero);
    g.level[i] = static_cast<int>(std::clamp(std::nearbyint(place), 0.0f, float{kTop}));
    const double off = double{g.scale} * (g.level[i] - zero) + double{g.minimum} - double{x[i]};
    error += off * off;
  }
  return error;
}

// The scale and the minimum of least squared error for given levels.
void fit(const Format& f, const float* x, int64_t n, QuantisedGroup& g) {
  double sx = 0, sl = 0, sll = 0, slx = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double level = g.level[i] - f.zero;
    sx += double{x[i]};
    sl += level;
    sll += level * level;
    slx += level * double{x[i]};
  }
  const bool shifts = f.minimums != Number::none;
  const double count = static_cast<double>(n);
  const double below = shifts ? count * sll - sl * sl : sll;
  if (below <= 0) return;
  const double scale = shifts ? (count * slx - sl * sx) / below : slx / below;
  g.scale = kept(f.scales, static_cast<float>(scale));
  if (shifts) g.minimum = kept(f.minimums, static_cast<float>((sx - double{g.scale} * sl) / count));
}

// Starts from ranges a little narrower and wider than that of x; each is rounded, fitted by least
// squares and rounded again. The best of all is kept.
void search(const Format& f, const float* x, int64_t n, QuantisedGroup& best) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const bool shifts = f.minimums != Number::none;
  // Without a minimum the level 0 is -zero scales away, so the greater magnitude gets it.
  const float extreme = std::abs(*low) > std::abs(*high) ? *low : *high;
  const float range = shifts ? *high - *low : f.zero ? -2 * extreme : extreme;
  double least = std::numeric_limits<double>::infinity();
  for (int step = -4; step <= 8; ++step) {
    QuantisedGroup tried;
    const float levels =
        static_cast<float>(kTop + (f.zero ? 1 : 0)) + 0.25f * static_cast<float>(step);
    tried.scale = kept(f.scales, range / levels);
    tried.minimum = shifts ? kept(f.minimums, *low) : 0;
    for (int turn = 0; turn < 3; ++turn) {
      if (turn > 0) fit(f, x, n, tried);
      const double error = round_levels(x, n, tried, f.zero);
      if (error < least) least = error, best = tried;
    }
  }
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
