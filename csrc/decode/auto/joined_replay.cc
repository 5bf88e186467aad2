#include "decode/auto/joined_replay.h"

#include <algorithm>
#include <cmath>

#include "round/chain.h"
#include "round/join_op.h"
#include "round/lookup_op.h"

namespace sbrt {
namespace {

// The most probable token has rank 1. A tree is assumed to hold a node if the product of the ranks on
// its path is at most this number. Entries: paths, steps of a few nodes, steps of many. Guesses.
constexpr int kBreadth[] = {1, 2, 6};

int breadth_kind(int width) { return width == 1 ? 0 : width < 8 ? 1 : 2; }

// The rounds of the last sequence together have at most the weight of this number of rounds.
constexpr double kCarried = 12;
// A looked-up node is verified down to this probability that the walk reaches it. The rounds
// themselves decide by prices.
constexpr double kLeast = 0.3;

// Returns the number of looked-up nodes that are verified if each is right with probability `p`.
int nodes_for(float p) {
  const double many = std::log(kLeast) / std::log(std::clamp(static_cast<double>(p), 0.1, 0.95));
  return std::clamp(static_cast<int>(many), 1, kMostFound);
}

}  // namespace

void JoinedReplay::begin(int64_t head, const PathReplay& path) {
  for (int kind = 0; kind < kKinds; ++kind)
    for (int depth = 0; depth <= PathReplay::kDepth; ++depth) {
      Played& all = carried_[kind][depth];
      replay({depth, kBreadth[kind], path.tokens(depth), kMaxChain}, all);
      all = all.times(std::min(1.0, kCarried / std::max(1.0, all.rounds())));
    }
  past_ = {};
  first_ = head_ = head;
  spot(head_) = {};
}

// Adds the spot of a position whose next token is committed.
void JoinedReplay::add(const Sequence& c, const TrunkIndex& index, int64_t position) {
  Spot& at = spot(position);
  const Match match = index.match(c.trunk, position + 1);
  at.after = match.after;
  at.length = match.length;
  at.right = 0;
  at.chance = 0;
  if (match.length == 0) return;
  at.chance = chance_of(past_, match.length, c.sampling.temperature > 0);
  count_look_up(past_, match.length, c.trunk[match.after] == c.trunk[position + 1]);
}

void JoinedReplay::read(const Sequence& c, const TrunkIndex& index, int64_t head) {
  const int64_t before = head_;
  for (; head_ < head; ++head_) {
    add(c, index, head_);
    spot(head_ + 1) = {};
  }
  first_ = std::max(first_, head_ + 1 - kWindow);
  for (int64_t p = std::max(first_, before - kMostFound); p < head_; ++p) {
    Spot& at = spot(p);
    while (at.length > 0 && at.right < kMostFound && p + 1 + at.right <= head_ &&
           c.trunk[at.after + at.right] == c.trunk[p + 1 + at.right])
      ++at.right;
  }
  for (int64_t p = first_; c.rank && p <= head_; ++p) spot(p).rank = rank_at(c.rank, p);
}

// Replays a round without a burst. Returns the number of tokens that it commits, or 0 if they are
// not all committed yet.
int JoinedReplay::fill(int64_t root, int most, Played& sum) const {
  const Spot& at = spot(root);
  const int nodes = std::min(nodes_for(at.chance), most), n = std::min(at.right, nodes);
  if (root + n + 1 > head_) return 0;
  ++sum.filled;
  sum.rows += 1 + nodes;
  sum.missed += n + 1;
  return n + 1;
}

// Replays a round with a burst. Where the burst's nodes end, the look-up goes on. Where a rank is
// not known, `guess` says how many nodes are right. Returns as fill() does.
int JoinedReplay::draft(int64_t root, const Burst& burst, int guess, Played& sum) const {
  int n = 0, product = 1;
  for (; n < std::min(burst.depth, burst.most) && root + n + 1 <= head_; ++n) {
    const int rank = spot(root + n + 1).rank;
    product *= std::max(rank, 1);
    if (rank == kUnknownRank ? n >= guess : product > burst.breadth) break;
  }
  if (root + n + 1 > head_) return 0;
  const Spot& end = spot(root + n);
  const int nodes = end.length > 0 ? std::min(nodes_for(end.chance), burst.most - n) : 0;
  n += std::min(end.right, nodes);
  if (root + n + 1 > head_) return 0;
  ++sum.drafted;
  sum.joined += nodes;
  return n + 1;
}

JoinedReplay::Played JoinedReplay::play(int depth, int width, double path_tokens, int most) const {
  const int kind = breadth_kind(width);
  Played sum = carried_[kind][depth];
  replay({depth, kBreadth[kind], path_tokens, most}, sum);
  // Rounds by the draft's acceptance fill up what is missing to this number of rounds.
  constexpr double kFew = 4;
  if (const double more = kFew - sum.rounds(); more > 0) {
    sum.tokens += more * path_tokens;
    sum.drafted += more;
  }
  return sum;
}

// Adds the rounds of this sequence to `sum`.
void JoinedReplay::replay(const Burst& burst, Played& sum) const {
  double owed = 0.5;  // nodes that the guesses so far are short of their mean
  for (int64_t root = first_; root < head_;) {
    const Spot& at = spot(root);
    const bool is_filled = is_good(at.length, at.chance);
    const int guess = static_cast<int>(owed + burst.tokens - 1);
    const int n = is_filled ? fill(root, burst.most, sum) : draft(root, burst, guess, sum);
    if (n == 0) break;
    if (!is_filled) owed = std::clamp(owed + burst.tokens - 1 - guess, 0.0, 1.0);
    sum.tokens += n;
    root += n;
  }
}

}  // namespace sbrt
