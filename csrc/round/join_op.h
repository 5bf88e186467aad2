// Adds looked-up tokens to the drafted chain. The text that ends at a node is looked up in the trunk,
// and the tokens that followed there become new nodes. No lane has processed them; the draft reads
// them in its next catch-up. Runs on every device.
//
// Nodes are ranked by the probability that the walk reaches them. A look-up's probability is the share
// of look-ups with its kind of match that were right in this sequence, weighed against the draft's
// confidence.
//
// Under rejection a looked-up node is a candidate that was not drawn (round/accept_op.h). The decision to
// try it must not depend on its siblings or descendants, so only distributions and ancestors decide. A
// path takes the surer of look-up and draft at each node. A tree takes the tokens after the trunk's
// own match.
#pragma once

#include <cmath>

#include "ops/exp.h"
#include "ops/philox.h"
#include "round/chain.h"
#include "round/crew.h"
#include "round/lookup_op.h"

namespace sbrt {

constexpr int kSearches = 6;          // per chain
constexpr float kLeastReach = -1.9f;  // least log probability of a looked-up node
constexpr float kNoGain = -1e30f;

// Working memory of a join, shared by its team.
struct JoinScratch {
  Match match[kSlots];    // match of the text that ends at the node
  float drafted[kSlots];  // Chain::score before any look-up
  float gain[kSlots];     // score of the node that the look-up would add here, or kNoGain
  int searches;           // so far
  int known;              // nodes that look-ups have added or confirmed
  int left;               // drafted nodes in the chain
  int at;                 // newest node of a path; -1: the path has ended
};

// A chain and the data that rates its nodes.
struct Joining {
  Sequence& c;
  const Branch* branch;  // the chain was its tail; null: no branch
  int64_t room;          // levels that may be emitted
  JoinScratch& s;

