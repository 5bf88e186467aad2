// A toy lane, whose logits are a hash of the prefix. So tests can compare whole generations with
// `==` at a million tokens a second. Its K/V are the prefix's hash. So a wrong slot, mask or move
// gives wrong tokens, and a slot that holds another position throws.
//
//   state(empty) = mix64(seed, 0)          state(prefix + token) = mix64(state(prefix), token + 1)
//   h = mix64(state, 65536 + t)            logit(t) = ((h & 65535) + (h >> 16 & 65535)) / 8192
//   d = mix64(state, 131072 + t)           a draft adds noise * ((d & 65535) - 32768) / 4096
//
// With `acceptance` a, the target's first choice has rank r in the draft: r = 0 with probability a,
// else r >= 1 with probability (1 - a) b (1 - b)^(r - 1), b = 0.4, r <= 7. The draft's distribution
// has these probabilities where they fall with r.
//
// A toy with `head_ids` has logits of these tokens only.
//
// All values are multiples of 2^-16 below 2^5, so they are exact in f32 in any order of operations.
// The values of a draft with `acceptance` are not.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "model/lane.h"

namespace sbrt {

struct ToyConfig {
  int32_t vocab = 32;
  uint64_t seed = 0;
  int32_t noise16 = 0;  // noise of the draft in sixteenths; 0: the toy is the target itself
  int64_t max_positions = 1 << 20;
  int64_t window = 0;     // number of positions; 0: full attention
  int64_t nan_at = -1;    // fault injection: the row at this position has a NaN logit
  int64_t throw_at = -1;  // fault injection: the row at this position throws
  int64_t gate_at = -1;   // fault injection: a forward of this position waits for open_gate()
  // Turns the toy into a calibrated draft with this acceptance rate. With this probability its
  // first choice is that of the toy without noise. The prefix's hash decides. Its confidence is
  // accurate. Below 0: unused.
  float acceptance = -1;
  std::vector<int32_t> head_ids{};  // ids in ascending order; empty: all
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
