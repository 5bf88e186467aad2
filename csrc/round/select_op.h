// Decides the outcome of a round, and builds the next chain. The code runs on every device.
#pragma once

#include "ops/counts.h"
#include "ops/exp.h"
#include "ops/philox.h"
#include "round/chain.h"
#include "round/join_op.h"
#include "round/op_args.h"
#include "round/crew.h"
#include "state/record.h"

namespace sbrt {

// Walks down the chain under the rules `greedy` and `coupled`. A node is accepted if it was
// verified and its token is the one that the target sampled there.
SBRT_ANY inline void walk(const Sequence& c, const Choice* choice, Outcome& out) {
  out.node = out.n = out.path[0] = 0;
  for (;;) {
    const Choice& own = choice[verified_before(c, out.node)];
    out.error = own.error;
    // After an error y is 0, a valid token, because the next round may already be in flight and
    // read y.
    out.y = out.error ? 0 : own.token;
    const int next = out.error ? 0 : child(c.chain, out.node, out.y);
    if (next == 0 || !c.verified.has(next)) return;
    out.node = next;
    out.path[++out.n] = next;
  }
}

// Returns the first branch for the outcome `o`, or -1 if there is none. The members of the team
// divide the branches among themselves, because loading branches from memory is slow.
template <class Team>
SBRT_ANY int find_branch(const Sequence& c, const Outcome& o, Team team) {
  uint64_t key = 0;
  for (int b = team.rank; b < c.branch_count && !o.error; b += team.size)
    if (c.branches[b].node == o.node && c.branches[b].token[0] == o.y)
      key = most(key, key_of(0, static_cast<uint32_t>(b)));
  key = team.best(key);
  return key == 0 ? -1 : static_cast<int>(place_of(key));
}

// Updates the exponent that calibrates the draft's confidence: for every node of the accepted path,
// one step up the gradient of the log-likelihood of the target's token.
SBRT_ANY inline void sharpen(Sequence& c) {
  constexpr float kRate = 0.05f, kLeast = 0.25f, kMost = 4.0f;
  const Outcome& o = c.outcome;
  for (int depth = 0; depth < (o.error ? o.n : o.n + 1); ++depth) {
    const int node = o.path[depth];
    const Dist& dist = c.chain_dist[node];
    if (!c.draft_nodes.has(node)) continue;
    const int32_t y = depth < o.n ? c.chain.token[o.path[depth + 1]] : o.y;
    note_rank(c, c.head + depth + 1, dist, y);
    if (dist.n < 2) continue;
    const int rank = first_of(dist.token, dist.n - 1, y);
    float mean = 0;
    for (int r = 0; r < dist.n; ++r) mean += exp32(dist.lp[r]) * dist.lp[r];
    const float step = kRate * (dist.lp[rank] - mean) / c.sharpness;
    c.sharpness = within(c.sharpness + within(step, -0.1f, 0.1f), kLeast, kMost);
  }
}

// Counts the new tokens of the trunk: the accepted tokens and y. If sampling y failed, y is not
// counted.
SBRT_ANY inline void count_committed(Sequence& c) {
  if (!c.shaping.penalises) return;
  const Outcome& o = c.outcome;
  const int64_t first = c.head - o.n;
  for (int i = 0; i < (o.error ? o.n : o.n + 1); ++i)
    count_token(c.counts, c.trunk[first + i], true);
}

// Runs after the walk. Appends the outcome's tokens to the trunk and moves the root.
SBRT_ANY inline void commit_outcome(Sequence& c) {
  const Outcome& o = c.outcome;
  sharpen(c);
  recall(c);
  for (int i = 1; i <= o.n; ++i) c.committed[i - 1] = c.chain.token[o.path[i]];
  c.committed[o.n] = o.y;
  for (int i = 0; i <= o.n; ++i) {
    c.trunk[c.head + i + 1] = c.committed[i];
    c.trunk_hash = extended(c.trunk_hash, c.committed[i]);
  }
  c.head += o.n + 1;
  c.chain.token[0] = o.y;
  count_committed(c);
  c.cut = Cut::confident;
}

// Runs after commit_outcome. Sets outcome.branch to the branch that was hit, or to -1.
template <class Team>
SBRT_ANY void adopt_branch(Sequence& c, Team team) {
  const int branch = find_branch(c, c.outcome, team);
  team.meet();
  if (team.rank == 0) c.outcome.branch = branch;
}

// Decides the outcome and commits it. Under the rule `rejection`, `walk_by_chance` has decided the
// outcome before.
template <class Team>
SBRT_ANY void select_op(const SelectSeat& args, Team team) {
  Sequence& c = *args.sequence;
  if (team.rank == 0) {
    if (!is_rejection(c)) {
      c.no_mass = 0;
      walk(c, args.choice, c.outcome);
    }
    commit_outcome(c);
  }
  team.meet();
  adopt_branch(c, team);
}

// Returns how many of the n nodes in `sorted`, most likely first, should be verified. The number
// maximises tokens per time: (1 + sum of the nodes' probabilities) / time of the round.
SBRT_ANY inline int worth_their_rows(const Prices& prices, const Branch& branch,
                                     const uint64_t* sorted, int n) {
  float tokens = 1, best = tokens / prices.round[1];
  // Divides probabilities by that of the outcome, because the outcome has happened.
  const float given = branch.score[0];
  int worth = 0;
  for (int i = 0; i < n; ++i) {
    tokens += exp32(branch.score[place_of(sorted[i])] - given);
    const float rate = tokens / prices.round[i + 2];
    if (rate > best) best = rate, worth = i + 1;
  }
  return worth;
}

// Working memory of `attach_chain`.
struct SelectScratch {
  uint64_t key[kMaxTail], sorted[kMaxTail];
  int drafted[kMaxBranches];  // [branches] number of drafted nodes of each branch
  JoinScratch join;
};

// Returns the set of the nodes of a tail that are worth verifying. The draft must have been
// confident at the parent of a node, and no node may be deeper than `room`. If there are more nodes
// than the policy allows, only the most likely ones are kept. With prices, only nodes that are
// worth their rows are kept.
SBRT_ANY inline Mask worth_verifying(const Sequence& c, const Branch& branch, Cut cut, int64_t room,
                                     SelectScratch& s) {
  int n = 0;
  Mask mask = Mask::none().with(0);
  if (cut == Cut::nothing) return mask;
  for (int j = 1; j <= branch.size; ++j) {
    const int parent = branch.parent[j];
    if (!mask.has(parent) || branch.level[j] > room) continue;
    if (cut == Cut::confident && !(branch.dist[parent].q > c.policy.epsilon)) continue;
    mask = mask.with(j);
    s.key[n++] = key_of(branch.score[j], static_cast<uint32_t>(j));
  }
  const int wanted = most_drafted(c.policy);
  if (n <= wanted && !c.prices.known) return mask;
  // The kept nodes form a tree: a node is never more likely than its parent, and among equally
  // likely nodes the parent comes first.
  best_first(Alone{}, s.key, n, n, s.sorted);
  int kept = least(n, wanted);
  if (c.prices.known) kept = worth_their_rows(c.prices, branch, s.sorted, kept);
  for (int i = kept; i < n; ++i) mask = mask.without(static_cast<int>(place_of(s.sorted[i])));
  return mask;
}

// Makes the next chain after the new root y: the nodes of the tail that are worth verifying.
// Without a branch the chain is empty.
SBRT_ANY inline void attach_tail(Sequence& c, const Branch* branch, Cut cut, int64_t room,
                                 SelectScratch& s) {
  c.chain.size = c.chain.depth = 0;
  c.source[0] = branch ? 0 : -1;
  c.chain.known = Mask::none();
  c.chain.next[0] = -1;
  if (!branch) return;
  int32_t place[kMaxTail] = {};
  const Mask kept = worth_verifying(c, *branch, cut, room, s);
  for (int j = 1; j <= branch->size; ++j) {
    if (!kept.has(j)) continue;
    const float score = branch->score[j] - branch->score[0];
    place[j] = attach_node(c.chain, place[branch->parent[j]], branch->token[j], score);
    c.source[place[j]] = j;
  }
}

// Returns the largest depth that the next chain may have. A chain of depth d can commit d + 1
// tokens.
SBRT_ANY inline int64_t room_below(const Sequence& c) {
  return most<int64_t>(0, c.limit - c.head - 2);
}

// Makes the next chain without a draft, after a miss. Its nodes are the tokens that follow the
// match in the trunk; `after` is the position of the first one.
SBRT_ANY inline void attach_found(Sequence& c, int64_t after) {
  int32_t found[kMaxChain];
  const int want = static_cast<int>(within<int64_t>(c.policy.burst, 0, room_below(c)));
  const int n = after < 0 ? 0 : want;
  read_on(c.trunk, c.head + 1, after, n, found);
  constexpr float kFound = -0.5f;  // assumed log probability of each looked-up token
  for (int i = 0; i < n; ++i) attach_node(c.chain, i, found[i], kFound * static_cast<float>(i + 1));
  c.chain.known = Mask::upto(n + 1).without(0);
}

// Returns the number of drafted nodes that were discarded: nodes of the last serial burst that did
// not enter the chain, nodes of branches that were not adopted, and rejected siblings.
SBRT_ANY inline uint32_t discarded(const Sequence& c, const SelectScratch& s, int siblings,
                                   int adopted) {
  int drafted = c.lost + siblings;
  for (int b = 0; b < c.branch_count; ++b) drafted += s.drafted[b];
  return static_cast<uint32_t>(drafted - adopted);
}

SBRT_ANY inline void put_record(const SelectSeat& args, int depth, uint32_t lost) {
  const Sequence& c = *args.sequence;
  const Outcome& o = c.outcome;
  Record& record = *args.record;
  record.put(0, args.round,
             static_cast<uint32_t>(depth | o.n << 8 | c.branch_count << 16 | (o.branch >= 0) << 24 |
                                   c.draft_idle << 25 | c.no_mass << 26 | o.error << 28));
  const auto lacking = within<int64_t>(c.head - c.draft_have, 0, kMostLacking);
  record.put(1, args.round, lost | static_cast<uint32_t>(lacking) << kDiscardedBits);
  for (int i = 0; i <= o.n; ++i)
    record.put(2 + i, args.round, static_cast<uint32_t>(c.trunk[c.head - o.n + i]));
}

// Returns 1 if, after a miss, the looked-up tokens are likely enough to be verified without a
// serial burst. Otherwise returns 0.
SBRT_ANY inline int is_filled(const Sequence& c) {
  if (!c.policy.lookup || c.chain.size == 0 || c.chain.match[0] == 0) return 0;
  return is_good(c.chain.match[0], chance_at(c, 0));
}

// Runs after `select` and H-RAD. Makes the next chain, then writes the record.
template <class Team>
SBRT_ANY void attach_chain_op(const SelectSeat& args, SelectScratch& scratch, Team team) {
  Sequence& c = *args.sequence;
  const int depth = c.chain.depth, siblings = c.chain.size - depth;
  const bool hit = c.outcome.branch >= 0;
  const bool looks_up = !hit && c.policy.on_miss == kLookup && !c.policy.lookup && !c.outcome.error;
  const int64_t after = looks_up ? after_match(c.trunk, c.head + 1, team) : -1;
  for (int b = team.rank; b < c.branch_count; b += team.size)
    scratch.drafted[b] = c.branches[b].size;
  const Branch* branch = hit ? &c.branches[c.outcome.branch] : nullptr;
  if (team.rank == 0) attach_tail(c, branch, c.cut, room_below(c), scratch);
  team.meet();
  const int adopted = join_found(c, branch, room_below(c), scratch.join, team);
  if (team.rank != 0) return;
  const uint32_t lost = discarded(c, scratch, siblings, adopted);
  if (looks_up) attach_found(c, after);
  c.filled = !hit && is_filled(c);
  c.lost = 0;
  put_record(args, depth, lost);
}

// Makes the chain from the serial burst, if the sequence had a burst.
template <class Team>
SBRT_ANY void attach_burst_op(Sequence& c, SelectScratch& scratch, Team team) {
  if (!awaits_burst(c)) return;
  const Branch* branch = c.branch_count > 0 ? &c.branches[0] : nullptr;
  const int drafted = branch ? branch->size : 0;
  if (team.rank == 0) attach_tail(c, branch, Cut::confident, room_below(c), scratch);
  team.meet();
  const int adopted = join_found(c, branch, room_below(c), scratch.join, team);
  if (team.rank != 0) return;
  c.lost = drafted - adopted;
  c.branch_count = 0;
}

}  // namespace sbrt
