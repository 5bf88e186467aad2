#include "decode/score_memory.h"

#include <algorithm>

namespace sbrt {
namespace {

// Number of score rows before those of the tails: the rows of the chain and of the certain branch.
constexpr int64_t kBeforeTails = kSlots + kMaxTail;

}  // namespace

ScoreMemory::ScoreMemory(Exec& exec, const ScoreSizes& sizes) : sizes_(sizes) {
  const auto seats = static_cast<size_t>(sizes.seats), vocab = static_cast<size_t>(sizes.vocab);
  const auto columns = static_cast<size_t>(sizes.columns.n);
  target_ = exec.cells<float>(seats * kMaxRows * vocab, Where::scratch);
  dists_ = exec.cells<double>(seats * 2 * vocab, Where::scratch);
  if (columns == 0) return;
  const auto rows = static_cast<size_t>(draft_rows());
  draft_ = exec.cells<float>(seats * rows * columns, Where::scratch, sizes.draft_place);
  if (sizes.draft_place != 0) chains_ = exec.cells<float>(seats * kSlots * columns, Where::scratch);
  if (!sizes.columns.ids) return;
  ids_ = exec.cells<int32_t>(columns, Where::device);
  std::copy_n(sizes.columns.ids, columns, ids_.host());
  exec.upload(ids_, 0, columns);
}

int64_t ScoreMemory::draft_rows() const {
  return kBeforeTails + int64_t{sizes_.branches} * sizes_.tail_slots;
}

float* ScoreMemory::draft_row(int seat, int64_t row) const {
  if (draft_.size() == 0) return nullptr;
  return draft_.device() + (seat * draft_rows() + row) * sizes_.columns.n;
}

float* ScoreMemory::chain_of_target(int seat) const {
  if (chains_.size() == 0) return draft_row(seat, 0);
  return chains_.device() + int64_t{seat} * kSlots * sizes_.columns.n;
}

Scores ScoreMemory::of_draft(int seat) const {
  return {.vocab = sizes_.vocab,
          .tail_slots = sizes_.tail_slots,
          .columns = sizes_.columns.n,
          .ids = nullptr,
          .target = nullptr,
          .chain = draft_row(seat, 0),
          .in_place = draft_row(seat, kSlots),
          .tails = draft_row(seat, kBeforeTails)};
}

Scores ScoreMemory::of_target(int seat) const {
  Scores scores = of_draft(seat);
  scores.ids = ids_.device();
  scores.target = target_.device() + int64_t{seat} * kMaxRows * sizes_.vocab;
  scores.chain = chain_of_target(seat);
  if (chains_.size() > 0) scores.in_place = scores.tails = nullptr;
  return scores;
}

void ScoreMemory::add_to(Mail& mail, const int32_t& rows) const {
  mail.parts.bits |= parts(Part::draft_scores).bits;
  const size_t bytes = sizes_.columns.n * sizeof(float);
  for (int seat = 0; seat < sizes_.seats; ++seat)
    mail.copies.push_back({draft_row(seat, 0), chain_of_target(seat), bytes, seat, 1, 0, &rows});
}

}  // namespace sbrt