  SBRT_ANY const Dist* dist(int node) const {
    const int j = branch && node <= s.left ? c.source[node] : -1;
    return j >= 0 && branch->has_dist[j] && branch->dist[j].n > 0 ? &branch->dist[j] : nullptr;
  }
};

SBRT_ANY inline float log_of(float p) {
  return static_cast<float>(log(static_cast<double>(most(p, 1e-30f))));
}

// Probability that a look-up by a match of `length` tokens is right. Sampled text repeats less.
SBRT_ANY inline float chance_of(const Sequence& c, int length) {
  constexpr float kBefore[kMatches] = {0.59f, 0.72f, 0.77f, 0.80f};  // at first
  constexpr float kWeight = 8;  // look-ups that kBefore counts for: a guess, as is kFading
  const int kind = least(length, kMatches) - 1;
  const float share = c.sampling.temperature > 0 ? 0.5f : 1.0f;
  const float right = c.hindsight.right[kind] + kWeight * share * kBefore[kind];
  return within(right / (c.hindsight.seen[kind] + kWeight), 0.02f, 0.98f);
}

// Probability that the token looked up after a node is right. Under the coupled rule the noise of a
// sampled token is known in advance. A token of probability p wins with probability exp(-wait (1 - p)
// / p), where `wait` is its own exponential noise.
SBRT_ANY inline float chance_at(const Sequence& c, int node) {
  const float p = chance_of(c, c.chain.match[node]);
  if (c.sampling.temperature == 0 || is_rejection(c)) return p;
  const auto token = static_cast<uint32_t>(c.chain.next[node]);
  const Noise noise{.seed = c.sampling.seed,
                    .completion = c.sampling.completion,
                    .use = kTarget,
                    .where = static_cast<uint64_t>(c.head + c.chain.level[node] + 1)};
  const uint32_t word = noise_words(noise, token / 4).w[token % 4];
  const auto wait = static_cast<float>(-log((word + 0.5) * 0x1p-32));
  return within(exp32(-(wait * (1.0f - p) / p)), 1e-6f, 0.98f);
}

// Compares, after a round, the look-ups along the accepted path with the tokens that were committed.
SBRT_ANY inline void recall(Sequence& c) {
  constexpr float kFading = 0.98f;
  const Outcome& o = c.outcome;
  for (int depth = 0; depth < (o.error ? o.n : o.n + 1); ++depth) {
    const int node = o.path[depth];
    if (c.chain.next[node] < 0) continue;
    const int32_t y = depth < o.n ? c.chain.token[o.path[depth + 1]] : o.y;
    const int kind = least(c.chain.match[node], kMatches) - 1;
    Hindsight& past = c.hindsight;
    past.right[kind] = past.right[kind] * kFading + (y == c.chain.next[node] ? 1.0f : 0.0f);
    past.seen[kind] = past.seen[kind] * kFading + 1.0f;
  }
}

// The text that ends at a node: its ancestors, then the trunk.
SBRT_ANY inline TextEnd end_at(const Sequence& c, int node) {
  TextEnd end;
  end.n = 0;
  for (; node > 0 && end.n < kLongestMatch; node = c.chain.parent[node])
    end.token[end.n++] = c.chain.token[node];
  for (int64_t p = c.head; p >= 0 && end.n < kLongestMatch; --p) end.token[end.n++] = c.trunk[p];
  return end;
}

// Returns the token at a position of the text that ends at `node`; it may be an ancestor's.
SBRT_ANY inline int32_t token_at(const Sequence& c, int node, int64_t position) {
  if (position <= c.head) return c.trunk[position];
  while (c.head + c.chain.level[node] > position) node = c.chain.parent[node];
  return c.chain.token[node];
}

SBRT_ANY inline void set_match(const Joining& join, int node, Match match) {
  Sequence& c = join.c;
  join.s.match[node] = match;
  c.chain.match[node] = match.length;
  c.chain.next[node] = match.length > 0 ? token_at(c, node, match.after) : -1;
}

// Returns the match of the next token, if the look-up was right.
SBRT_ANY inline Match going_on(const Match& match) {
  return {match.after + 1, least(match.length + 1, kLongestMatch)};
}

// Finds the match of a node. Searches are limited to the nodes that the walk most likely reaches.
template <class Team>
SBRT_ANY void find_match(const Joining& join, int node, Team team) {
  const Chain& chain = join.c.chain;
  const int parent = chain.parent[node];
  Match match{-1, 0};
  if (node > 0 && chain.next[parent] == chain.token[node]) {
    match = going_on(join.s.match[parent]);
  } else if (join.s.searches < kSearches && chain.score[node] >= kLeastReach) {
    const int64_t newest = node > 0 ? join.c.head : join.c.head - 1;
    match = best_match(join.c.trunk, newest, end_at(join.c, node), 1, team);
    if (team.rank == 0) ++join.s.searches;
  }
  if (team.rank == 0) set_match(join, node, match);
  team.meet();
}

// Appends a looked-up node and returns it.
SBRT_ANY inline int attach_known(const Joining& join, int parent, float score) {
  Chain& chain = join.c.chain;
  const int node = attach_node(chain, parent, chain.next[parent], score);
  chain.known = chain.known.with(node);
  join.c.source[node] = -1;
  set_match(join, node, going_on(join.s.match[parent]));
  return node;
}

// With prices, returns true if one more row after `size` nodes yields more tokens than those nodes
// yield in the same time. Always true under rejection, because the answer depends on siblings and
// descendants.
SBRT_ANY inline bool pays(const Sequence& c, int size, float score) {
  if (!c.prices.known || is_rejection(c)) return true;
  float tokens = 1;
  for (int i = 1; i <= size; ++i) tokens += exp32(c.chain.score[i]);
  const float* round = c.prices.round + size + 1;
  return exp32(score) * round[0] > tokens * (round[1] - round[0]);
}

// Combines two sources that agree: together they are right more often than either.
SBRT_ANY inline float agreed(float look_up, float drafted) {
  return log_of(1.0f - (1.0f - look_up) * (1.0f - exp32(drafted)));
}

// Returns the log probability of the token looked up after a node, given the draft's first choice
// there.
SBRT_ANY inline float promise(const Joining& join, int node) {
  const Chain& chain = join.c.chain;
  const float p = chance_at(join.c, node);
  const Dist* dist = join.dist(node);
  if (!dist) return log_of(p);
  if (dist->token[0] == chain.next[node]) return agreed(p, dist->lp[0]);
  const float q = exp32(dist->lp[0]), apart = p * (1.0f - q) / (1.0f - p * q);
  const int rank = first_of(dist->token, dist->n, chain.next[node]);
  return log_of(most(apart, rank < dist->n ? exp32(dist->lp[rank]) : 0.0f));
}

SBRT_ANY inline float gain_at(const Joining& join, int node) {
  const Chain& chain = join.c.chain;
  const bool is_open = chain.next[node] >= 0 && chain.level[node] < join.room &&
                       child(chain, node, chain.next[node]) == 0;
  return is_open ? chain.score[node] + promise(join, node) : kNoGain;
}

// Sets the score of a drafted node. Its parent's score is final.
SBRT_ANY inline void rescore(const Joining& join, int node) {
  Chain& chain = join.c.chain;
  const int parent = chain.parent[node];
  float own = join.s.drafted[node] - join.s.drafted[parent];
  if (chain.next[parent] == chain.token[node]) own = agreed(chance_at(join.c, parent), own);
  chain.score[node] = chain.score[parent] + own;
}

// Appends looked-up nodes in order of probability, to any parent.
SBRT_ANY inline void grow_known(const Joining& join) {
  Chain& chain = join.c.chain;
  for (int i = 0; i <= chain.size; ++i) join.s.gain[i] = gain_at(join, i);
  while (join.s.known < kMostFound && chain.size < kMaxChain) {
    int best = 0;
    for (int i = 1; i <= chain.size; ++i)
      if (join.s.gain[i] > join.s.gain[best]) best = i;
    const float score = join.s.gain[best];
    if (score < kLeastReach || !pays(join.c, chain.size, score)) return;
    const int node = attach_known(join, best, score);
    join.s.gain[best] = kNoGain;
    join.s.gain[node] = gain_at(join, node);
    ++join.s.known;
  }
}

// Joins a tree, which keeps drafted and looked-up nodes.
template <class Team>
SBRT_ANY void join_tree(const Joining& join, Team team) {
  find_match(join, 0, team);
  for (int node = 1; node <= join.s.left; ++node) {
    if (team.rank == 0) rescore(join, node);
    team.meet();
    find_match(join, node, team);
  }
  if (team.rank == 0) grow_known(join);
}

// Joins a tree under rejection: appends the tokens after the trunk's own match.
SBRT_ANY inline void join_line(const Joining& join) {
  Chain& chain = join.c.chain;
  for (int at = 0; join.s.known < kMostFound; ++join.s.known) {
    if (chain.next[at] < 0 || chain.level[at] >= join.room) return;
    const float score = chain.score[at] + log_of(chance_at(join.c, at));
    if (score < kLeastReach) return;
    const int drafted = child(chain, at, chain.next[at]);
    if (drafted == 0) {
      at = attach_known(join, at, score);
      continue;
    }
    chain.known = chain.known.with(drafted);
    chain.score[drafted] = score;
    set_match(join, drafted, going_on(join.s.match[at]));
    at = drafted;
  }
}

// Drops the drafted nodes of a path after `node`.
SBRT_ANY inline void cut_after(const Joining& join, int node) {
  join.c.chain.size = join.s.left = node;
  join.c.chain.depth = join.c.chain.level[node];
}

// Returns the node after `at` on a path: the draft's, or the look-up's if that is surer; -1 if there
// is none.
SBRT_ANY inline int next_on_path(const Joining& join, int at) {
  Sequence& c = join.c;
  Chain& chain = c.chain;
  JoinScratch& s = join.s;
  const int drafted = at < s.left ? at + 1 : 0;
  const float own = drafted > 0 ? s.drafted[drafted] - s.drafted[at] : kNoGain;
  if (drafted > 0) chain.score[drafted] = chain.score[at] + own;
  const int otherwise = drafted > 0 ? drafted : -1;
  if (chain.next[at] < 0) return otherwise;
  const float p = chance_at(c, at), score = chain.score[at] + log_of(p);
  const bool agrees = drafted > 0 && chain.token[drafted] == chain.next[at];
  if (agrees && !is_rejection(c)) {
    chain.score[drafted] = chain.score[at] + agreed(p, own);
    return drafted;
  }
  const bool fits =
      score >= kLeastReach && chain.level[at] < join.room && s.known < kMostFound && at < kMaxChain;
  if (!fits || own >= log_of(p)) return otherwise;
  if (!agrees) {
    if (!pays(c, at, score)) return otherwise;
    ++s.known;
    if (drafted > 0) cut_after(join, at);
    return attach_known(join, at, score);
  }
  ++s.known;
  chain.known = chain.known.with(drafted);
  chain.score[drafted] = score;
  return drafted;
}

template <class Team>
SBRT_ANY void join_path(const Joining& join, Team team) {
  for (int at = 0; at >= 0;) {
    if (at <= join.s.left) find_match(join, at, team);  // attach_known() did it for the others
    if (team.rank == 0) join.s.at = next_on_path(join, at);
    team.meet();
    at = join.s.at;
    team.meet();
  }
}

// Joins look-ups to the chain made from `branch` (null: none). Returns the number of drafted nodes.
template <class Team>
SBRT_ANY int join_found(Sequence& c, const Branch* branch, int64_t room, JoinScratch& s,
                        Team team) {
  const int drafted = c.chain.size;
  if (!c.policy.lookup) return drafted;
  if (team.rank == 0) {
    s.searches = s.known = 0;
    s.left = drafted;
    for (int i = 0; i <= drafted; ++i) s.drafted[i] = c.chain.score[i];
  }
  team.meet();
  const Joining join{c, branch, room, s};
  if (makes_paths(c.policy)) {
    join_path(join, team);
  } else if (!is_rejection(c)) {
    join_tree(join, team);
  } else {
    find_match(join, 0, team);
    if (team.rank == 0) join_line(join);
  }
  team.meet();
  return s.left;
}

}  // namespace sbrt
