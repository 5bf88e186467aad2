// The rule `rejection`: candidates are accepted at random, such that every committed token has
// exactly the target's distribution (Leviathan et al., arXiv 2211.17192; without replacement: Jeon
// et al., arXiv 2402.14160).
//
// Let p be the target's distribution after a node. The candidates x_1, x_2, ... were drawn from q,
// the draft's distribution after this node, without replacement. They are tried in the order of the
// draws:
//
//   u q(x) < p(x), u uniform in [0, 1): x is accepted
//   otherwise p <- norm(max(p - q, 0)), q <- norm(q with q(x) := 0), and the next x is tried
//   no x left: y is drawn from p
//
// This is exact if the decision to try x_r never depends on the value of x_r or of a later
// candidate. So the rules that stop, cut, rank or prune drafts read distributions, never drawn
// tokens. Every prefix has its own noise, so draws in other branches do not matter. A looked-up
// token was not drawn. Next to drawn candidates it is tried like them, with a q in which it has
// probability 1. If no candidate was drawn after a node, the rule above is not used: y is the token
// that the target sampled, and a looked-up token is accepted if it equals y. The same holds for a
// drawn token if the draft sits out the round, because its distributions q are not kept then. That
// is exact, too: y does not depend on the drawn tokens.
//
// Host and devices compile this source, and compute the same bits: every sum over the vocabulary is
// added in one order (folded), and exp64 is one formula.
#pragma once

#include "ops/exp64.h"
#include "ops/philox.h"
#include "round/chain.h"
#include "round/crew.h"
#include "round/op_args.h"

