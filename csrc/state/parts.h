// The parts of an engine's state, as csrc/README.md gives them to owners: what ops say they read and write.
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
  target_logits,
  draft_logits,
  target_scores,
  draft_scores,
};
constexpr int kParts = static_cast<int>(Part::draft_scores) + 1;
static_assert(kParts <= kMostParts);

const char* name_of(int part);  // below kParts

template <class... Some>
constexpr Parts parts(Some... some) {
  Parts set;
  ((set.bits |= uint64_t{1} << static_cast<int>(some)), ...);
  return set;
}
constexpr Parts all_parts() { return {(uint64_t{1} << kParts) - 1}; }

struct DraftScratch;
struct Sequence;
struct TargetScratch;

// For Exec::watch: where in its memory each part lies.
Watched watched(const Sequence* sequence);
Watched watched(const TargetScratch* scratch);
Watched watched(const DraftScratch* scratch);

}  // namespace sbrt
