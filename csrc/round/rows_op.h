// Lists the rows of the next forward. Runs on every device.
#pragma once

#include "round/chain.h"
#include "round/op_args.h"
#include "round/crew.h"

namespace sbrt {

// Returns the row for a trunk token that the lane has not processed. i: distance of the token from
// the head of the list of rows.
SBRT_ANY inline Row trunk_row(const LaneSeat& args, int64_t position, int i) {
  const auto slot = static_cast<int32_t>(args.shape.slot(args.seat, position));
  const int32_t token = args.sequence->trunk[position];
  const auto seat = static_cast<int16_t>(args.seat);
  return {position, token, slot, -1, -1, seat, Mask::upto(i + 1), Mask::none()};
}

// Returns the row for a chain node, in a list of rows whose head is `lag` tokens before the root.
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

// Returns `row` as the draft sees it: a token outside the draft's vocabulary becomes token 0.
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

// Lists up to max_rows prompt tokens from position `have` on, and advances `have`. The last prompt
// token is the root, which prefill does not process. Masks cover only the in-flight slots, so a
// forward of more rows does not use masks.
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

// Lists the tokens of trunk and chain that the draft has not processed. A draft whose context has
// no room gets no rows. A serial draft never has room again, but an overlapped one may after a
// miss.
template <class Team>
SBRT_ANY void missing_rows_op(const LaneSeat& args, Team team) {
  const Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  // A draft can process at most as many tokens as there are in-flight slots. It may lack more if
  // seats share fewer rows. It may also lack more if it did not process a long chain of looked-up
  // tokens.
  const bool is_near = c.head - c.draft_have + c.chain.size < kSlots;
  const bool fits = c.policy.gamma > 0 ? chain_fits(c) : serial_burst_fits(c);
  SBRT_CHECK_ANY(!fits || is_near || args.max_rows < kSlots || c.policy.lookup,
                 "draft lane: ", c.head - c.draft_have, " tokens behind the trunk");
  const bool follows = fits && is_near;
  // While trunk tokens are fed to the draft, their positions count as in flight, too.
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
  rows.n = least(all, args.max_rows);  // ancestors come first; other rows wait for a later forward
}

// Returns the most likely node that is not in `verified` but whose parent is, or 0 if there is
// none.
SBRT_ANY inline int next_verified(const Sequence& c) {
  int best = 0;
  for (int i = 1; i <= c.chain.size; ++i)
    if (!c.verified.has(i) && c.verified.has(c.chain.parent[i]) &&
        (best == 0 || c.chain.score[i] > c.chain.score[best]))
      best = i;
  return best;
}

// Selects the nodes to verify, if the chains of all members together have more than args.most rows.
// Every root is verified, then the most likely nodes of all sequences. The other nodes count as not
// drafted. Under rejection a chain stays whole, because tokens depend on the nodes that are tried.
// The host makes sure that it fits.
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

// Makes the batch of the lane's next forward from the rows of all seats that take part, seat by
// seat.
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
