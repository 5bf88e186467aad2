// A request's changes to a row of logits before its temperature: masks, bias, penalties.
//
// Order, each step in f32:
//   1. ids that no token has are masked (-inf); with allowed_token_ids, all other tokens are, too
//   2. bad words: the last token of a word is masked where the tokens before it are the word's
//      beginning (prompt included)
//   3. min_tokens: tokens that end the sequence are masked while they would come too early
//   4. logit_bias: x += bias
//   5. penalties, each token of prompt and output once: x = x > 0 ? x / repetition : x * repetition;
//      then, if the token occurs c times in the output: x -= frequency * c, and x -= presence if
//      c > 0
//
// A row sees the trunk and its own ancestors only. The trunk's counts change when `select` commits.
// The counts of a row's ancestors are added and cleared again, so a rollback has nothing to undo.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/columns.h"
#include "ops/counts.h"
#include "state/sequence.h"

namespace sbrt {

// Working memory of one team member. Its pages stay untouched until a request with shaping comes.
struct ShapingScratch {
  explicit ShapingScratch(int vocab = 0) : logits(vocab), extra(vocab) {}
  Buffer<float> logits;   // [vocab] the shaped row, by columns
  Buffer<int32_t> extra;  // [vocab] count of a token among the row's ancestors; all 0 between rows
  int32_t path[kSlots + kMaxTail];  // tokens after the root, ending with the row's own
  int path_size = 0;
};

// Stores the tokens after the root that `row` sees, including its own, in scratch.path. There are
// none if `row` is the root or lies in the trunk.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch);

// Applies all steps to the row `logits` [columns.n]. Returns the result, which is in
// scratch.logits. Settings for a token without a column have no effect. `row` is the root or comes
// after it.
const float* shape_row(const float* logits, const Columns& columns, const Sequence& c,
                       const Batch& rows, const Row& row, ShapingScratch& scratch);

}  // namespace sbrt
