// The sampling pass: from a row of logits to its token, or to a draft's distribution (Dist).
//
// Order: f32 logits; masks, bias and penalties (ops/shaping.h); temperature; min_p; top_k; top_p.
// At temperature > 0 the token has the largest logit / temperature + g, with the Gumbel noise g of
// (seed, completion, position, token); else the largest logit. Ties go to the lowest id,
// everywhere.
//   min_p keeps tokens with p >= min_p * max p. top_k keeps exactly k by (logit descending, id
//   ascending). top_p keeps the shortest prefix in that order whose sum reaches top_p of the sum of
//   all that are left. The sum is of exp32((logit - max) / temperature), each weight rounded to the
//   nearest even multiple of 2^-40. It is exact in 64 bits, so no order of additions changes it, on
//   any device. The total times top_p is one product in double.
// Target and draft use the same pass. The draft's q is the softmax of its raw logits. Its
// confidence (Dist::lp) is sharpened by an exponent that is learnt from outcomes
// (Sequence::sharpness). Under rejection the draft has its own noise, with the prefix as key. Its
// candidates are draws from its distribution without replacement, and draws after different
// prefixes are independent. All probabilities of both models are kept (Scores). The other fields of
// a Dist do not depend on a draw.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "exec/exec.h"
#include "ops/columns.h"
#include "ops/filter.h"
#include "ops/shaping.h"
#include "state/lanes.h"

namespace sbrt {

// Working memory of one team member.
struct ChooseScratch {
  explicit ChooseScratch(int vocab = 0) : filter(vocab), shaping(vocab) {}
  FilterScratch filter;
  int kept = -1;  // number of its ids that the filters kept; -1: no filter
  ShapingScratch shaping;
};

// Top `want` tokens by score of a row [columns.n] under `sampling` at `position` (of the token to
// be chosen), best first. Returns their number. A NaN or +inf row gives 0 and `error` = kNanRow; a
// row without tokens gives 0 and kNoToken.
int top_tokens(const float* logits, const Columns& columns, const Sampling& sampling,
               int64_t position, ChooseScratch& scratch, int want, int32_t* tokens, int32_t& error);

// Softmax of raw logits (temperature 1) at one token.
float raw_softmax(const float* logits, int vocab, int32_t token);

// The lists of a request's shaping as arrays over the vocabulary, in device memory, for choices on
// a device. The host writes them between sequences, except the trunk's counts (Counts).
struct DenseShaping {
  static constexpr uint8_t kNoToken = 1, kEnds = 2;  // of `mask`

  const uint8_t* mask = nullptr;    // [seats, vocab]; null: there are none
  const float* bias = nullptr;      // [seats, vocab]
  const int32_t* output = nullptr;  // [seats, vocab] how often a token occurs after the prompt
  const uint8_t* seen = nullptr;    // [seats, vocab]
  int64_t vocab = 0;                // from one seat to the next
  // [seats, words_room] bad words of several tokens: their number n, the longest's length, n + 1
  // offsets where they begin in the tokens, and all their tokens
  const int32_t* words = nullptr;
  int64_t words_room = 0;
  const int32_t* trunk = nullptr;  // [seats, trunk_room]
  int64_t trunk_room = 0;
};

// Where a choice on a device keeps the scores of rejection: [seats, rows, columns]. The target's row is
// its node's. The draft's has chain, certain branch and tails, as in Scores. The host's ops use Scores.
struct KeptScores {
  float* at = nullptr;  // null: no request rejects, or the host samples
  int64_t rows = 0;     // of a seat
};

// Ops. `logits` is [max_rows, stride] f32; the first columns.n of a row count. A draft never chooses a
// token that it has no column of: its distribution gives it no probability. Noise, masks and penalties
// of a column are those of its token.
struct ChooseArgs {
  const float* logits;
  int64_t stride;
  Columns columns;
  const Batch* rows;
  const Sequence* seats;   // sampling, shaping, and what the rows' ancestors are
  ChooseScratch* scratch;  // [team]
  Choice* choice;          // [max_rows], choose_rows
  Dist* dist;              // [max_rows], choose_dists
  DenseShaping dense = {};
  KeptScores kept = {};

  const float* row(int64_t i) const { return logits + i * stride; }
  const Sequence& of(int64_t i) const { return seats[rows->row[i].seat]; }  // of row i
};
void choose_rows(const ChooseArgs& args, Worker worker);   // the target's token of every row
void choose_dists(const ChooseArgs& args, Worker worker);  // the draft's candidates of every row

}  // namespace sbrt
