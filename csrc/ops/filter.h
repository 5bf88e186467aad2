// Applies min_p, top_k and top_p to a row; ops/choose.h has the rules.
//
// Vector code reads the vocabulary once or twice to find a threshold that all kept tokens reach.
// For min_p it is max + temperature * log(min_p): exp32 is monotonic, so min_p keeps the tokens
// with the largest logits. For top_k it is the k-th largest of the maxima of disjoint parts of the
// row. For top_p it is the logit of a weight so small that all tokens below it together may be
// dropped. Only tokens that reach the threshold are examined one by one. Sums of weights are
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
  Buffer<int32_t> order;  // [vocab] indices into `ids`
  Buffer<float> weight;   // [vocab] exp32((logit - most) / temperature) for each of `ids`
};

// Writes the ids of the kept tokens to scratch.ids, in ascending order, and returns their number.
// `most` is the largest logit and must be finite. No logit may be NaN, and the temperature must be
// above 0.
int filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
           FilterScratch& scratch);

}  // namespace sbrt
