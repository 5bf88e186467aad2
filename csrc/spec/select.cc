#include <algorithm>

#include "ops/shaping.h"
#include "spec/lanes.h"

namespace sbrt {
namespace {

// The child of `node` that holds `token`, or 0.
int child(const Chain& chain, int node, int32_t token) {
  for (int i = node + 1; i <= chain.size; ++i)
    if (chain.parent[i] == node && chain.token[i] == token) return i;
  return 0;
}

// Greedy and coupled: a node stands if and only if it is the target's own token there.
Outcome walk(const Chain& chain, const Choice* choice) {
  Outcome out;
  out.node = out.n = out.path[0] = 0;
  out.branch = -1;
  for (;;) {
    out.y = choice[out.node].token;
    out.error = choice[out.node].error;
    const int next = out.error ? 0 : child(chain, out.node, out.y);
    if (next == 0) return out;
    out.node = next;
    out.path[++out.n] = next;
  }
}

int find_branch(const Control& c, const Outcome& o) {
  if (o.error || c.policy.serial) return -1;
  for (int b = 0; b < c.branch_count; ++b)
    if (c.branches[b].node == o.node && c.branches[b].token[0] == o.y) return b;
  return -1;
}

// How much of a tail is worth verifying: nodes while the draft was sure of them. H-RAD decides here
// too, with the target's newest features; the law at the cut is there already.
int confident(const Branch& branch, float epsilon) {
  int kept = 0;
  while (kept < branch.size && branch.law[kept].q[0] > epsilon) ++kept;
  return kept;
}

// Chain r + 1: the root y, then as much of the tail as is kept and may still be emitted.
void hang_chain(Control& c, const Branch* branch) {
  Chain& chain = c.chain;
  const int64_t room = c.limit - (c.head + 1) - 1;
  chain.size = 0;
  if (branch) {
    const int64_t kept = std::min<int64_t>(confident(*branch, c.policy.epsilon), room);
    chain.size = static_cast<int>(std::clamp<int64_t>(kept, 0, kMaxChain));
  }
  c.adopted = chain.depth = chain.size;
  for (int i = 0; i <= chain.size; ++i) {
    if (i > 0) chain.token[i] = branch->token[i];
    chain.parent[i] = i - 1;
    chain.level[i] = i;
    chain.mask[i] = Mask::upto(i + 1);
  }
}

uint32_t discarded(const Control& c, int adopted) {
  int drafted = 0;
  for (int b = 0; b < c.branch_count; ++b) drafted += c.branches[b].size;
  return static_cast<uint32_t>(drafted - adopted);
}

void put_record(Record& record, int64_t round, const Control& c, int depth, uint32_t lost) {
  const Outcome& o = c.outcome;
  const int branches = c.policy.serial ? 0 : c.branch_count;
  record.put(0, round,
             static_cast<uint32_t>(depth | o.n << 8 | branches << 16 | (o.branch >= 0) << 24 |
                                   c.draft_idle << 25 | o.error << 28));
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
  const int depth = c.chain.depth;
  c.outcome = walk(c.chain, c.choice);
  const Outcome& o = c.outcome;
  for (int i = 1; i <= o.n; ++i) c.trunk[c.head + i] = c.chain.token[o.path[i]];
  c.head += o.n + 1;
  c.trunk[c.head] = o.y;
  c.chain.token[0] = o.y;
  count_committed(c);
  const int certain = c.policy.serial ? c.adopted : 0;
  c.outcome.branch = find_branch(c, o);
  hang_chain(c, o.branch < 0 ? nullptr : &c.branches[o.branch]);
  put_record(args.records->of(round), round, c, depth, discarded(c, c.adopted + certain));
}

void adopt_certain(const SelectArgs& args, Worker) {
  Control& c = *args.control;
  hang_chain(c, c.branch_count > 0 ? &c.branches[0] : nullptr);
}

}  // namespace sbrt
