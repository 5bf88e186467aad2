// Lists the rows of the next forward. The code runs on every device.
#pragma once

#include "round/chain.h"
#include "round/op_args.h"
#include "round/crew.h"

namespace sbrt {

// Returns the row for a trunk token that the lane has not processed. i: `position` minus
// RowList::head.
SBRT_ANY inline Row trunk_row(const LaneSeat& args, int64_t position, int i) {
  const auto slot = static_cast<int32_t>(args.shape.slot(args.seat, position));
  const int32_t token = args.sequence->trunk[position];
  const auto seat = static_cast<int16_t>(args.seat);
  return {position, token, slot, -1, -1, seat, Mask::upto(i + 1), Mask::none()};
}

// Returns the row for a chain node. The head of the row list is `lag` tokens before the root.
SBRT_ANY inline Row chain_row(const LaneSeat& args, int node, int lag) {
  const Sequence& c = *args.sequence;
  return {c.head + c.chain.level[node],
          c.chain.token[node],
          static_cast<int32_t>(args.shape.slot(args.seat, c.head + node)),
          -1,
          static_cast<int16_t>(node),
          static_cast<int16_t>(args.seat),
          c.chain.mask[node].after(lag),
          Mask::none()};
}

// Returns `row` for a forward of the draft. A token outside the draft's vocabulary is replaced by
// token 0.
SBRT_ANY inline Row for_draft(const Sequence& c, Row row) {
  if (row.token >= c.draft_vocab) row.token = 0;
  return row;
}

// Returns the row in which the draft processes node number `node` of a branch.
SBRT_ANY inline Row node_row(const LaneSeat& args, int branch, int node) {
  const Sequence& c = *args.sequence;
  const Branch& b = c.branches[branch];
  const int64_t first = b.in_place ? c.head : c.head + c.chain.level[b.node] + 1;
  const int lag = static_cast<int>(c.head - args.rows->head);
  const int64_t slot = b.in_place ? args.shape.slot(args.seat, c.head + node)
                                  : args.shape.tail(args.seat, branch, node);
  return for_draft(c, {first + b.level[node], b.token[node], static_cast<int32_t>(slot), branch,
                       static_cast<int16_t>(node), static_cast<int16_t>(args.seat),
                       b.in_place ? b.mask[node].after(lag) : c.chain.mask[b.node],
                       b.in_place ? Mask::none() : b.mask[node]});
}

// Lists the rows of prompt tokens from position `have` on, at most max_rows, and advances `have`.
// Prefill does not process the last prompt token, which is the root. Masks cover only the in-flight
// slots. So a forward of more rows than these slots does not read masks.
template <class Team>
SBRT_ANY void prompt_rows_op(const LaneSeat& args, int64_t& have, Team team) {
  const Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  const int64_t from = have;
  const int n = static_cast<int>(least<int64_t>(args.max_rows, c.head - from));
  const bool is_draft = args.dists != nullptr;
  team.meet();
  for (int i = team.rank; i < n; i += team.size) {
    const Row row = trunk_row(args, from + i, i);
    rows.row[i] = is_draft ? for_draft(c, row) : row;
  }
  if (team.rank != 0) return;
  rows.head = from;
  rows.n = n;
  have = from + n;
}

template <class Team>
SBRT_ANY void target_rows_op(const LaneSeat& args, Team team) {
  const Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  for (int i = team.rank; i <= c.chain.size; i += team.size) rows.row[i] = chain_row(args, i, 0);
  if (team.rank != 0) return;
  rows.head = c.head;
  rows.n = c.chain.size + 1;
}

// Lists the rows of trunk and chain tokens that the draft has not processed. If the draft's context
// has no room left, there are no rows. A serial draft then never gets room again. A draft that
// overlaps the target may get room after a miss.
template <class Team>
SBRT_ANY void missing_rows_op(const LaneSeat& args, Team team) {
  const Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  // The draft can process only as many tokens as there are in-flight slots. It may lack more tokens
  // if seats share few rows, or after a long chain of looked-up tokens.
  const bool is_near = c.head - c.draft_have + c.chain.size < kSlots;
  const bool fits = c.policy.gamma > 0 ? chain_fits(c) : serial_burst_fits(c);
  SBRT_CHECK_ANY(!fits || is_near || args.max_rows < kSlots || c.policy.lookup,
                 "draft lane: ", c.head - c.draft_have, " tokens behind the trunk");
  const bool follows = fits && is_near;
  // Trunk tokens that are fed to the draft are in in-flight slots, too.
  const int64_t head = least(c.draft_have, c.head);
  const int lag = static_cast<int>(least<int64_t>(c.head - head, kSlots));
  const Mask missing = Mask::of(~c.draft_nodes.bits());
  if (follows) {
    for (int i = team.rank; i < lag; i += team.size)
      rows.row[i] = for_draft(c, trunk_row(args, head + i, i));
    for (int node = team.rank; node <= c.chain.size; node += team.size) {
      if (!missing.has(node)) continue;
      const int before = Mask::of(missing.bits() & Mask::upto(node).bits()).count();
      rows.row[lag + before] = for_draft(c, chain_row(args, node, lag));
    }
  }
  if (team.rank != 0) return;
  rows.n = 0;
  if (!follows) return;
  rows.head = head;
  const int all = lag + Mask::of(missing.bits() & Mask::upto(c.chain.size + 1).bits()).count();
  // Ancestors come first in the list. Rows beyond max_rows wait for a later forward.
  rows.n = least(all, args.max_rows);
}

// Returns the most likely node outside `verified` whose parent is in `verified`. Returns 0 if there
// is none.
SBRT_ANY inline int next_verified(const Sequence& c) {
  int best = 0;
  for (int i = 1; i <= c.chain.size; ++i)
    if (!c.verified.has(i) && c.verified.has(c.chain.parent[i]) &&
        (best == 0 || c.chain.score[i] > c.chain.score[best]))
      best = i;
  return best;
}

// Selects the nodes to verify if the chains of all members together have more than args.most rows.
// First come all roots, then the most likely nodes of all sequences. Nodes that are not selected
// count as not drafted. Under the rule `rejection` all nodes of a chain are verified, because the
// sampled token depends on which nodes are tried. The host makes sure that these chains fit.
SBRT_ANY inline void share_rows(const GatherArgs& args, Mask members) {
  const Seats& seats = args.seats;
  int all = 0, n = 0;
  for (int seat = 0; seat < seats.count; ++seat)
    if (members.has(seat)) all += seats.at[seat].chain.size + 1;
  for (int seat = 0; seat < seats.count; ++seat) {
    if (!members.has(seat)) continue;
    Sequence& c = seats.at[seat];
    const bool is_whole = all <= args.most || is_rejection(c);
    c.verified = Mask::upto(is_whole ? c.chain.size + 1 : 1);
    n += is_whole ? c.chain.size + 1 : 1;
  }
  for (; n < least(all, args.most); ++n) {
    int chosen = -1, node = 0;
    for (int seat = 0; seat < seats.count; ++seat) {
      const Sequence& c = seats.at[seat];
      const int next = members.has(seat) ? next_verified(c) : 0;
      if (next == 0) continue;
      if (chosen >= 0 && !(c.chain.score[next] > seats.at[chosen].chain.score[node])) continue;
      chosen = seat;
      node = next;
    }
    Sequence& c = seats.at[chosen];
    c.verified = c.verified.with(node);
  }
}

// Builds the batch of the lane's next forward: the rows of all seats that take part, seat by seat.
template <class Team>
SBRT_ANY void gather_op(const GatherArgs& args, Team team) {
  Batch& batch = *args.batch;
  const Mask members = args.seats.members();
  if (args.most > 0 && team.rank == 0) share_rows(args, members);
  team.meet();
  int n = 0;
  for (int seat = 0; seat < args.seats.count; ++seat) {
    const Sequence& c = args.seats.at[seat];
    const RowList& rows = args.is_draft ? c.draft_rows : c.target_rows;
    if (team.rank == 0) batch.first[seat] = n;
    if (!members.has(seat)) continue;
    const bool is_whole = args.most == 0 || c.verified.count() == rows.n;
    for (int i = team.rank; i < rows.n; i += team.size)
      if (is_whole || c.verified.has(i))
        batch.row[n + (is_whole ? i : verified_before(c, i))] = rows.row[i];
    if (team.rank == 0) batch.head[seat] = rows.head;
    n += is_whole ? rows.n : c.verified.count();
  }
  if (team.rank != 0) return;
  batch.first[args.seats.count] = batch.n = n;
}

}  // namespace sbrt
