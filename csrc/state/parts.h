// The parts of an engine's state. Ops declare the parts that they read and write. csrc/README.md
// names their owners.
#pragma once

#include <cstdint>

#include "exec/effects.h"

namespace sbrt {

enum class Part : int32_t {
  settings,      // the host's: sampling, shaping, policy, prices, limits
  trunk,         // its tokens, hash and counts
  outcome,       // head, outcome, cut, sharpness, hindsight
  chain,         // with source, lost and filled
  target_rows,   // of the sequence
  target_batch,  // of the lane
  choice,
  target_have,
  draft_rows,
  draft_batch,
  row_dist,
  draft_have,  // with draft_compacts
  branches,    // with their number, step and draft_idle
  chain_dist,  // with draft_nodes
  rank,
  round,       // how many have ended
  target_fed,  // pieces of prompts that have
  draft_fed,
  record,
  features,
  target_kv,
  draft_kv,
  target_prompt_kv,  // rounds read it: they write after it, or the ring wraps and no seat copies it
  draft_prompt_kv,
  target_logits,
  draft_logits,
  target_scores,
  draft_scores,
};
constexpr int kParts = static_cast<int>(Part::draft_scores) + 1;
static_assert(kParts <= kPartsOfMemory);

const char* name_of(int part);  // below kParts

// Returns true if every seat has its own; all seats share the others.
constexpr bool is_of_seat(Part part) {
  switch (part) {
    case Part::target_batch:
    case Part::choice:
    case Part::draft_batch:
    case Part::row_dist:
    case Part::round:
    case Part::target_fed:
    case Part::draft_fed:
    case Part::target_logits:
    case Part::draft_logits:
      return false;
    default:
      return true;
  }
}

template <class... Some>
constexpr Parts parts(Some... some) {
  Parts set;
  ((set.bits |= uint64_t{1} << static_cast<int>(some)), ...);
  return set;
}
constexpr Parts all_parts() { return {(uint64_t{1} << kParts) - 1}; }
constexpr Parts parts_of_seats() {
  Parts set;
  for (int part = 0; part < kParts; ++part)
    if (is_of_seat(static_cast<Part>(part))) set.bits |= uint64_t{1} << part;
  return set;
}
// With two memories each lane appends to a trunk of its own. Such an engine refuses `auto`, so its
// host does not read how many tokens the draft lacks.
constexpr PartTable part_table() {
  return {&name_of, parts_of_seats(), parts(Part::trunk, Part::draft_have)};
}

// The writer of a part while its sequence is in flight, and its readers.
enum class Owner {
  host,     // the host, between rounds; both lanes read it
  target,   // the target's lane, and no other reads it
  draft,    // the same for the draft's
  verdict,  // the target's lane, and the draft's reads it
  offer,    // the draft's lane, and the target's reads it
  both,     // the lanes in turn
};

constexpr Owner owner_of(Part part) {
  switch (part) {
    case Part::settings:
      return Owner::host;
    case Part::trunk:
    case Part::outcome:
    case Part::round:
      return Owner::verdict;
    case Part::branches:
    case Part::chain_dist:
    case Part::draft_scores:
    case Part::draft_have:
      return Owner::offer;
    case Part::chain:
    case Part::rank:
      return Owner::both;
    case Part::draft_rows:
    case Part::draft_batch:
    case Part::row_dist:
    case Part::draft_fed:
    case Part::draft_kv:
    case Part::draft_prompt_kv:
    case Part::draft_logits:
      return Owner::draft;
    default:
      return Owner::target;
  }
}

// The parts that ops of a lane may read, and those that they may write.
constexpr Effects allowed_to(bool is_draft) {
  const Owner own = is_draft ? Owner::draft : Owner::target;
  const Owner shown = is_draft ? Owner::offer : Owner::verdict;
  const Owner other = is_draft ? Owner::target : Owner::draft;
  Effects found;
  for (int part = 0; part < kParts; ++part) {
    const Owner owner = owner_of(static_cast<Part>(part));
    const uint64_t bit = uint64_t{1} << part;
    if (owner != other) found.reads.bits |= bit;
    if (owner == own || owner == shown || owner == Owner::both) found.writes.bits |= bit;
  }
  return found;
}

struct DraftScratch;
struct Sequence;
struct TargetScratch;

// For Exec::watch: where in its memory each part lies. place: the memory.
Watched watched(const Sequence* sequence, int seat, int place);
Watched watched(const TargetScratch* scratch);
Watched watched(const DraftScratch* scratch, int place);

}  // namespace sbrt
