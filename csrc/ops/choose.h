// The sampling pass turns a row of logits into the target's token, or into the draft's distribution
// (Dist).
//
// It works in this order: f32 logits; masks, bias and penalties (ops/shaping.h); temperature;
// min_p; top_k; top_p. At temperature 0 it takes the token with the largest logit. At higher
// temperatures it takes the token with the largest logit / temperature + g. The Gumbel noise g is a
// function of (seed, completion, position, token). Ties always go to the lowest token id.
//
// min_p keeps tokens with p >= min_p * max p. top_k keeps exactly k tokens, by descending logit and
// then by ascending id. top_p keeps the shortest prefix in that order whose weights sum to at least
// top_p times the sum of all weights left by min_p and top_k. A weight is exp32((logit - max) /
// temperature), rounded to a multiple of 2^-40, ties to even. Sums of weights are exact in 64 bits,
// so no order of additions changes them, on any device. The sum is multiplied by top_p in double.
//
// Target and draft use the same pass. Dist::q is a probability in the softmax of the draft's raw
// logits. The draft's confidence (Dist::lp) is sharpened by an exponent that is learnt from
// outcomes (Sequence::sharpness).
//
// Under rejection the draft has other noise than the target, a function of the prefix. Its
// candidates are then draws without replacement, and draws after different prefixes are
// independent. The probabilities of both models are kept (Scores). In a Dist, only the tokens
// depend on the draws.
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
  int kept = -1;  // number of ids that the filters kept; -1: no filter was applied
  ShapingScratch shaping;
};

// Finds the tokens with the highest scores in a row of logits, [columns.n]. Writes `want` of them
// to `tokens`, best first, and returns their number. `position` is the position of the sampled
// token. If the row has a NaN or +inf, returns 0 and sets `error` to kNanRow. If all tokens are
// excluded, returns 0 and sets `error` to kNoToken.
int top_tokens(const float* logits, const Columns& columns, const Sampling& sampling,
               int64_t position, ChooseScratch& scratch, int want, int32_t* tokens, int32_t& error);

// Returns the probability of `token` in the softmax of the raw logits at temperature 1.
float raw_softmax(const float* logits, int vocab, int32_t token);

// The shaping of all requests as arrays over the vocabulary, in device memory. Sampling on a device
// reads these arrays, not the lists of a request. The host writes the arrays of a seat before its
// sequence begins. `select` updates the counts of the trunk's tokens (Counts).
struct DenseShaping {
  // Bits of `mask`. kNoToken: the token is never allowed. kEnds: the token ends the sequence.
  static constexpr uint8_t kNoToken = 1, kEnds = 2;

  // [seats, vocab]; null: there are no arrays, because the host samples.
  const uint8_t* mask = nullptr;
  const float* bias = nullptr;  // [seats, vocab]
  // [seats, vocab]: how often each token occurs after the prompt.
  const int32_t* output = nullptr;
  const uint8_t* seen = nullptr;  // [seats, vocab]
  int64_t vocab = 0;              // number of entries per seat in each [seats, vocab] array
  // [seats, words_room]: the bad words of more than one token. The data of a seat are the number n
  // of words; the length of the longest word; n + 1 offsets, at which the tokens of each word
  // begin; then the tokens of all words.
  const int32_t* words = nullptr;
  int64_t words_room = 0;
  const int32_t* trunk = nullptr;  // [seats, trunk_room]
  int64_t trunk_room = 0;
};

// Memory in which the sampling pass of a device keeps the scores for rejection, [seats, rows,
// columns]. In the target's memory, row i holds the scores of node i. In the draft's memory, the
// rows are those of the chain, of a certain branch and of the tails, in the order of Scores. The
// host's ops use Scores instead.
struct KeptScores {
  float* at = nullptr;  // null: no request uses rejection, or the host samples
  int64_t rows = 0;     // number of rows of a seat
};

// Arguments of choose_rows and choose_dists. `logits` is [max_rows, stride] f32; only the first
// columns.n values of a row are used. If the draft's LM head is trimmed, the draft never samples a
// token without a column. The noise, mask and penalties of a column are those of its token.
struct ChooseArgs {
  const float* logits;
  int64_t stride;
  Columns columns;
  const Batch* rows;
  const Sequence* seats;   // for sampling, shaping, and the tokens of a row's ancestors
  ChooseScratch* scratch;  // [team]
  Choice* choice;          // [max_rows], written by choose_rows
  Dist* dist;              // [max_rows], written by choose_dists
  DenseShaping dense = {};
  KeptScores kept = {};

  const float* row(int64_t i) const { return logits + i * stride; }
  const Sequence& of(int64_t i) const { return seats[rows->row[i].seat]; }  // sequence of row i
};
// Samples the target's token after every row.
void choose_rows(const ChooseArgs& args, Worker worker);
// Finds the draft's candidates after every row.
void choose_dists(const ChooseArgs& args, Worker worker);

}  // namespace sbrt
