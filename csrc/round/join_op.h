// Adds looked-up tokens to the drafted chain. A look-up takes the text that ends at a node, and
// finds an earlier place in the trunk with the same tokens. The tokens that follow this place
// become new nodes. No lane has processed the new nodes; the draft processes them in its next
// catch-up. The code runs on every device.
//
// Nodes are ranked by the probability that `select` reaches them. To estimate it for a looked-up
// token, earlier look-ups of this sequence with the same kind of match are counted. The estimate is
// the share of them that were right. It is compared with the draft's confidence.
//
// Under the rule `rejection`, a looked-up node is a candidate that was not drawn
// (round/accept_op.h). The decision to try it must not depend on its siblings or descendants. So
// only distributions and ancestors enter the decision. On a path, each node gets the looked-up or
// the drafted token, whichever is more probable. A tree gets the tokens that follow the match of
// the trunk's end.
#pragma once

#include <cmath>

#include "ops/exp.h"
#include "ops/philox.h"
#include "round/chain.h"
#include "round/crew.h"
#include "round/lookup_op.h"

namespace sbrt {

constexpr int kSearches = 6;          // largest number of searches for one chain
constexpr float kLeastReach = -1.9f;  // lowest log probability at which a looked-up node is added
constexpr float kNoGain = -1e30f;

// Working memory of a join. The members of a team share it.
struct JoinScratch {
  Match match[kSlots];    // [node] match of the text that ends at the node
  float drafted[kSlots];  // Chain::score before any look-up
  float gain[kSlots];     // score of a new looked-up node after this node, or kNoGain
  int searches;           // number of searches so far
  int known;              // number of nodes that look-ups have added or confirmed so far
  int left;               // number of drafted nodes in the chain
  int at;                 // newest node of a path; -1: the path has ended
};

// A chain to which look-ups are added, with the data from which nodes are rated.
struct Joining {
  Sequence& c;
  const Branch* branch;  // branch whose tail became the chain; null: none
  int64_t room;          // largest depth that the chain may have
  JoinScratch& s;

