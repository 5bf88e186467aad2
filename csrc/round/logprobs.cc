// The ops that compute log-probs on the host. The members of the team divide the rows among
// themselves.
#include "ops/logprobs.h"

#include "round/ops.h"

namespace sbrt {
namespace {

// Writes the entries of `list` for `position` of the seat's trunk. `row` is the row of the target's
// batch from which the token at `position` was sampled.
void keep(const LogprobArgs& a, int seat, int row, int64_t position, const LogprobList& list,
          Worker worker) {
  const Sequence& c = a.seats.at[seat];
  const LogitRow logits(a.logits + row * a.stride, static_cast<size_t>(a.vocab));
  find_logprobs(logits, c.shaping.holes, c.trunk[position], list.top, a.scratch[worker.rank],
                list.at(position));
}

// Calls op(seat) for each seat that takes part in the round and whose request asks for the
// log-probs in `list`.
template <class Op>
void for_asking(const LogprobArgs& a, const LogprobList Logprobs::* list, const Op& op) {
  for (int seat = 0; seat < a.seats.count; ++seat)
    if (a.seats.takes_part(seat) && (a.asked[seat].*list).top >= 0) op(seat);
}

}  // namespace

void output_logprobs(const LogprobArgs& a, Worker worker) {
  int turn = 0;  // counts rows; row number n is computed by member n % team size
  for_asking(a, &Logprobs::output, [&](int seat) {
    const Sequence& c = a.seats.at[seat];
    const Outcome& o = c.outcome;
    const int64_t first = c.head - o.n;
    for (int depth = 0; depth < (o.error ? o.n : o.n + 1); ++depth) {
      if (turn++ % worker.size != worker.rank) continue;
      const int row = a.batch->first[seat] + verified_before(c, o.path[depth]);
      keep(a, seat, row, first + depth, a.asked[seat].output, worker);
    }
  });
}

void prompt_logprobs(const LogprobArgs& a, Worker worker) {
  for_asking(a, &Logprobs::prompt, [&](int seat) {
    const int32_t* first = a.batch->first + seat;
    for (int row = first[0] + worker.rank; row < first[1]; row += worker.size)
      keep(a, seat, row, a.batch->row[row].position + 1, a.asked[seat].prompt, worker);
  });
}

}  // namespace sbrt
