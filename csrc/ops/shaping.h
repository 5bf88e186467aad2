// A request's changes to a row of logits before its temperature: masks, bias, penalties.
//
// Order, each step in f32:
//   1. ids that no token has are masked (-inf), and with allowed_token_ids every other token
//   2. bad words: the last token of a word is masked where the tokens before it are the word's
//      beginning (prompt included)
//   3. min_tokens: tokens that end the sequence are masked while they would come too early
//   4. logit_bias: x += bias
//   5. penalties, each token of prompt and output once: x = x > 0 ? x / repetition : x * repetition;
//      then, c times in the output: x -= frequency * c, and x -= presence if c > 0
//
// A row sees the trunk and its own ancestors only. The trunk's counts change when `select` commits.
// A row adds its ancestors to them and subtracts them again, so a rollback has nothing to undo.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/columns.h"
#include "ops/counts.h"
#include "state/sequence.h"

namespace sbrt {

// Working memory of one team member; only requests that shape touch its pages.
struct ShapingScratch {
  explicit ShapingScratch(int vocab = 0) : logits(vocab), extra(vocab) {}
  Buffer<float> logits;   // [vocab] the shaped row, by columns
  Buffer<int32_t> extra;  // [vocab] number of times the row's ancestors hold a token; else zero
  int32_t path[kSlots + kMaxTail];  // tokens after the root down to the row, its own last
  int path_size = 0;
};

// Stores the tokens after the root that `row` sees, including its own, in scratch.path. `row` is
// the root, comes after it, or is in the trunk, which gives none.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch);

// The row `logits` [columns.n] after all steps, in scratch.logits. Settings for a token without a
// column have no effect. `row` is the root or comes after it.
const float* shape_row(const float* logits, const Columns& columns, const Sequence& c,
                       const Batch& rows, const Row& row, ShapingScratch& scratch);

}  // namespace sbrt
