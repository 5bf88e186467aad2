// Computes log-probabilities from a row's raw logits, before the shaping and the filters of a
// request.
//
//   logprob(t) = x(t) - most - log(sum over tokens of e^(x - most))
//
// The sum skips ids that no token has. Its terms are rounded to integer units (Kernels::weigh). So
// the bits of the sum depend only on the row, not on the order of additions, the threads or the
// other rows.
#pragma once

#include <cstdint>
#include <span>

#include "ops/choose.h"
#include "state/logprobs.h"

namespace sbrt {

using LogitRow = std::span<const float>;  // [vocab], a row of the target's logits

// Fills out[0] with the entry of `token`, and out[1 .. top] with the entries of the most likely
// tokens, best first.
void find_logprobs(LogitRow logits, const List<int32_t>& holes, int32_t token, int32_t top,
                   ChooseScratch& scratch, TokenLogprob* out);

}  // namespace sbrt
