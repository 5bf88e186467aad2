// A caller's request, and the memory that the sequence points to while it is in flight.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "exec/exec.h"
#include "ops/choose.h"
#include "state/sequence.h"

namespace sbrt {

// The host's form of Shaping; the defaults change nothing.
struct ShapingRequest {
  float repetition = 1;
  float presence = 0;
  float frequency = 0;
  int64_t min_tokens = 0;
  bool restricts = false;
  std::vector<int32_t> allowed;  // used if `restricts`
  std::vector<TokenBias> bias;
  std::vector<std::vector<int32_t>> words;  // each at least one token

  bool penalises() const { return repetition != 1 || presence != 0 || frequency != 0; }
  bool active() const {
    return penalises() || min_tokens > 0 || restricts || !bias.empty() || !words.empty();
  }
};

// Number of most likely tokens whose log-probs are kept at each position, in addition to the token's
// own. -1: none at all, not even the token's own.
struct LogprobRequest {
  int32_t output = -1;
  int32_t prompt = -1;
};

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  Sampling sampling;
  Policy policy;
  int64_t max_tokens = 16;
  std::vector<int32_t> stop_tokens;
  ShapingRequest shaping;
  bool tuned = false;  // the engine chooses the policy before every round
  LogprobRequest logprobs;
};

// Throws InvalidInput: a value out of range, or a token without a logit.
void check_shaping(const ShapingRequest& shaping, int32_t vocab);

// Throws InvalidInput unless they are ids of `vocab` logits and leave at least one.
void check_holes(const std::vector<int32_t>& holes, int32_t vocab);

// Owns the memory behind Sequence::shaping and Sequence::counts. A device has the lists as arrays instead.
class ShapingStore {
 public:
  ShapingStore() = default;
  // holes: ids below `vocab` that no token has; every sequence masks them.
  ShapingStore(Exec& exec, int32_t vocab, std::vector<int32_t> holes);

  // Throws InvalidInput for what a device has no op for.
  void check_request(const ShapingRequest& shaping) const;
  // Between sequences: fills both for a checked request; `sequence` is the host's copy.
  void start(const Request& request, Sequence& sequence);
  // For the device's ops; null pointers on the other bodies.
  DenseShaping dense() const;

 private:
  void copy(const Request& request);
  void start_counts(const Request& request, Sequence& sequence);
  Shaping lists() const;
  void send_dense(const ShapingRequest& shaping);

  Exec* exec_ = nullptr;
  int32_t vocab_ = 0;
  Cells<int32_t> token_, output_;
  Cells<uint8_t> seen_, mask_;  // mask_ and dense_bias_: on a device alone
  Cells<float> dense_bias_;
  std::vector<int32_t> holes_, ends_, allowed_, words_;
  std::vector<TokenBias> bias_;
};

}  // namespace sbrt
