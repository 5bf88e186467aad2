// Quantises float weights, one group per call.
#pragma once

#include <cstdint>

#include "ops/format.h"

namespace sbrt {

constexpr int64_t kLargestGroup = 128;

struct QuantisedGroup {
  float scale = 0, minimum = 0;  // rounded to the type in which the format stores them
  int level[kLargestGroup] = {};
};

// Quantises a group of n weights x, n <= format.group. int8: the scale is the greatest magnitude /
// 127, and levels are rounded to nearest, halves away from zero. int4: a search (quantise.cc) tries
// scales and minimums, and keeps those with the least squared error. A weight that is not finite,
// or too large for the scales of int4, makes the scale NaN. Then every row of a product shows the
// NaN.
void quantise_group(const Format& format, const float* x, int64_t n, QuantisedGroup& out);

}  // namespace sbrt
