// Applies min_p, top_k and top_p to a row of logits; ops/choose.h has the rules.
//
// Vector code reads the row once or twice to find a threshold that all kept tokens reach. Only
// tokens that reach the threshold are examined one by one. The threshold depends on the filter:
//   min_p  max + temperature * log(min_p), because exp32 is monotonic
//   top_k  the k-th largest of the maxima of disjoint parts of the row
//   top_p  the logit of a weight so small that all tokens below it together may be dropped
// Sums of weights are integers, so the weights may be added in any order.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/kernels.h"
#include "state/policy.h"

namespace sbrt {

struct FilterScratch {
  explicit FilterScratch(int vocab = 0) : ids(vocab), order(vocab), weight(vocab) {}
  Buffer<int32_t> ids;    // [vocab] the result, ascending
  Buffer<int32_t> order;  // [vocab] indices into `ids`
  Buffer<float> weight;   // [vocab] exp32((logit - most) / temperature) for each of `ids`
};

// Writes the ids of the kept tokens to scratch.ids, in ascending order, and returns their number.
// `most` is the largest of the logits and must be finite. No logit may be NaN. The temperature must
// be above 0.
int filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
           FilterScratch& scratch);

}  // namespace sbrt
