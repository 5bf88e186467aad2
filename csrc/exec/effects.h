// What an op reads and writes: the parts of an engine's state, as csrc/README.md gives them to owners.
// No body needs it to run; exec/order.h checks with it that what runs at once is apart.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace sbrt {

struct Control;

enum class Part : int32_t {
  settings,  // the host's: sampling, shaping, policy, prices, limits
  outcome,   // round, head, trunk and its counts, outcome, cut, sharpness
  chain,     // with source and lost
  target_rows,
  choice,
  target_have,
  draft_rows,
  row_law,
  draft_have,  // with draft_nodes and draft_compacts
  branches,    // with their number, step and draft_idle
  chain_law,
  rank,
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

const char* name_of(Part part);

struct Parts {
  uint64_t bits = 0;

  constexpr Parts() = default;
  constexpr Parts(std::initializer_list<Part> parts) {
    for (const Part part : parts) bits |= uint64_t{1} << static_cast<int>(part);
  }
  static constexpr Parts all() {
    Parts parts;
    parts.bits = (uint64_t{1} << kParts) - 1;
    return parts;
  }
  constexpr bool has(Part part) const { return bits >> static_cast<int>(part) & 1; }
  constexpr bool has(int part) const { return bits >> part & 1; }
};

struct Effects {
  Parts reads, writes;
};

// Bytes of the control block that belong to a part.
struct ControlRange {
  Part part;
  int64_t begin, end;
};

// All of them, by their place in the block. What no range covers is padding.
const ControlRange* control_ranges(int& count);

// The first part that differs between two copies of a block and is not among `allowed`; -1 if none.
int changed_part(const Control& before, const Control& after, Parts allowed);

}  // namespace sbrt
