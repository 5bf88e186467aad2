// Computes the log-probs of a row with one block of threads. ops/logprobs.h has the formula and the
// host's functions. The bits are the same: the sum adds integers, and all other steps are a maximum
// or a count.
#pragma once

#include <cmath>

#include "core/bits.h"
#include "ops/exp.h"
#include "ops/kernels.h"
#include "round/crew.h"
#include "round/op_args.h"

namespace sbrt {

constexpr int kLogprobTeam = 512;  // largest number of members of a team, a power of two
// Number of blocks per seat; block b computes rows b, b + 16, ...
constexpr int kLogprobBlocks = 16;

struct LogprobScratch {
  uint64_t of_each[kLogprobTeam];
};

// Combines one value of each member by `join`, always in the same tree. Returns the result to every
// member.
template <class Team, class Join>
SBRT_ANY uint64_t joined(LogprobScratch& s, uint64_t mine, Team team, Join join) {
  team.meet();  // all members have read the last result
  s.of_each[team.rank] = mine;
  for (int apart = kLogprobTeam / 2; apart > 0; apart /= 2) {
    team.meet();
    if (team.rank < apart && team.rank + apart < team.size)
      s.of_each[team.rank] = join(s.of_each[team.rank], s.of_each[team.rank + apart]);
  }
  team.meet();
  return s.of_each[0];
}

struct Larger {
  SBRT_ANY uint64_t operator()(uint64_t a, uint64_t b) const { return most(a, b); }
};
struct Sum {
  SBRT_ANY uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};

// A row of logits in which the ids that no token has are masked.
struct WholeRow {
  static constexpr uint64_t kBad = ~uint64_t{0};  // key of a NaN or +inf

  const float* logits;  // [vocab]
  const uint8_t* hole;  // [vocab] 1: no token has this id; null: every id has a token
  int32_t vocab;

  SBRT_ANY float at(int32_t i) const { return hole && hole[i] ? -__builtin_inff() : logits[i]; }
  // Returns the sort key of token `i`. A greater logit gives a larger key. Among equal logits, a
  // lower id gives a larger key.
  SBRT_ANY uint64_t key(int32_t i) const {
    const float x = at(i);
    return x < __builtin_inff() ? key_of(x, static_cast<uint32_t>(i)) : kBad;
  }
};

// Returns the largest key below `bar` among this member's share of the tokens. Returns 0 if there
// is none.
template <class Team>
SBRT_ANY uint64_t largest_below(const WholeRow& row, uint64_t bar, Team team) {
  uint64_t found = 0;
  for (int32_t i = team.rank; i < row.vocab; i += team.size) {
    const uint64_t key = row.key(i);
    if (key < bar) found = most(found, key);
  }
  return found;
}

// Returns the sum of e^(x - top) over this member's share of the tokens, in units of 2^-40 as in
// Kernels::weigh.
template <class Team>
SBRT_ANY uint64_t units_of_row(const WholeRow& row, float top, Team team) {
  const auto none = __builtin_bit_cast(uint64_t, kToUnits);
  uint64_t units = 0;
  for (int32_t i = team.rank; i < row.vocab; i += team.size)
    units += __builtin_bit_cast(uint64_t, double{exp32(row.at(i) - top)} + kToUnits) - none;
  return units;
}

// Writes the entries of the `top` most likely tokens to `out`, best first. A member searches its
// share of the tokens again only after one of them was written.
template <class Team>
SBRT_ANY void write_top(const WholeRow& row, double shift, int32_t top, LogprobScratch& s,
                        TokenLogprob* out, Team team) {
  // The largest key of a masked token, whose logit is -inf.
  const uint64_t nothing = key_of(-__builtin_inff(), 0);
  uint64_t mine = top > 0 ? largest_below(row, WholeRow::kBad, team) : 0;
  for (int32_t rank = 1; rank <= top; ++rank) {
    const uint64_t best = joined(s, mine, team, Larger{});
    if (best <= nothing) return;
    if (mine == best) mine = largest_below(row, best, team);
    const auto id = static_cast<int32_t>(place_of(best));
    if (team.rank == 0) out[rank] = {id, rank, static_cast<float>(row.at(id) - shift)};
  }
}

// Computes the same as find_logprobs (ops/logprobs.h), with all members of a team.
template <class Team>
SBRT_ANY void find_logprobs_op(const WholeRow& row, int32_t token, int32_t top, LogprobScratch& s,
                               TokenLogprob* out, Team team) {
  for (int32_t i = team.rank; i <= top; i += team.size) out[i] = {-1, 0, 0};
  uint64_t best = 0;
  for (int32_t i = team.rank; i < row.vocab; i += team.size) best = most(best, row.key(i));
  best = joined(s, best, team, Larger{});
  if (team.rank == 0) out[0].token = token;
  if (best == WholeRow::kBad || best <= key_of(-__builtin_inff(), 0)) return;
  const float largest = row.at(static_cast<int32_t>(place_of(best)));
  const uint64_t units = joined(s, units_of_row(row, largest, team), team, Sum{});
  const double shift = largest + ::log(static_cast<double>(static_cast<int64_t>(units)) * 0x1p-40);
  const uint64_t own = row.key(token);
  uint64_t before = 0;
  for (int32_t i = team.rank; i < row.vocab; i += team.size) before += row.key(i) > own;
  before = joined(s, before, team, Sum{});
  if (team.rank == 0)
    out[0] = {token, static_cast<int32_t>(1 + before), static_cast<float>(row.at(token) - shift)};
  write_top(row, shift, top, s, out, team);
}

// Writes the entries of `list` for `position` of the seat's trunk. `row` is the row of the target's
// batch from which the token at `position` was sampled.
template <class Team>
SBRT_ANY void keep_logprobs(const LogprobArgs& a, const Sequence& c, int row, int64_t position,
                            const LogprobList& list, LogprobScratch& s, Team team) {
  const WholeRow logits{a.logits + row * a.stride, a.hole, a.vocab};
  find_logprobs_op(logits, c.trunk[position], list.top, s, list.at(position), team);
}

// Writes the entries for the tokens that a round committed. The entries of a token come from the
// row from which it was sampled.
template <class Team>
SBRT_ANY void output_logprobs_op(const LogprobArgs& a, int seat, int block, LogprobScratch& s,
                                 Team team) {
  const LogprobList& list = a.asked[seat].output;
  if (list.top < 0) return;
  const Sequence& c = a.seats.at[seat];
  const Outcome& o = c.outcome;
  const int64_t first = c.head - o.n;
  for (int depth = block; depth < (o.error ? o.n : o.n + 1); depth += kLogprobBlocks) {
    const int row = a.batch->first[seat] + verified_before(c, o.path[depth]);
    keep_logprobs(a, c, row, first + depth, list, s, team);
  }
}

// Writes the entries for the prompt tokens that follow the rows of a prompt piece.
template <class Team>
SBRT_ANY void prompt_logprobs_op(const LogprobArgs& a, int seat, int block, LogprobScratch& s,
                                 Team team) {
  const LogprobList& list = a.asked[seat].prompt;
  if (list.top < 0) return;
  const int32_t* first = a.batch->first + seat;
  for (int row = first[0] + block; row < first[1]; row += kLogprobBlocks)
    keep_logprobs(a, a.seats.at[seat], row, a.batch->row[row].position + 1, list, s, team);
}

}  // namespace sbrt
