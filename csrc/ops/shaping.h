// Changes that a request makes to a row of logits before the temperature: masks, bias, penalties.
//
// Order, each step in f32:
//   1. ids that no token has are masked (-inf); with allowed_token_ids, all other tokens are, too
//   2. bad words: the last token of a word is masked if the prefix (prompt included) ends with the
//      other tokens of the word
//   3. min_tokens: tokens that end the sequence are masked if they would end it too early
//   4. logit_bias: x += bias
//   5. penalties, once for each token that occurs in prompt or output: x = x > 0 ? x / repetition :
//      x * repetition; then, if the token occurs c times in the output: x -= frequency * c, and
//      x -= presence if c > 0
//
// A row sees only the trunk and its own ancestors. The counts of the trunk's tokens change when
// `select` commits tokens. The counts of a row's ancestors are added for the row and cleared after
// it, so a rollback has nothing to undo.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/columns.h"
#include "ops/counts.h"
#include "state/sequence.h"

namespace sbrt {

// Working memory of one team member. The system commits its pages at the first request with
// shaping.
struct ShapingScratch {
  explicit ShapingScratch(int vocab = 0) : logits(vocab), extra(vocab) {}
  Buffer<float> logits;  // [vocab] the row after shaping; the index is the column
  // [vocab]: how often each token occurs among the row's ancestors; all 0 between rows.
  Buffer<int32_t> extra;
  // Tokens after the root, up to and including the row's own.
  int32_t path[kSlots + kMaxTail];
  int path_size = 0;
};

// Writes to scratch.path the tokens after the root that `row` sees, including its own token. If
// `row` is the root or lies before it, there are none.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch);

// Applies all steps to the row's logits, [columns.n]. Returns the address of the result, which is
// in scratch.logits. Settings for a token without a column have no effect. `row` is the root or a
// node after it.
const float* shape_row(const float* logits, const Columns& columns, const Sequence& c,
                       const Batch& rows, const Row& row, ShapingScratch& scratch);

}  // namespace sbrt
