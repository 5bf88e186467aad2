// The changes that `settle` makes to a sequence. A class `Kv` moves the lane's KV: RingKv does,
// NoKv leaves the moves to the lane's own ops. The code runs on every device.
#pragma once

#include "ops/counts.h"
#include "ops/philox.h"
#include "round/rows_op.h"

namespace sbrt {

// Moves nothing. Used for a lane whose own ops move KV.
struct NoKv {
  SBRT_ANY void compact(const Sequence&) const {}
  SBRT_ANY void move(const Sequence&, int, int, int) const {}
  SBRT_ANY void drop(const Sequence&, int64_t, Mask) const {}
  SBRT_ANY void drop_tails() const {}
};

template <class Kv>
SBRT_ANY void settle_target_op(const LaneSeat& args, const Kv& kv) {
  kv.compact(*args.sequence);
  kv.drop(*args.sequence, args.sequence->head, Mask::none());
}

// Advances draft_have over the nodes of the accepted path that the draft has processed.
SBRT_ANY inline void advance_trunk(Sequence& c) {
  const Outcome& o = c.outcome;
  if (c.draft_have == c.head - o.n - 1)
    for (int depth = 0; depth <= o.n && c.draft_nodes.has(o.path[depth]); ++depth) ++c.draft_have;
  c.draft_nodes = Mask::none();
}

// Appends the tokens of the outcome to the trunk in the draft's memory. Hashes and counts them
// there. If the draft sat out the rounds before this outcome, the host has sent their tokens.
SBRT_ANY inline void follow_trunk_op(const LaneSeat& args) {
  Sequence& c = *args.sequence;
  const int64_t first = c.head - c.outcome.n;
  SBRT_CHECK_ANY(most(c.followed, c.told) >= first, "draft lane: its trunk has ",
                 most(c.followed, c.told), " tokens, but the outcome adds those from ", first,
                 " on");
  for (; c.followed <= c.head; ++c.followed) {
    if (c.followed >= first) c.trunk[c.followed] = c.committed[c.followed - first];
    const int32_t token = c.trunk[c.followed];
    c.trunk_hash = extended(c.trunk_hash, token);
    const bool is_token = !c.outcome.error || c.followed < c.head;
    if (c.shaping.penalises && is_token) count_token(c.counts, token, true);
  }
}

// Moves the KV of the adopted tail, node by node, to the slots of the chain. The draft has not
// processed the nodes of its last step, so these nodes have no KV to move.
template <class Team, class Kv>
SBRT_ANY void move_tail(Sequence& c, int b, Team team, const Kv& kv) {
  const Branch& branch = c.branches[b];
  for (int i = team.rank; i <= c.chain.size; i += team.size) {
    const int j = c.source[i];
    if (j < 0 || !branch.has_dist[j]) continue;
    kv.move(c, b, j, i);
    c.chain_dist[i] = branch.dist[j];
  }
  if (team.rank == 0)
    for (int i = 0; i <= c.chain.size; ++i)
      if (c.source[i] >= 0 && branch.has_dist[c.source[i]]) c.draft_nodes = c.draft_nodes.with(i);
  team.meet();
}

template <class Team, class Kv>
SBRT_ANY void settle_draft_op(const LaneSeat& args, Team team, const Kv& kv) {
  Sequence& c = *args.sequence;
  if (team.rank == 0) {
    c.draft_compacts = c.draft_nodes.count() > 0;
    if (c.draft_compacts) kv.compact(c);
    advance_trunk(c);
  }
  team.meet();
  if (c.outcome.branch >= 0) move_tail(c, c.outcome.branch, team, kv);
  kv.drop(c, c.draft_have, c.draft_nodes);
  kv.drop_tails();
  missing_rows_op(args, team);
}

// Moves the KV of a serial burst to the slots of the chain, if the sequence had a burst. A draft
// that only drafts serially then has no work until its next burst.
template <class Team, class Kv>
SBRT_ANY void move_burst_op(const LaneSeat& args, Team team, const Kv& kv) {
  Sequence& c = *args.sequence;
  if (c.filled && c.policy.gamma > 0) missing_rows_op(args, team);  // `plan_certain` postponed them
  if (!awaits_burst(c)) return;
  if (!c.draft_idle) move_tail(c, 0, team, kv);
  kv.drop(c, c.draft_have, c.draft_nodes);
  if (c.policy.gamma > 0) {
    missing_rows_op(args, team);
  } else if (team.rank == 0) {
    args.rows->n = 0;
  }
}

}  // namespace sbrt
