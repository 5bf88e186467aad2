// Quantises float weights, one group per call.
#pragma once

#include <cstdint>

#include "ops/format.h"

namespace sbrt {

constexpr int64_t kLargestGroup = 128;

struct QuantisedGroup {
  float scale = 0, minimum = 0;  // rounded to the storage type of the format
  int level[kLargestGroup] = {};
};

// Quantises a group of n weights x, n <= format.group. int8: the scale is the greatest magnitude /
// 127, and levels are rounded to nearest, halves away from zero. int4: a search (quantise.cc) finds
// the scale and the minimum of least squared error. If a weight is not finite, or is too large for
// the scales of int4, the scale becomes NaN. Then every product with the group is NaN.
void quantise_group(const Format& format, const float* x, int64_t n, QuantisedGroup& out);

}  // namespace sbrt
