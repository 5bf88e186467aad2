// Ranges of a Sequence that one lane writes and the other reads. If the lanes share a memory, a
// range is read where it was written. With two memories it is copied before the fence that promises
// it.
#pragma once

#include <cstddef>

#include "state/parts.h"
#include "state/sequence.h"

namespace sbrt {

// Bytes `begin` to `end` - 1 of a Sequence, and the parts that lie there.
struct MailRange {
  size_t begin, end;
  Parts parts;
  constexpr size_t bytes() const { return end - begin; }
};

// Sent by the target before `verify_done`: the outcome and the next chain.
constexpr MailRange verdict_range() {
  return {offsetof(Sequence, head), offsetof(Sequence, draft_nodes),
          parts(Part::outcome, Part::chain)};
}
// Sent by the draft before `chain_ready`: the chain that a serial burst made.
constexpr MailRange burst_range() {
  return {offsetof(Sequence, chain), offsetof(Sequence, branches),
          parts(Part::chain, Part::chain_dist, Part::branches)};
}
// Sent by the draft before `draft_ready`: the distributions at the chain's nodes, and the branches.
constexpr MailRange offer_range(int branches) {
  return {offsetof(Sequence, draft_nodes),
          offsetof(Sequence, branches) + static_cast<size_t>(branches) * sizeof(Branch),
          parts(Part::chain_dist, Part::branches)};
}
static_assert(verdict_range().bytes() < 3072);
static_assert(offer_range(8).bytes() < 100'000);

}  // namespace sbrt
