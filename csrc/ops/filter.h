// Applies min_p, top_k and top_p to a row; ops/choose.h has the rules.
//
// Vectors read the vocabulary once or twice to find a threshold that all kept tokens reach. For
// min_p it is a logarithm: exp32 is monotonic, so min_p keeps the first tokens of the row. For
// top_k it is the k-th largest of the maxima of disjoint parts of the row. For top_p it is the
// weight below which even all tokens together may be left out. Only tokens that reach the threshold
// are examined one by one. Sums of weights are integers, so they may be added in any order.
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

// Finds the ids that are kept, in scratch.ids; returns their number. `most` is the largest logit,
// finite; no logit is NaN, the temperature is above 0.
int filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
           FilterScratch& scratch);

}  // namespace sbrt
