// What a request does to a row of logits before its temperature: masks, bias, penalties.
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
// A row sees the trunk and its own ancestors only. The trunk's counts are a side structure that moves
// when `select` commits; a row adds its ancestors on top and takes them off again, so a rollback has
// nothing to undo.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "ops/counts.h"
#include "state/sequence.h"

namespace sbrt {

// Working memory of one team member; its pages are touched by requests that shape only.
struct ShapingScratch {
  explicit ShapingScratch(int vocab = 0) : logits(vocab), extra(vocab) {}
  Buffer<float> logits;             // [vocab] the shaped row
  Buffer<int32_t> extra;            // [vocab] how often the row's ancestors hold a token; else zero
  int32_t path[kSlots + kMaxTail];  // tokens behind the root down to the row, its own last
  int path_size = 0;
};

// The tokens behind the root that `row` sees, down to its own, into scratch.path. `row` is at the root
// or behind it, or of the trunk, which has none.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch);

// Logits of the ids below n. A draft may know fewer tokens than the target: the others have none.
struct Logits {
  const float* at;
  int32_t n;

  float operator[](int64_t id) const { return at[id]; }
};

// The row's logits [vocab] after all steps, in scratch.logits; -inf where `logits` has none. `row` is the
// root or comes after it.
Logits shape_row(Logits logits, int32_t vocab, const Sequence& c, const Batch& rows, const Row& row,
                 ShapingScratch& scratch);

}  // namespace sbrt
