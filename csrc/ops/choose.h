// The sampling pass turns a row of logits into the target's token, or into the draft's distribution
// (Dist).
//
// Order: f32 logits; masks, bias and penalties (ops/shaping.h); temperature; min_p; top_k; top_p.
// At temperature 0 the token with the largest logit is chosen. At temperature > 0 it is the token
// with the largest logit / temperature + g. The Gumbel noise g is a function of (seed, completion,
// position, token). Ties always go to the lowest token id.
//   min_p keeps tokens with p >= min_p * max p. top_k keeps exactly k by (logit descending, id
//   ascending). top_p keeps the shortest prefix in that order whose weights sum to at least top_p
//   times the sum of all remaining weights. A weight is exp32((logit - max) / temperature), rounded
//   to a multiple of 2^-40, ties to even. The sum is exact in 64 bits, so no order of additions
//   changes it, on any device. The sum times top_p is one product in double.
// Target and draft use the same pass. Dist::q is from the softmax of the draft's raw logits. The
// draft's confidence (Dist::lp) is sharpened by an exponent that is learnt from outcomes
// (Sequence::sharpness). Under rejection the draft has noise of its own, keyed by the prefix. Then
// its candidates are draws without replacement, and draws after different prefixes are independent.
// The probabilities of both models are kept (Scores). Only the tokens of a Dist depend on the
// draws.
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
  int kept = -1;  // number of ids that the filters kept in `filter`; -1: no filter
  ShapingScratch shaping;
};

// Writes the `want` tokens with the highest scores in a row [columns.n] to `tokens`, best first.
// Returns their number. `position` is the position of the token that is sampled. If the row has a
// NaN or +inf, returns 0 and sets `error` to kNanRow. If all tokens are excluded, returns 0 and
// sets `error` to kNoToken.
int top_tokens(const float* logits, const Columns& columns, const Sampling& sampling,
               int64_t position, ChooseScratch& scratch, int want, int32_t* tokens, int32_t& error);

// Returns the probability of `token` in the softmax of the raw logits at temperature 1.
float raw_softmax(const float* logits, int vocab, int32_t token);

// The shaping of all requests, as arrays over the vocabulary in device memory. Sampling on a device
// uses these arrays instead of lists. The host writes them between sequences. `select` updates the
// counts of the trunk's tokens (Counts).
struct DenseShaping {
  // Bits of `mask`. kNoToken: the token is never allowed. kEnds: the token ends the sequence.
  static constexpr uint8_t kNoToken = 1, kEnds = 2;

  // [seats, vocab]; null: there are no arrays, since the host samples.
  const uint8_t* mask = nullptr;
  const float* bias = nullptr;  // [seats, vocab]
  // [seats, vocab] number of times that a token occurs after the prompt.
  const int32_t* output = nullptr;
  const uint8_t* seen = nullptr;  // [seats, vocab]
  int64_t vocab = 0;              // number of entries per seat
  // [seats, words_room] the bad words that have several tokens. For each seat: the number n of
  // words; the length of the longest word; n + 1 offsets, at which each word's tokens begin; then
  // all tokens.
  const int32_t* words = nullptr;
  int64_t words_room = 0;
  const int32_t* trunk = nullptr;  // [seats, trunk_room]
  int64_t trunk_room = 0;
};

// The place where the sampling pass of a device keeps the scores of rejection, [seats, rows, columns].
// A target row is that of its node. The draft's rows are those of the chain, of a certain branch and of
// the tails, as in Scores. The host's ops use Scores.
struct KeptScores {
  float* at = nullptr;  // null: no request uses rejection, or the host samples
  int64_t rows = 0;     // number of rows of a seat
};

// Arguments of choose_rows and choose_dists. `logits` is [max_rows, stride] f32, and the first
// columns.n values of a row are used. A draft with a trimmed head never chooses a token without a
// column. Noise, masks and penalties of a column are those of its token.
struct ChooseArgs {
  const float* logits;
  int64_t stride;
  Columns columns;
  const Batch* rows;
  const Sequence* seats;   // sampling and shaping, and the tokens of the rows' ancestors
  ChooseScratch* scratch;  // [team]
  Choice* choice;          // [max_rows], written by choose_rows
  Dist* dist;              // [max_rows], written by choose_dists
  DenseShaping dense = {};
  KeptScores kept = {};

  const float* row(int64_t i) const { return logits + i * stride; }
  const Sequence& of(int64_t i) const { return seats[rows->row[i].seat]; }  // sequence of row i
};
void choose_rows(const ChooseArgs& args, Worker worker);  // sample the target's token of every row
// Find the draft's candidates of every row.
void choose_dists(const ChooseArgs& args, Worker worker);

}  // namespace sbrt
