// Applies min_p, top_k and top_p to a row of logits; ops/choose.h has the rules.
//
// Vector code reads the row once or twice to find a threshold that all kept tokens reach. Only
// tokens that reach the threshold are examined one by one. The threshold depends on the filter: -
// For min_p it is max + temperature * log(min_p), because exp32 is monotonic. - For top_k the row
// is split into disjoint parts. The threshold is the k-th largest of their maxima. - For top_p it
// is the logit of a small weight. All tokens with lower weights together may be dropped. Sums of
// weights are integers, so the weights may be added in any order.
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
