// Memory of the rule `rejection`: the rows of scores that the lanes keep (Scores), and the working
// memory of its walk. The draft's rows are in the draft's memory. With two memories the target has
// copies of those at the chain's nodes, which mail writes.
#pragma once

#include <vector>

#include "exec/exec.h"
#include "ops/choose.h"
#include "state/parts.h"
#include "state/sequence.h"

namespace sbrt {

struct ScoreSizes {
  int seats = 0;
  int32_t vocab = 0;
  Columns columns;  // of the draft; none without a draft
  int32_t branches = 0, tail_slots = 0;
  int draft_place = 0;  // memory of the draft
};

class ScoreMemory {
 public:
  ScoreMemory() = default;
  ScoreMemory(Exec& exec, const ScoreSizes& sizes);

  bool is_there() const { return target_.size() > 0; }
  // The pointers for a seat's Sequence in the memory of the target, or of a draft with its own.
  Scores of_target(int seat) const;
  Scores of_draft(int seat) const;
  double* dists() const { return dists_.device(); }  // [seats, 2, vocab]
  // Return where the sampling pass of a device keeps its scores.
  KeptScores kept_by_target() const { return {target_.device(), kMaxRows}; }
  KeptScores kept_by_draft() const { return {draft_.device(), draft_rows()}; }
  // Adds the scores at the chain's nodes to a mail from the draft. Needs two memories. rows: the
  // number of rows of a seat, read when the mail is sent.
  void add_to(Mail& mail, const int32_t& rows) const;

 private:
  int64_t draft_rows() const;
  float* draft_row(int seat, int64_t row) const;
  float* chain_of_target(int seat) const;

  ScoreSizes sizes_;
  Cells<float> target_;  // [seats, kMaxRows, vocab]
  Cells<float> draft_;   // [seats, kSlots + kMaxTail + branches * tail_slots, columns]
  Cells<float> chains_;  // [seats, kSlots, columns] the target's copies
  Cells<int32_t> ids_;   // [columns]
  Cells<double> dists_;
};

}  // namespace sbrt