  SBRT_ANY const Dist* dist(int node) const {
    const int j = branch && node <= s.left ? c.source[node] : -1;
    return j >= 0 && branch->has_dist[j] && branch->dist[j].n > 0 ? &branch->dist[j] : nullptr;
  }
};

SBRT_ANY inline float log_of(float p) {
  return static_cast<float>(log(static_cast<double>(most(p, 1e-30f))));
}

// Returns the probability that a look-up is right if its match has `length` tokens. past: the
// look-ups of this sequence so far. The share that is assumed before any look-up is halved for
// sampled text, which repeats less than greedy text.
SBRT_ANY inline float chance_of(const Hindsight& past, int length, bool is_sampled) {
  constexpr float kBefore[kMatches] = {0.59f, 0.72f, 0.77f, 0.80f};  // assumed before any look-up
  // kBefore has as much weight as this number of look-ups. kWeight and kFading are guesses.
  constexpr float kWeight = 8;
  const int kind = least(length, kMatches) - 1;
  const float right = past.right[kind] + kWeight * (is_sampled ? 0.5f : 1.0f) * kBefore[kind];
  return within(right / (past.seen[kind] + kWeight), 0.02f, 0.98f);
}

SBRT_ANY inline float chance_of(const Sequence& c, int length) {
  return chance_of(c.hindsight, length, c.sampling.temperature > 0);
}

// Counts a look-up whose match has `length` tokens.
SBRT_ANY inline void count_look_up(Hindsight& past, int length, bool is_right) {
  constexpr float kFading = 0.98f;
  const int kind = least(length, kMatches) - 1;
  past.right[kind] = past.right[kind] * kFading + (is_right ? 1.0f : 0.0f);
  past.seen[kind] = past.seen[kind] * kFading + 1.0f;
}

// Returns true if the looked-up tokens after a root are likely enough to be verified without a
// serial burst. length: the length of the match. chance: the probability that the first looked-up
// token is right.
SBRT_ANY inline bool is_good(int length, float chance) {
  constexpr int kGood = 2;        // smallest length of the match, in tokens
  constexpr float kSure = 0.65f;  // lowest probability of the looked-up token
  return length >= kGood && chance >= kSure;
}

// Returns the probability that the token looked up after a node is right. Under the rule `coupled`,
// the sampling noise is known in advance. A token of probability p is then sampled with probability
// exp(-wait (1 - p) / p). `wait` is the token's exponential noise, -log u.
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

// Runs after the walk of a round. Compares the look-ups along the accepted path with the committed
// tokens, and updates c.hindsight.
SBRT_ANY inline void recall(Sequence& c) {
  const Outcome& o = c.outcome;
  for (int depth = 0; depth < (o.error ? o.n : o.n + 1); ++depth) {
    const int node = o.path[depth];
    if (c.chain.next[node] < 0) continue;
    const int32_t y = depth < o.n ? c.chain.token[o.path[depth + 1]] : o.y;
    count_look_up(c.hindsight, c.chain.match[node], y == c.chain.next[node]);
  }
}

// Returns the last tokens of the text that ends at a node: the tokens of the node and its
// ancestors, preceded by trunk tokens.
SBRT_ANY inline TextEnd end_at(const Sequence& c, int node) {
  TextEnd end;
  end.n = 0;
  for (; node > 0 && end.n < kLongestMatch; node = c.chain.parent[node])
    end.token[end.n++] = c.chain.token[node];
  for (int64_t p = c.head; p >= 0 && end.n < kLongestMatch; --p) end.token[end.n++] = c.trunk[p];
  return end;
}

// Returns the token at `position` of the text that ends at `node`: a trunk token, or the token of
// `node` or an ancestor.
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

// Returns the match of a text after its looked-up token was appended to it.
SBRT_ANY inline Match going_on(const Match& match) {
  return {match.after + 1, least(match.length + 1, kLongestMatch)};
}

// Finds the match of the text that ends at a node. To save time, at most kSearches searches are
// made for a chain. Only nodes that the walk is likely to reach get a search.
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

// Appends a looked-up node after `parent` to the chain. Returns the index of the new node.
SBRT_ANY inline int attach_known(const Joining& join, int parent, float score) {
  Chain& chain = join.c.chain;
  const int node = attach_node(chain, parent, chain.next[parent], score);
  chain.known = chain.known.with(node);
  join.c.source[node] = -1;
  set_match(join, node, going_on(join.s.match[parent]));
  return node;
}

// Returns true if a node with this score is worth one more row after `size` nodes. This means that
// the additional row yields more tokens per time than the rows before it. Without prices the result
// is always true. Under the rule `rejection` it is always true, too, because the decision may not
// depend on other nodes.
SBRT_ANY inline bool pays(const Sequence& c, int size, float score) {
  if (!c.prices.known || is_rejection(c)) return true;
  float tokens = 1;
  for (int i = 1; i <= size; ++i) tokens += exp32(c.chain.score[i]);
  const float* round = c.prices.round + size + 1;
  return exp32(score) * round[0] > tokens * (round[1] - round[0]);
}

// Returns the log probability that a token is right if the look-up and the draft propose the same
// token. Such a token is right more often than a token that only one of them proposes.
SBRT_ANY inline float agreed(float look_up, float drafted) {
  return log_of(1.0f - (1.0f - look_up) * (1.0f - exp32(drafted)));
}

// Returns the log probability that the token looked up after a node is right. The draft's
// distribution after the node, if there is one, enters the estimate.
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

// Sets the final score of a drafted node. The score of its parent must be final.
SBRT_ANY inline void rescore(const Joining& join, int node) {
  Chain& chain = join.c.chain;
  const int parent = chain.parent[node];
  float own = join.s.drafted[node] - join.s.drafted[parent];
  if (chain.next[parent] == chain.token[node]) own = agreed(chance_at(join.c, parent), own);
  chain.score[node] = chain.score[parent] + own;
}

// Appends looked-up nodes, most likely first. A new node may follow any node of the chain.
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

// Adds look-ups to a tree. All drafted nodes stay.
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

// Adds look-ups to a tree under the rule `rejection`. Only the tokens that follow the match of the
// trunk's end are appended.
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

// Drops the drafted nodes of a path that come after `node`.
SBRT_ANY inline void cut_after(const Joining& join, int node) {
  join.c.chain.size = join.s.left = node;
  join.c.chain.depth = join.c.chain.level[node];
}

// Returns the node after `at` on a path: the drafted node, or a new looked-up node if that is more
// probable. Returns -1 if there is neither.
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
    // Nodes beyond join.s.left are looked-up nodes; attach_known() has set their matches.
    if (at <= join.s.left) find_match(join, at, team);
    if (team.rank == 0) join.s.at = next_on_path(join, at);
    team.meet();
    at = join.s.at;
    team.meet();
  }
}

// Adds look-ups to the chain, which was made from the tail of `branch`. Null: there is no branch
// and the chain is empty. Returns the number of drafted nodes that stay in the chain.
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
