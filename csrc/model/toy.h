// A toy lane: its logits are a hash of the prefix. It generates a million tokens per second, so
// tests can compare whole generations with `==`. The K/V of a token are the hash of the prefix that
// ends with it. A wrong slot, mask or move thus gives wrong tokens. The lane throws if a slot holds
// another position than expected.
//
//   state(empty) = mix64(seed, 0)          state(prefix + token) = mix64(state(prefix), token + 1)
//   h = mix64(state, 65536 + t)            logit(t) = ((h & 65535) + (h >> 16 & 65535)) / 8192
//   d = mix64(state, 131072 + t)           a draft adds noise * ((d & 65535) - 32768) / 4096
//
// If `acceptance` is given, the target's most likely token has a random rank r in the draft. Let
// a be `acceptance`, and b = 0.4. Then r = 0 has probability a, and r = 1 .. 6 has probability
// (1 - a) b (1 - b)^(r - 1); r = 7 has the rest. The draft's distribution gives rank r this
// probability, as long as a higher rank has a lower probability.
//
// A toy with `head_ids` has logits only for these tokens.
//
// All values are multiples of 2^-16 below 2^5, so sums of them are exact in f32 in any order. This
// does not hold for a draft with `acceptance`.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "model/lane.h"

namespace sbrt {

struct ToyConfig {
  int32_t vocab = 32;
  uint64_t seed = 0;
  int32_t noise16 = 0;  // noise of the draft in sixteenths; 0: the toy has the target's logits
  int64_t max_positions = 1 << 20;
  int64_t window = 0;     // number of positions that a row sees; 0: full attention
  int64_t nan_at = -1;    // fault injection: the row at this position has a NaN logit
  int64_t throw_at = -1;  // fault injection: the row at this position throws
  int64_t gate_at = -1;   // fault injection: a forward with this position waits for open_gate()
  // 0 or above: the toy is a draft with this acceptance rate. With this probability its most likely
  // token is that of the toy without noise; the hash of the prefix decides when. The draft's
  // confidence is accurate. Below 0: unused.
  float acceptance = -1;
  std::vector<int32_t> head_ids{};  // ids of the tokens with logits, in ascending order; empty: all
};

struct ToyGate {
  std::atomic<int> waiting{0};
  std::atomic<bool> open{false};
};

class Toy final : public Model {
 public:
  explicit Toy(const ToyConfig& config);
  int vocab() const override { return config_.vocab; }
  int64_t max_positions() const override { return config_.max_positions; }
  std::unique_ptr<Lane> bind(const LaneShape& shape) const override;
  bool waiting() const { return gate_->waiting > 0; }  // true while a forward waits for open_gate()
  void open_gate() { gate_->open = true; }             // opens the gate for ever

 private:
  ToyConfig config_;
  std::shared_ptr<const ColumnMap> columns_;  // shared with the lanes
  std::shared_ptr<ToyGate> gate_ = std::make_shared<ToyGate>();
};

}  // namespace sbrt
