// Memory of the rule `rejection`: the rows of scores that the lanes keep (Scores), and the working
// memory of the walk over the chain. The draft's scores are in the draft's memory. With two
// memories the target has copies of the draft's scores at the chain's nodes. Mail makes these
// copies.
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
  Columns columns;  // columns of the draft's logits; none without a draft
  int32_t branches = 0, tail_slots = 0;
  int draft_place = 0;  // memory of the draft
};

class ScoreMemory {
 public:
  ScoreMemory() = default;
  ScoreMemory(Exec& exec, const ScoreSizes& sizes);

  bool is_there() const { return target_.size() > 0; }
  // Return the addresses of a seat's scores, for the seat's Sequence: of_target() in the target's
  // memory, of_draft() in the memory of a draft that has its own.
  Scores of_target(int seat) const;
  Scores of_draft(int seat) const;
  double* dists() const { return dists_.device(); }  // [seats, 2, vocab]
  // Return the memory in which a device's sampling op keeps the scores of a lane.
  KeptScores kept_by_target() const { return {target_.device(), kMaxRows}; }
  KeptScores kept_by_draft() const { return {draft_.device(), draft_rows()}; }
  // Adds the draft's scores at the chain's nodes to a mail from the draft. Needs two memories. rows:
  // the number of rows of a seat, read when the mail is sent.
  void add_to(Mail& mail, const int32_t& rows) const;

 private:
  int64_t draft_rows() const;
  float* draft_row(int seat, int64_t row) const;
  float* chain_of_target(int seat) const;

  ScoreSizes sizes_;
  Cells<float> target_;  // [seats, kMaxRows, vocab]
  Cells<float> draft_;   // [seats, rows of chain, certain branch and tails, columns]
  Cells<float> chains_;  // [seats, kSlots, columns] copies of `draft_` for the target
  Cells<int32_t> ids_;   // [columns]
  Cells<double> dists_;
};

}  // namespace sbrt
