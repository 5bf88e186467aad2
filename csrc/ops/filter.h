// What min_p, top_k and top_p leave of a row; the rule: ops/choose.h.
//
// Vectors read the vocabulary once or twice, for a bar that what is left must reach: of min_p its
// logarithm (exp32 never falls, so that what it leaves is the first of the row); of top_k the k-th of
// maxima of disjoint parts of the row; of top_p the weight below which even all tokens together are
// less than it may leave out. Only what reaches the bar is looked at one by one. Sums of weights are
// integers, so they may be added in any order.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/kernels.h"
#include "state/policy.h"

namespace sbrt {

struct FilterScratch {
  explicit FilterScratch(int vocab = 0) : ids(vocab), order(vocab), weight(vocab) {}
  Buffer<int32_t> ids;    // [vocab] the result, ascending
  Buffer<int32_t> order;  // [vocab] places in `ids`
  Buffer<float> weight;   // [vocab] exp32((logit - most) / temperature) of `ids`
};

// The ids that are left, in scratch.ids; returns their number. `most` is the greatest logit, finite;
// no logit is NaN, the temperature is above 0.
int filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
           FilterScratch& scratch);

}  // namespace sbrt
