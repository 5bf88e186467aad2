#include <algorithm>

#include "ops/exp.h"
#include "ops/philox.h"
#include "ops/shaping.h"
#include "spec/accept.h"
#include "spec/lanes.h"

namespace sbrt {
namespace {

// Greedy and coupled: a node stands if and only if it is the target's own token there.
Outcome walk(const Chain& chain, const Choice* choice) {
  Outcome out;
  out.node = out.n = out.path[0] = 0;
  out.branch = -1;
  for (;;) {
    out.error = choice[out.node].error;
    out.y = out.error ? 0 : choice[out.node].token;  // some token: a round ahead may read it
    const int next = out.error ? 0 : child(chain, out.node, out.y);
    if (next == 0) return out;
    out.node = next;
    out.path[++out.n] = next;
  }
}

int find_branch(const Control& c, const Outcome& o) {
  if (o.error) return -1;
  for (int b = 0; b < c.branch_count; ++b)
    if (c.branches[b].node == o.node && c.branches[b].token[0] == o.y) return b;
  return -1;
}

// Fits the exponent that makes the draft's confidence come true: one step up the gradient of the
// log-likelihood of the target's tokens, at every node of the accepted path.
void sharpen(Control& c) {
  constexpr float kRate = 0.05f, kLeast = 0.25f, kMost = 4.0f;
  const Outcome& o = c.outcome;
  for (int depth = 0; depth < (o.error ? o.n : o.n + 1); ++depth) {
    const int node = o.path[depth];
    const Law& law = c.chain_law[node];
    if (!c.draft_nodes.has(node)) continue;
    const int32_t y = depth < o.n ? c.chain.token[o.path[depth + 1]] : o.y;
    note_rank(c, c.head + depth + 1, law, y);
    if (law.n < 2) continue;
    const int rank = static_cast<int>(std::find(law.token, law.token + law.n - 1, y) - law.token);
    float mean = 0;
    for (int r = 0; r < law.n; ++r) mean += exp32(law.lp[r]) * law.lp[r];
    const float step = kRate * (law.lp[rank] - mean) / c.sharpness;
    c.sharpness = std::clamp(c.sharpness + std::clamp(step, -0.1f, 0.1f), kLeast, kMost);
  }
}

// What H-RAD says of the tail of the branch that was hit.
Cut cut_of(const SelectArgs& args, const Branch* tail) {
  const Control& c = *args.control;
  if (!args.features) return Cut::confident;
  read_features(*args.target, c.outcome.node, c.outcome.y, tail, args.features);
  if (!args.hrad || !c.policy.hrad) return Cut::confident;
  return args.hrad->classify(args.features, args.scratch);
}

// How many of the nodes, most likely first, make most tokens per time of the round that verifies
// them: (1 + sum of their probabilities) / length of the round.
int worth_their_rows(const Prices& prices, const Branch& branch, const int32_t* sorted, int n) {
  float tokens = 1, best = tokens / prices.round[1];
  const float given = branch.score[0];  // they are verified only if the walk came here
  int most = 0;
  for (int i = 0; i < n; ++i) {
    tokens += exp32(branch.score[sorted[i]] - given);
    const float rate = tokens / prices.round[i + 2];
    if (rate > best) best = rate, most = i + 1;
  }
  return most;
}

// Which nodes of a tail are worth verifying: those before which the draft was sure, that may still
// be emitted and, of more than `policy.nodes`, the most likely; with prices those that pay. The law
// at the cut is there already.
Mask worth_verifying(const Control& c, const Branch& branch, Cut cut, int64_t room) {
  int32_t kept[kMaxTail];
  int n = 0;
  Mask mask = Mask::none().with(0);
  if (cut == Cut::nothing) return mask;
  for (int j = 1; j <= branch.size; ++j) {
    const int parent = branch.parent[j];
    if (!mask.has(parent) || branch.level[j] > room) continue;
    if (cut == Cut::confident && !(branch.law[parent].q > c.policy.epsilon)) continue;
    mask = mask.with(j);
    kept[n++] = j;
  }
  if (n <= c.policy.nodes && !c.prices.known) return mask;
  // A node is never likelier than its parent, which comes first among equals: what stays is a tree.
  std::sort(kept, kept + n, [&](int32_t a, int32_t b) {
    return branch.score[a] != branch.score[b] ? branch.score[a] > branch.score[b] : a < b;
  });
  int most = std::min(n, c.policy.nodes);
  if (c.prices.known) most = worth_their_rows(c.prices, branch, kept, most);
  for (int i = most; i < n; ++i) mask = mask.without(kept[i]);
  return mask;
}

// One more node of the chain; nodes come after their parents.
int hang_node(Chain& chain, int parent, int32_t token) {
  const int i = ++chain.size;
  chain.token[i] = token;
  chain.parent[i] = parent;
  chain.level[i] = chain.level[parent] + 1;
  chain.mask[i] = chain.mask[parent].with(i);
  chain.depth = std::max(chain.depth, chain.level[i]);
  return i;
}

// The next chain below the root y: as much of the tail as is worth it, or nothing.
void hang_chain(Control& c, const Branch* branch, Cut cut, int64_t room) {
  c.chain.size = c.chain.depth = c.source[0] = 0;
  c.chain.drawn = 1;
  if (!branch) return;
  int32_t place[kMaxTail] = {};
  const Mask kept = worth_verifying(c, *branch, cut, room);
  for (int j = 1; j <= branch->size; ++j) {
    if (!kept.has(j)) continue;
    place[j] = hang_node(c.chain, place[branch->parent[j]], branch->token[j]);
    c.source[place[j]] = j;
  }
}

// The chain after a miss, without any draft: what followed the last time.
void hang_lookup(Control& c, int64_t room) {
  int32_t found[kMaxChain];
  const int want = static_cast<int>(std::clamp<int64_t>(c.policy.burst, 0, room));
  const int n = look_up(c.trunk, c.head + 1, want, found);
  for (int i = 0; i < n; ++i) hang_node(c.chain, i, found[i]);
  c.chain.drawn = 0;
}

// With every chain goes a token of the target's own.
int64_t room_below(const Control& c) { return std::max<int64_t>(0, c.limit - c.head - 2); }

// Drafted nodes that will not be verified or were no alternative on the way: of the burst, of the
// branches but what was adopted, and rejected siblings.
uint32_t discarded(const Control& c, int siblings, int adopted) {
  int drafted = c.lost + siblings;
  for (int b = 0; b < c.branch_count; ++b) drafted += c.branches[b].size;
  return static_cast<uint32_t>(drafted - adopted);
}

void put_record(Record& record, int64_t round, const Control& c, int depth, uint32_t lost) {
  const Outcome& o = c.outcome;
  record.put(0, round,
             static_cast<uint32_t>(depth | o.n << 8 | c.branch_count << 16 | (o.branch >= 0) << 24 |
                                   c.draft_idle << 25 | c.no_mass << 26 | o.error << 28));
  record.put(1, round, lost);
  for (int i = 0; i <= o.n; ++i)
    record.put(2 + i, round, static_cast<uint32_t>(c.trunk[c.head - o.n + i]));
}

// The trunk's new tokens: the accepted ones and, unless its row failed, y.
void count_committed(Control& c) {
  if (!c.shaping.penalises) return;
  const Outcome& o = c.outcome;
  const int64_t first = c.head - o.n;
  for (int i = 0; i < (o.error ? o.n : o.n + 1); ++i)
    count_token(c.counts, c.trunk[first + i], true);
}

}  // namespace

void select(const SelectArgs& args, Worker) {
  Control& c = *args.control;
  const int64_t round = ++*args.round;
  const int depth = c.chain.depth, siblings = c.chain.size - depth;
  c.no_mass = 0;
  c.outcome = is_rejection(c) ? walk_by_chance(c, args.place) : walk(c.chain, c.choice);
  const Outcome& o = c.outcome;
  sharpen(c);
  for (int i = 1; i <= o.n; ++i) c.trunk[c.head + i] = c.chain.token[o.path[i]];
  c.trunk[c.head + o.n + 1] = o.y;
  for (int i = 1; i <= o.n + 1; ++i) c.trunk_hash = extended(c.trunk_hash, c.trunk[c.head + i]);
  c.head += o.n + 1;
  c.chain.token[0] = o.y;
  count_committed(c);
  c.outcome.branch = find_branch(c, o);
  const bool hit = o.branch >= 0;
  const Branch* tail = hit ? &c.branches[o.branch] : nullptr;
  const Cut cut = o.error ? Cut::confident : cut_of(args, tail);
  hang_chain(c, tail, cut, room_below(c));
  const uint32_t lost = discarded(c, siblings, c.chain.size);
  if (!hit && c.policy.on_miss == kLookup && !o.error) hang_lookup(c, room_below(c));
  c.lost = 0;
  put_record(args.records->of(round), round, c, depth, lost);
}

void hang_burst(const SelectArgs& args, Worker) {
  Control& c = *args.control;
  const int drafted = c.branch_count > 0 ? c.branches[0].size : 0;
  hang_chain(c, c.branch_count > 0 ? &c.branches[0] : nullptr, Cut::confident, room_below(c));
  c.lost = drafted - c.chain.size;
  c.branch_count = 0;
}

}  // namespace sbrt
