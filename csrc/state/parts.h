// The parts of an engine's state. Each op declares which parts it reads and which it writes.
// csrc/README.md lists the owner of each part.
#pragma once

#include <cstdint>

#include "exec/effects.h"

namespace sbrt {

enum class Part : int32_t {
  settings,      // what the host writes: sampling, shaping, policy, prices, limits
  trunk,         // tokens, hash and counts of the trunk
  outcome,       // head, outcome, cut, sharpness, hindsight
  chain,         // chain, source, lost and filled
  target_rows,   // the target's rows of one sequence
  target_batch,  // the target's rows of all sequences
  choice,
  target_have,
  draft_rows,
  draft_batch,
  row_dist,
  draft_have,  // draft_have and draft_compacts
  branches,    // branches, branch_count, step and draft_idle
  chain_dist,  // chain_dist and draft_nodes
  rank,
  round,       // number of finished rounds
  target_fed,  // number of prompt pieces that the target has processed
  draft_fed,
  record,
  features,
  target_kv,
  draft_kv,
  // The KV of prompts. Rounds write KV only after the prompt, so they only read this part. If the
  // ring wraps, they do overwrite it; but then no other seat copies it.
  target_prompt_kv,
  draft_prompt_kv,
  target_logits,
  draft_logits,
  target_scores,
  draft_scores,
};
constexpr int kParts = static_cast<int>(Part::draft_scores) + 1;
static_assert(kParts <= kPartsOfMemory);

const char* name_of(int part);  // `part` must be below kParts

// Returns true if every seat has its own copy of the part. False: all seats share one copy.
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
// Returns the names of the parts, the parts of which every seat has its own copy, and the parts
// that no mail copies. With two memories each lane appends to its own trunk.
constexpr PartTable part_table() { return {&name_of, parts_of_seats(), parts(Part::trunk)}; }

// Says which lanes write and read a part while a sequence is in flight.
enum class Owner {
  host,     // the host writes the part between rounds; both lanes read it
  target,   // only the target lane writes and reads the part
  draft,    // only the draft lane writes and reads the part
  verdict,  // the target lane writes the part; both lanes read it
  offer,    // the draft lane writes the part; both lanes read it
  both,     // the lanes take turns in writing the part
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

// Returns the parts that the ops of a lane may read, and the parts that they may write.
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

// Return where each part lies in a Sequence or a lane's scratch memory, for Exec::watch. place:
// number of the memory that holds the object, 0 or 1.
Watched watched(const Sequence* sequence, int seat, int place);
Watched watched(const TargetScratch* scratch);
Watched watched(const DraftScratch* scratch, int place);

}  // namespace sbrt
