// Ranges of a Sequence that one lane writes and the other lane reads. If the lanes share one
// memory, nothing is copied. With two memories, a mail copies a range to the reader's memory. It
// does so before the writer records the fence for which the reader waits.
#pragma once

#include <cstddef>

#include "state/parts.h"
#include "state/sequence.h"

namespace sbrt {

// The bytes from `begin` to `end` - 1 of a Sequence. `parts`: the parts of the state in these
// bytes.
struct MailRange {
  size_t begin, end;
  Parts parts;
  constexpr size_t bytes() const { return end - begin; }
};

// Returns the range that the target sends before `verify_done`: the outcome and the next chain.
constexpr MailRange verdict_range() {
  return {offsetof(Sequence, head), offsetof(Sequence, draft_have),
          parts(Part::outcome, Part::chain)};
}
// Returns the range that the draft sends before `chain_ready`: the chain that a serial burst made.
constexpr MailRange burst_range() {
  return {offsetof(Sequence, chain), offsetof(Sequence, branches),
          parts(Part::chain, Part::draft_have, Part::chain_dist, Part::branches)};
}
// Returns the range that the draft sends before `draft_ready`, next to the branches: how much of the
// trunk it has processed, the distributions at the chain's nodes, and the number of branches.
constexpr MailRange offer_range() {
  return {offsetof(Sequence, draft_have), offsetof(Sequence, branches),
          parts(Part::draft_have, Part::chain_dist, Part::branches)};
}
// Returns the range of the first branch. The others follow it.
constexpr MailRange branch_range() {
  return {offsetof(Sequence, branches), offsetof(Sequence, branches) + sizeof(Branch),
          parts(Part::branches)};
}
static_assert(verdict_range().bytes() < 3072);
static_assert(offer_range().bytes() + 8 * branch_range().bytes() < 100'000);

}  // namespace sbrt