namespace sbrt {

constexpr int kSumLanes = 1024;  // number of threads of a block on a device
constexpr int kSumGroup = 32;    // lanes of a group
constexpr int kSumGroups = kSumLanes / kSumGroup;
// Number of thread blocks per seat that copy scores (move_scores_op).
constexpr int kScoreBlocks = 16;

// A candidate for the token after a node. It is a child in the chain, or the first token of a
// branch. For a branch, `node` is 0.
struct Candidate {
  int32_t token, node;
};

// Working memory of the members of a team.
struct AcceptScratch {
  double lane[kSumLanes], group[kSumGroups];
  Candidate drawn[kSlots + kMaxBranches];
  int32_t n;      // number of `drawn`
  int32_t known;  // the looked-up child in the chain; 0: none
  int32_t token;  // of draw_from
};

// Joins value(0) .. value(n - 1) in a fixed order, and returns the result to every member. First,
// lane l joins the values l, l + kSumLanes, ... in ascending order. Then each group of lanes joins
// its lanes. Then the groups are joined. Before the call, the members must have met after the last
// write to memory that `value` reads.
template <class Team, class Value, class Join>
SBRT_ANY double folded(AcceptScratch& s, int32_t n, double empty, Team team, Value value,
                       Join join) {
  for (int l = team.rank; l < kSumLanes; l += team.size) s.lane[l] = empty;
  for (int32_t from = 0; from < n; from += kSumLanes)
    for (int l = team.rank; l < least(kSumLanes, n - from); l += team.size)
      s.lane[l] = join(s.lane[l], value(from + l));
  team.meet();
  for (int g = team.rank; g < kSumGroups; g += team.size) {
    double all = empty;
    for (int l = 0; l < kSumGroup; ++l) all = join(all, s.lane[g * kSumGroup + l]);
    s.group[g] = all;
  }
  team.meet();
  double all = empty;
  for (int g = 0; g < kSumGroups; ++g) all = join(all, s.group[g]);
  return all;
}

template <class Team, class Value>
SBRT_ANY double sum_of(AcceptScratch& s, int32_t n, Team team, Value value) {
  return folded(s, n, 0.0, team, value, [](double a, double b) { return a + b; });
}

// Divides `dist` by its sum, unless the sum is 0. Returns the sum.
template <class Team>
SBRT_ANY double normalise(double* dist, int32_t vocab, AcceptScratch& s, Team team) {
  const double sum = sum_of(s, vocab, team, [dist](int32_t i) { return dist[i]; });
  if (sum > 0)
    for (int32_t i = team.rank; i < vocab; i += team.size) dist[i] /= sum;
  team.meet();
  return sum;
}

// Writes the softmax of `scores`, [n], to `dist`, [vocab], in double. Score i belongs to token
// ids[i], or to token i if ids is null. All other tokens get 0.
template <class Team>
SBRT_ANY void softmax_of(const float* scores, const int32_t* ids, int32_t n, const Place& place,
                         double* dist, AcceptScratch& s, Team team) {
  const double largest = folded(
      s, n, -__builtin_inf(), team, [scores](int32_t i) { return double{scores[i]}; },
      [](double a, double b) { return most(a, b); });
  if (ids || n < place.vocab)
    for (int32_t i = team.rank; i < place.vocab; i += team.size) dist[i] = 0;
  team.meet();
  for (int32_t i = team.rank; i < n; i += team.size) {
    const int32_t id = ids ? ids[i] : i;
    dist[id] = exp64(scores[i] - largest);
  }
  team.meet();
  normalise(dist, place.vocab, s, team);
}

// Returns true if the drawn candidate `token` is accepted. u: uniform in [0, 1).
SBRT_ANY inline bool accepts(const Place& place, int32_t token, double u) {
  return u * place.q[token] < place.p[token];
}

SBRT_ANY inline double surplus(double p, double q) { return p > q ? p - q : 0; }

// Updates p and q after a candidate was rejected. If max(p - q, 0) is 0 for every token, p stays as
// it is, and the function returns false. This happens only through rounding: p and q were almost
// equal.
template <class Team>
SBRT_ANY bool reject(const Place& place, int32_t token, AcceptScratch& s, Team team) {
  const double left =
      sum_of(s, place.vocab, team, [&](int32_t i) { return surplus(place.p[i], place.q[i]); });
  for (int32_t i = team.rank; left > 0 && i < place.vocab; i += team.size)
    place.p[i] = surplus(place.p[i], place.q[i]) / left;
  team.meet();
  if (team.rank == 0) place.q[token] = 0;
  team.meet();
  normalise(place.q, place.vocab, s, team);
  return left > 0;
}

// Updates p and q after the looked-up token was rejected. Returns false if p has no other token;
// then p stays as it is.
template <class Team>
SBRT_ANY bool reject_known(const Place& place, int32_t token, AcceptScratch& s, Team team) {
  const double had = place.p[token];
  team.meet();
  if (team.rank == 0) place.p[token] = place.q[token] = 0;
  team.meet();
  normalise(place.q, place.vocab, s, team);
  if (normalise(place.p, place.vocab, s, team) > 0) return true;
  if (team.rank == 0) place.p[token] = had;
  team.meet();
  return false;
}

// An index in a running sum of weights, and the sum of all weights before it.
struct Reached {
  int32_t at;
  double before;
};

// Adds n weights to `sum`, in order, until the sum exceeds `bar`. Returns the index of the last
// added weight. If no sum exceeds `bar`, this is the last weight above 0.
template <class Weight>
SBRT_ANY Reached first_past(double sum, double bar, int32_t n, Weight weight) {
  Reached found{0, sum};
  for (int32_t i = 0; i < n; ++i) {
    const double own = weight(i);
    if (!(own > 0)) continue;
    found = {i, sum};
    sum += own;
    if (sum > bar) break;
  }
  return found;
}

// Draws a token from `dist`, whose sum need not be 1. Returns the first token, in the order of
// `folded`, at which the running sum exceeds u times the total.
template <class Team>
SBRT_ANY int32_t draw_from(const double* dist, int32_t vocab, double u, AcceptScratch& s,
                           Team team) {
  const double bar = u * sum_of(s, vocab, team, [dist](int32_t i) { return dist[i]; });
  if (team.rank == 0) {
    const Reached group = first_past(0, bar, kSumGroups, [&](int32_t g) { return s.group[g]; });
    const int32_t first = group.at * kSumGroup;
    const Reached lane =
        first_past(group.before, bar, kSumGroup, [&](int32_t l) { return s.lane[first + l]; });
    const int32_t from = first + lane.at, n = (vocab - from + kSumLanes - 1) / kSumLanes;
    const Reached turn =
        first_past(lane.before, bar, n, [&](int32_t i) { return dist[from + i * kSumLanes]; });
    s.token = from + turn.at * kSumLanes;
  }
  team.meet();
  return s.token;
}

// Writes the candidates that were drawn after `node` to `found`, in the order of their draws.
// Returns their number.
SBRT_ANY inline int drawn_at(const Sequence& c, int node, Candidate* found) {
  int n = 0;
  for (int i = node + 1; i <= c.chain.size; ++i)
    if (c.chain.parent[i] == node && !c.chain.known.has(i) && c.verified.has(i))
      found[n++] = {c.chain.token[i], i};
  for (int b = 0; b < c.branch_count; ++b)
    if (c.branches[b].node == node) found[n++] = {c.branches[b].token[0], 0};
  return n;
}

// Returns the verified child of `node` that came from a look-up. There is at most one. Returns 0 if
// there is none.
SBRT_ANY inline int known_child(const Sequence& c, int node) {
  for (int i = node + 1; i <= c.chain.size; ++i)
    if (c.chain.parent[i] == node && c.chain.known.has(i) && c.verified.has(i)) return i;
  return 0;
}

// Returns the noise for the token after `node`.
SBRT_ANY inline Noise noise_after(const Sequence& c, int node, Use use) {
  const int64_t position = c.head + c.chain.level[node] + 1;
  return {.seed = c.sampling.seed,
          .completion = c.sampling.completion,
          .use = use,
          .where = static_cast<uint64_t>(position)};
}

// Tries the candidates in `s` for the token after `node`. If all are rejected, samples from the
// distribution that is left. Sets c.no_mass if rounding left an empty distribution.
template <class Team>
SBRT_ANY Candidate try_all(Sequence& c, int node, const Place& place, AcceptScratch& s, Team team) {
  const Noise coins = noise_after(c, node, kCoin);
  uint32_t tries = 0;
  bool has_mass = true;
  if (s.known) {
    const Candidate known{c.chain.token[s.known], s.known};
    if (uniform(coins, tries++) < place.p[known.token]) return known;
    has_mass = reject_known(place, known.token, s, team);
  }
  for (int i = 0; i < s.n && has_mass; ++i) {
    if (accepts(place, s.drawn[i].token, uniform(coins, tries++))) return s.drawn[i];
    has_mass = reject(place, s.drawn[i].token, s, team);
  }
  if (team.rank == 0 && !has_mass) c.no_mass = 1;
  const double u = uniform(noise_after(c, node, kResidual), 0);
  return {draw_from(place.p, place.vocab, u, s, team), 0};
}

// Decides the token after `node`. Returns the token and the chain node that holds it (0: no node).
// own: the token that the target sampled after `node`.
template <class Team>
SBRT_ANY Candidate decide(Sequence& c, int32_t own, int node, const Place& place, AcceptScratch& s,
                          Team team) {
  if (team.rank == 0) {
    s.n = drawn_at(c, node, s.drawn);
    s.known = known_child(c, node);
  }
  team.meet();
  const bool sits_out = c.draft_nodes.bits() == 0;
  if (s.n == 0 || sits_out) {
    const int next = child(c.chain, node, own);
    return {own, c.verified.has(next) ? next : 0};
  }
  SBRT_CHECK_ANY(c.draft_nodes.has(node), "select: expected a draft distribution, found none at ",
                 "node ", node);
  const Scores& given = c.scores;
  softmax_of(given.target + int64_t{node} * place.vocab, nullptr, place.vocab, place, place.p, s,
             team);
  softmax_of(given.chain + int64_t{node} * given.columns, given.ids, given.columns, place, place.q,
             s, team);
  return try_all(c, node, place, s, team);
}

// Decides at random which path of the chain is accepted, and draws y. Sets c.no_mass if rounding
// left an empty distribution. Does nothing for a sequence without the rule `rejection`.
template <class Team>
SBRT_ANY void walk_by_chance_op(Sequence& c, const Choice* choice, const Place& place,
                                AcceptScratch& s, Team team) {
  if (!is_rejection(c)) return;
  Outcome& out = c.outcome;
  if (team.rank == 0) c.no_mass = out.n = out.path[0] = 0;
  for (int node = 0, depth = 0;;) {
    const Choice own = choice[verified_before(c, node)];
    // The token must be valid even after an error, because the next round may already read it.
    Candidate taken{0, 0};
    if (!own.error) taken = decide(c, own.token, node, place, s, team);
    if (team.rank == 0) {
      out.node = node;
      out.n = depth;
      out.path[depth] = node;
      out.y = taken.token;
      out.error = own.error;
    }
    if (taken.node == 0) return;
    node = taken.node;
    ++depth;
    team.meet();  // all have read the candidates
  }
}

// Copies the scores of the nodes that move from the tail of branch `b` to the chain. A block of
// threads copies every kScoreBlocks-th node, from `block` on.
template <class Team>
SBRT_ANY void move_scores_op(const Sequence& c, int b, int block, Team team) {
  const Branch& branch = c.branches[b];
  const Scores& s = c.scores;
  for (int i = block; i <= c.chain.size; i += kScoreBlocks) {
    const int j = c.source[i];
    if (j < 0 || !branch.has_dist[j]) continue;
    const float* from = branch.in_place ? s.in_place + int64_t{j} * s.columns : s.tail(b, j);
    float* to = s.chain + int64_t{i} * s.columns;
    for (int32_t k = team.rank; k < s.columns; k += team.size) to[k] = from[k];
  }
}

}  // namespace sbrt
