// The rule `rejection`: candidates are accepted at random, so that every committed token has
// exactly the target's distribution (Leviathan et al., arXiv 2211.17192; without replacement: Jeon
// et al., arXiv 2402.14160).
//
// At a node the target has the distribution p. The candidates x_1, x_2, ... were drawn from the
// draft's distribution q without replacement. They are tried in the order of the draws:
//
//   u q(x) < p(x), u uniform in [0, 1): x is accepted
//   else p <- norm(max(p - q, 0)), q <- norm(q with q(x) := 0), and the next one is tried
//   none left: y is drawn from p
//
// This is exact if the decision to try x_r never depends on the value of x_r or of a later
// candidate. So rules that stop, cut, rank or prune use distributions only. Every prefix has its
// own noise, so other branches do not matter either. A looked-up token was not drawn: it is tried
// as if drawn from a distribution with this token alone. If nothing was drawn, y is the target's
// own choice, and a looked-up token is accepted if it is y.
#pragma once

#include "core/memory.h"
#include "ops/columns.h"
#include "round/op_args.h"
#include "state/sequence.h"

namespace sbrt {

// Writes the softmax of scores [n] to dist, in double. The sum is added in order of ascending id.
void softmax(const float* scores, int32_t n, double* dist);
// Spreads dist [n] in place to dist [vocab]: token ids[i] gets entry i, and all other tokens get 0.
// The ids ascend. If ids is null, the entries belong to the first n tokens.
void spread(const int32_t* ids, int32_t n, int32_t vocab, double* dist);
bool stands(const Place& place, int32_t token, double u);
// Updates p and q after a candidate was rejected. If max(p - q, 0) is 0 everywhere, returns false
// and leaves p as it is. In that case p - q was almost 0 everywhere, and only rounding rejected the
// candidate.
bool reject(const Place& place, int32_t token);
// Does the same for a looked-up token, which was not drawn.
bool reject_known(const Place& place, int32_t token);
// Returns the first token at which the cumulative sum of `dist` exceeds u times the total.
int32_t draw_from(const double* dist, int32_t vocab, double u);

// Decides at random which path of the chain is accepted, and the token y after it. Sets c.no_mass
// if a residual was empty.
Outcome walk_by_chance(Sequence& c, const Choice* choice, const Place& place);

// The memory for the rejection rule, in an engine whose config allows the rule.
class AcceptMemory {
 public:
  AcceptMemory() = default;
  AcceptMemory(int32_t vocab, const Columns& of_draft, int32_t branches, int32_t tail_slots);
  Scores scores() const;
  Place place() const { return {vocab_, dists_.data(), dists_.data() + vocab_}; }

 private:
  int32_t vocab_ = 0, tail_slots_ = 0;
  Columns columns_;
  Buffer<float> scores_;
  Buffer<double> dists_;  // [2, vocab]
};

}  // namespace sbrt
