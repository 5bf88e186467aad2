// Checks that seats have separate slots, that a batch has the rows of its seats, and that each seat
// gets its own distributions.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>

#include "op_script.h"

namespace sbrt {
namespace {

constexpr int kCount = 4;

bool expect(bool ok, const char* what) {
  if (!ok) std::printf("FAILED: %s\n", what);
  return ok;
}

// Returns true if no slot belongs to two seats, two positions or two nodes of tails.
bool slots_are_apart() {
  const RingShape ring{70, 7, 3, 5, 1, 1, 4, kCount};
  std::set<int64_t> slots;
  int64_t named = 0;
  for (int seat = 0; seat < ring.seats; ++seat) {
    for (int64_t p = 0; p < ring.capacity; ++p, ++named) slots.insert(ring.slot(seat, p + 700));
    for (int b = 0; b < ring.branches; ++b)
      for (int j = 0; j < ring.tail_slots; ++j, ++named) slots.insert(ring.tail(seat, b, j));
  }
  // The slots of a seat fill whole panels. So the last slots of a seat may be unused.
  const int64_t own = named / ring.seats, panels = (own + kKeyPanel - 1) / kKeyPanel;
  return expect(static_cast<int64_t>(slots.size()) == named && *slots.begin() == 0 &&
                    ring.slots() == ring.seats * panels * kKeyPanel &&
                    *slots.rbegin() < ring.slots() && ring.slot(1, 0) == panels * kKeyPanel,
                "slots of seats and tails are not apart");
}

// The state of an engine with several seats. Each seat has a sequence in the middle of a burst.
struct Table {
  std::array<Sequence, kCount> seat;
  std::array<std::unique_ptr<OpState>, kCount> alone;
  Batch batch;
  Dist dist[kMaxStepRows];
  Roll roll;
  int64_t ended;

  Seats seats() { return {seat.data(), kCount, &roll, &ended}; }
  bool takes_part(int s) const { return roll.word[(ended + 1) % kRecords] >> s & 1; }
};

// Runs a script until the draft's rows of a step are listed, but the step's distributions are not
// stored yet.
void run_to_a_step(OpState& state, uint64_t seed) {
  for (;; seed += 1000) {
    OpScript script(seed, state);
    OpScratch scratch;
    bool stopped = false;
    const auto run = [&](RoundOp op) {
      stopped = stopped || (op == RoundOp::extend && state.sequence.draft_rows.n > 1);
      if (!stopped) run_op(op, state, scratch, Alone{});
    };
    script.prefill(run);
    for (int round = 0; round < 8 && !stopped && script.round(run); ++round) {
    }
    if (stopped) return;
  }
}

bool has_rows_of(const Table& t, int s) {
  const RowList& rows = t.seat[s].draft_rows;
  const int first = t.batch.first[s], n = t.batch.first[s + 1] - first;
  if (!t.takes_part(s)) return n == 0;
  return n == rows.n && t.batch.head[s] == rows.head &&
         std::memcmp(t.batch.row + first, rows.row, n * sizeof(Row)) == 0;
}

// Stores the distributions of seat s in its sequence, once from the shared batch and once without
// other seats. Returns true if both sequences are equal.
bool keeps_dists(Table& t, int s) {
  OpState& alone = *t.alone[s];
  Sequence& c = t.seat[s];
  c = alone.sequence;
  std::copy_n(alone.drafted.dist, c.draft_rows.n, t.dist + t.batch.first[s]);
  const LaneArgs mine = lane_at(&alone, true);
  const LaneArgs shared{t.seats(), &t.batch, t.dist, nullptr, mine.shape, mine.max_rows};
  keep_dists_op(shared.of(s), Alone{});
  const auto before = std::make_unique<OpState>(alone);
  keep_dists_op(mine.of(0), Alone{});
  const bool same = std::memcmp(&c, &alone.sequence, sizeof c) == 0;
  alone = *before;
  c = alone.sequence;
  return same;
}

bool rolls(Table& t, uint64_t seed) {
  for (int s = 0; s < kCount; ++s) {
    run_to_a_step(*t.alone[s], seed * kCount + s);
    t.seat[s] = t.alone[s]->sequence;
  }
  bool fine = true;
  for (uint64_t word = 0; word < 1 << kCount; ++word) {
    // In the round that is tested, the seats of `word` take part. In all other rounds of the roll,
    // the other seats do.
    std::fill_n(t.roll.word, kRecords, ~word);
    t.ended = static_cast<int64_t>(seed * 31 + word);
    t.roll.word[(t.ended + 1) % kRecords] = word;
    gather_op(GatherArgs{t.seats(), &t.batch, true, 0}, Alone{});
    for (int s = 0; s < kCount; ++s) {
      fine = fine && expect(t.takes_part(s) == t.seats().takes_part(s), "roll");
      fine = fine && expect(has_rows_of(t, s), "a batch has other rows than its seats");
      if (t.takes_part(s))
        fine = fine && expect(keeps_dists(t, s), "a seat keeps other dists than alone");
    }
    fine = fine && expect(t.batch.n == t.batch.first[kCount], "rows in use");
  }
  return fine;
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  using namespace sbrt;
  bool fine = slots_are_apart();
  const auto table = std::make_unique<Table>();
  for (auto& state : table->alone) state = std::make_unique<OpState>();
  const uint64_t seeds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10;
  for (uint64_t seed = 0; seed < seeds && fine; ++seed) fine = rolls(*table, seed);
  return fine ? 0 : 1;
}
