// Log-probabilities of a row: its raw logits, before everything that a request does to them.
//
//   logprob(t) = x(t) - most - log(sum over tokens of e^(x - most))
//
// Ids that no token has are left out of the sum. It is counted in integers (Kernels::weigh), so that its
// bits depend on the row alone: no order of additions, number of threads or neighbour changes them.
#pragma once

#include <cstdint>
#include <span>

#include "ops/choose.h"
#include "state/logprobs.h"

namespace sbrt {

using LogitRow = std::span<const float>;  // [vocab] of the target

// Fills out[0] with `token` and out[1 .. top] with the most likely tokens, best first.
void find_logprobs(LogitRow logits, const List<int32_t>& holes, int32_t token, int32_t top,
                   ChooseScratch& scratch, TokenLogprob* out);

}  // namespace sbrt
