// The rule `rejection`: which candidates stand, by chance, so that every committed token has exactly
// the target's law (Leviathan et al., arXiv 2211.17192; without replacement: Jeon et al., arXiv
// 2402.14160).
//
// At a node the target has the law p and its candidates x_1, x_2, ... were drawn from the draft's law q
// without replacement. They are tried in the order they were drawn:
//
//   u q(x) < p(x), u uniform in [0, 1): x stands
//   else p <- norm(max(p - q, 0)), q <- norm(q with q(x) := 0), and the next is tried
//   none left: y is drawn from p
//
// That is exact if whether x_r is tried at all never depends on what x_r or a later one turned out to
// be: what stops, cuts, ranks or prunes sees laws only, and every prefix has noise of its own, so that
// other branches tell nothing either. A token that was not drawn but looked up is tried like one from a
// law that knows nothing else; where nothing was drawn y is the target's own choice, and a looked-up
// token stands if it is y.
#pragma once

#include "core/memory.h"
#include "ops/columns.h"
#include "round/op_args.h"
#include "state/sequence.h"

namespace sbrt {

// law <- softmax of scores, [n]; in double, summed by ascending id.
void softmax(const float* scores, int32_t n, double* law);
// Spreads law [n] in place to law [vocab]: token ids[i] gets entry i, all others get 0. ids ascend;
// null means the first n tokens.
void spread(const int32_t* ids, int32_t n, int32_t vocab, double* law);
bool stands(const Place& place, int32_t token, double u);
// After a candidate that does not stand. False: nothing is left of p - q (it was as good as 0
// everywhere, and only rounding let the candidate fall); p stays as it was.
bool reject(const Place& place, int32_t token);
bool reject_known(const Place& place, int32_t token);  // one that was not drawn
// The first token at which the sums of the law pass u of its whole.
int32_t draw_from(const double* law, int32_t vocab, double u);

// What stands of the chain, and y. Sets c.no_mass.
Outcome walk_by_chance(Sequence& c, const Choice* choice, const Place& place);

// The memory of an engine that was built for rejection.
class AcceptMemory {
 public:
  AcceptMemory() = default;
  AcceptMemory(int32_t vocab, const Columns& of_draft, int32_t branches, int32_t tail_slots);
  Scores scores() const;
  Place place() const { return {vocab_, laws_.data(), laws_.data() + vocab_}; }

 private:
  int32_t vocab_ = 0, tail_slots_ = 0;
  Columns columns_;
  Buffer<float> scores_;
  Buffer<double> laws_;  // [2, vocab]
};

}  // namespace sbrt
