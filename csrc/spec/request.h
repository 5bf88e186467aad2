// What a caller asks for, and what the control block points at while the sequence is in flight.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "exec/control.h"

namespace sbrt {

// The host's form of Shaping; the defaults do nothing.
struct ShapingRequest {
  float repetition = 1;
  float presence = 0;
  float frequency = 0;
  int64_t min_tokens = 0;
  bool restricts = false;
  std::vector<int32_t> allowed;  // read if `restricts`
  std::vector<TokenBias> bias;
  std::vector<std::vector<int32_t>> words;  // each at least one token

  bool penalises() const { return repetition != 1 || presence != 0 || frequency != 0; }
  bool active() const {
    return penalises() || min_tokens > 0 || restricts || !bias.empty() || !words.empty();
  }
};

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  Sampling sampling;
  Policy policy;
  int64_t max_tokens = 16;
  std::vector<int32_t> stop_tokens;
  ShapingRequest shaping;
  bool tuned = false;  // the engine chooses the policy, round by round
};

// Throws InvalidInput: a value out of range, a token that rows of `vocab` logits do not have.
void check_shaping(const ShapingRequest& shaping, int32_t vocab);

// Throws InvalidInput unless they are ids of `vocab` logits and leave one.
void check_holes(const std::vector<int32_t>& holes, int32_t vocab);

// Owns the memory behind Control::shaping and Control::counts.
class ShapingStore {
 public:
  ShapingStore() = default;
  // holes: ids below `vocab` that no token has; every sequence masks them.
  ShapingStore(int32_t vocab, std::vector<int32_t> holes)
      : vocab_(vocab), token_(vocab), output_(vocab), seen_(vocab), holes_(std::move(holes)) {}

  // Between sequences: fills both for a checked request.
  void start(const Request& request, Control& control);

 private:
  void copy(const Request& request);

  int32_t vocab_ = 0;
  Buffer<int32_t> token_, output_;
  Buffer<uint8_t> seen_;
  std::vector<int32_t> holes_, ends_, allowed_, words_;
  std::vector<TokenBias> bias_;
};

}  // namespace sbrt
