// The parts of an engine's state. Ops declare the parts that they read and write. csrc/README.md
// names their owners.
#pragma once

#include <cstdint>

#include "exec/effects.h"

namespace sbrt {

enum class Part : int32_t {
  settings,      // the host's: sampling, shaping, policy, prices, limits
  outcome,       // head, trunk and its counts, outcome, cut, sharpness, hindsight
  chain,         // with source, lost and filled
  target_rows,   // of the sequence
  target_batch,  // of the lane
  choice,
  target_have,
  draft_rows,
  draft_batch,
  row_law,
  draft_have,  // with draft_nodes and draft_compacts
  branches,    // with their number, step and draft_idle
  chain_law,
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
static_assert(kParts <= kMostParts);

const char* name_of(int part);  // below kParts

// Returns true if every seat has its own; all seats share the others.
constexpr bool is_of_seat(Part part) {
  switch (part) {
    case Part::target_batch:
    case Part::choice:
    case Part::draft_batch:
    case Part::row_law:
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
constexpr PartTable part_table() { return {&name_of, parts_of_seats()}; }

struct DraftScratch;
struct Sequence;
struct TargetScratch;

// For Exec::watch: where in its memory each part lies.
Watched watched(const Sequence* sequence, int seat);
Watched watched(const TargetScratch* scratch);
Watched watched(const DraftScratch* scratch);

}  // namespace sbrt
