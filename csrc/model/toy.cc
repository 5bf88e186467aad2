#include "model/toy.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "core/check.h"

namespace sbrt {
namespace {

struct ToyArgs {
  const ToyConfig* config;
  ToyGate* gate;
  KvRing* ring;
  const Batch* rows;
  // Largest number of rows that the host expects in the forward; null: unknown.
  const int32_t* most;
  uint64_t* state;  // [max_rows] hash of the prefix up to and including the row's token
  float* logits;    // [max_rows, columns.n]
  Columns columns;
};

// Returns the slot of the token before `row`: its parent in the tree, or the last trunk token.
// `row` sees this slot last, apart from its own.
int64_t parent_slot(const RingShape& ring, const Batch& rows, const Row& row) {
  const int64_t head = rows.head[row.seat];
  const bool in_tail = row.tail.bits() != 0;
  const Mask own = in_tail ? row.tail : row.chain;
  const Mask before = own.without(own.last());
  if (before.bits()) {
    return in_tail ? ring.tail(row.seat, row.branch, before.last())
                   : ring.slot(row.seat, head + before.last());
  }
  if (in_tail && row.chain.bits()) return ring.slot(row.seat, head + row.chain.last());
  return ring.slot(row.seat, head - 1);
}

// The K/V of a slot of the toy: the hash of the prefix, and the position.
struct Cell {
  uint64_t state;
  int64_t position;
};

bool has_position(const Batch& rows, int64_t position) {
  const auto is_there = [position](const Row& row) { return row.position == position; };
  return std::any_of(rows.row, rows.row + rows.n, is_there);
}

// Waits until the gate is open. Gives up after half a minute, so that a failing test ends.
void pass(ToyGate& gate) {
  constexpr int kMost = 30'000;
  ++gate.waiting;
  for (int i = 0; i < kMost && !gate.open; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  --gate.waiting;
}

void toy_states(const ToyArgs& a, Worker) {
  if (a.most) check_within("toy lane: rows", 0, *a.most, a.rows->n);
  if (has_position(*a.rows, a.config->gate_at)) pass(*a.gate);
  const RingShape& shape = a.ring->shape();
  for (int i = 0; i < a.rows->n; ++i) {
    const Row& row = a.rows->row[i];
    check(row.position != a.config->throw_at, "toy lane: told to throw at position ", row.position);
    const int64_t seen = a.rows->head[row.seat] + row.chain.count() + row.tail.count();
    check(seen == row.position + 1, "toy lane: the row at position ", row.position, " sees ", seen,
          " tokens, expected ", row.position + 1);
    uint64_t state = mix64(a.config->seed, 0);
    if (row.position > 0) {
      Cell cell;
      std::memcpy(&cell, a.ring->v(0, 0, parent_slot(shape, *a.rows, row)), sizeof cell);
      check(cell.position == row.position - 1, "toy lane: the row at position ", row.position,
            " found position ", cell.position, " before it");
      state = cell.state;
    }
    a.state[i] = mix64(state, static_cast<uint64_t>(row.token) + 1);
    if (row.slot < 0) continue;
    const Cell cell{a.state[i], row.position};
    std::memcpy(a.ring->v(0, 0, row.slot), &cell, sizeof cell);
    a.ring->tag(row.slot, row.position);
  }
}

constexpr int kRanks = 8;

// Returns the probability that the target's most likely token has rank r in the draft.
float chance(float acceptance, int r) {
  constexpr float kNext = 0.4f;
  if (r == 0) return acceptance;
  const float rest = (1 - acceptance) * std::pow(1 - kNext, static_cast<float>(r - 1));
  return r == kRanks - 1 ? rest : rest * kNext;
}

// Turns the target's logits into those of a draft whose acceptance rate is `c.acceptance`.
void mislead(const ToyConfig& c, uint64_t state, float* logits, int32_t n) {
  const int ranks = std::min(kRanks, n);
  int32_t best[kRanks];
  for (int r = 0; r < ranks; ++r) {
    best[r] = static_cast<int32_t>(std::max_element(logits, logits + n) - logits);
    logits[best[r]] = -1;
  }
  float u = static_cast<float>(mix64(state, 196608) >> 40) * 0x1p-24f;
  int at = 0;
  while (at < ranks - 1 && u >= chance(c.acceptance, at)) u -= chance(c.acceptance, at++);
  std::rotate(best, best + 1, best + at + 1);
  std::fill_n(logits, n, -40.0f);
  float last = 0;  // A higher rank must get a lower score, even where its probability is not lower.
  for (int r = 0; r < ranks; ++r) {
    const float score = std::log(std::max(chance(c.acceptance, r), 1e-9f));
    logits[best[r]] = last = r == 0 ? score : std::min(score, last - 0x1p-8f);
  }
}

void toy_logits(const ToyArgs& a, Worker worker) {
  const ToyConfig& c = *a.config;
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    float* logits = a.logits + i * a.columns.n;
    for (int j = 0; j < a.columns.n; ++j) {
      const auto t = static_cast<uint64_t>(a.columns.id(j));
      const uint64_t h = mix64(a.state[i], 65536 + t);
      logits[j] = static_cast<float>((h & 65535) + (h >> 16 & 65535)) / 8192.0f;
      if (c.noise16 == 0) continue;
      const uint64_t d = mix64(a.state[i], 131072 + t);
      const int32_t centred = static_cast<int32_t>(d & 65535) - 32768;
      logits[j] += static_cast<float>(c.noise16 * centred) / 65536.0f;
    }
    if (c.acceptance >= 0) mislead(c, a.state[i], logits, a.columns.n);
    if (a.rows->row[i].position == c.nan_at) logits[0] = std::numeric_limits<float>::quiet_NaN();
  }
}

RingShape toy_ring(const LaneShape& s, int64_t window) {
  RingShape ring;
  ring.window = window > 0 ? window : s.max_len;
  ring.capacity = ring.window + kSlots;
  ring.branches = s.branches;
  ring.tail_slots = s.tail_slots;
  ring.seats = s.seats;
  ring.layers = 1;
  ring.kv_heads = 1;
  ring.head_dim = sizeof(Cell) / sizeof(float);
  return ring;
}

class ToyLane final : public Lane {
 public:
  ToyLane(const ToyConfig& config, std::shared_ptr<const ColumnMap> columns,
          std::shared_ptr<ToyGate> gate, const LaneShape& shape)
      : config_(config),
        columns_(std::move(columns)),
        gate_(std::move(gate)),
        ring_(toy_ring(shape, config.window), shape.debug),
        state_(shape.max_rows),
        logits_(static_cast<size_t>(shape.max_rows) * columns_->columns().n) {}

