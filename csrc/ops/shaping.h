// A request's changes to a row of logits before its temperature: masks, bias, penalties.
//
// Order, each step in f32:
//   1. ids that no token has are masked (-inf); with allowed_token_ids, all other tokens are, too
//   2. bad words: the last token of a word is masked where the tokens before it are the word's
//      beginning (prompt included)
//   3. min_tokens: tokens that end the sequence are masked while they would come too early
//   4. logit_bias: x += bias
//   5. penalties, once for each token that occurs in prompt or output: x = x > 0 ? x / repetition :
//      x * repetition; then, if the token occurs c times in the output: x -= frequency * c, and
//      x -= presence if c > 0
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

// Working memory of one team member. Its pages are first touched when a request with shaping comes.
struct ShapingScratch {
  explicit ShapingScratch(int vocab = 0) : logits(vocab), extra(vocab) {}
  Buffer<float> logits;   // [vocab] the row after shaping; the index is the column
  Buffer<int32_t> extra;  // [vocab] counts of tokens among the row's ancestors; 0 between rows
  int32_t path[kSlots + kMaxTail];  // the tokens after the root, up to and including the row's own
  int path_size = 0;
};

// Stores in scratch.path the tokens after the root that `row` sees, including its own. There are
// none if `row` is the root or lies in the trunk.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch);

// Applies all steps to the row `logits` [columns.n]. Returns the address of the result, which is in
// scratch.logits. Settings for a token without a column have no effect. `row` is the root or comes
// after it.
const float* shape_row(const float* logits, const Columns& columns, const Sequence& c,
                       const Batch& rows, const Row& row, ShapingScratch& scratch);

}  // namespace sbrt