  Columns columns() const override { return columns_->columns(); }
  const RingShape& ring_shape() const override { return ring_.shape(); }
  KvRing* ring() override { return &ring_; }
  float* logits() override { return logits_.data(); }

  void expect(const Expected& expected) override { most_ = expected.rows; }

  void add_forward(Graph& graph, const Batch* rows, bool with_logits) override {
    const ToyArgs args{&config_, gate_.get(),   &ring_,         rows,
                       most_,    state_.data(), logits_.data(), columns()};
    graph.add(toy_states, args, true);
    if (with_logits) graph.add(toy_logits, args);
  }

 private:
  ToyConfig config_;
  std::shared_ptr<const ColumnMap> columns_;
  std::shared_ptr<ToyGate> gate_;
  KvRing ring_;
  const int32_t* most_ = nullptr;
  Buffer<uint64_t> state_;
  Buffer<float> logits_;
};

}  // namespace

Toy::Toy(const ToyConfig& config) : config_(config) {
  check_within("toy model: vocab", 2, 1 << 16, config.vocab);
  check_within("toy model: noise in sixteenths", 0, 1 << 10, config.noise16);
  check_within("toy model: max_positions", int64_t{1}, int64_t{1} << 40, config.max_positions);
  check_within("toy model: acceptance", -1.0f, 1.0f, config.acceptance);
  check_within("toy model: window", int64_t{0}, int64_t{1} << 30, config.window);
  columns_ = std::make_shared<ColumnMap>(config.head_ids, config.vocab);
}

std::unique_ptr<Lane> Toy::bind(const LaneShape& shape) const {
  return std::make_unique<ToyLane>(config_, columns_, gate_, shape);
}

}  // namespace sbrt
