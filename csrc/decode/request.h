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

// A temperature below 1e-5 is greedy.
inline Sampling normalised(Sampling s) {
  if (s.temperature < 1e-5f) s.temperature = 0;
  return s;
}

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

// Arrays over the vocabulary, [seats, vocab] each: the counts of Sequence::counts and, on a device, the
// lists of Sequence::shaping; bad words of several tokens are a list there, too (DenseShaping::words).
struct ShapingMemory {
  static constexpr int64_t kWordsRoom = 1 << 15;

  ShapingMemory() = default;
  ShapingMemory(Exec& exec, int32_t vocab, int32_t seats, int place = 0);
  // For a device's ops; null pointers on other backends.
  DenseShaping dense() const;

  int32_t vocab = 0;
  Cells<int32_t> token, output;
  Cells<uint8_t> seen, mask;  // mask and bias: only on a device
  Cells<float> bias;
  Cells<int32_t> words;
};

// The memory that one seat's Sequence::shaping and Sequence::counts point at.
class ShapingStore {
 public:
  // holes: ids below the vocabulary that no token has; every sequence masks them. `memory` outlives this.
  ShapingStore(Exec& exec, const ShapingMemory& memory, int32_t seat, std::vector<int32_t> holes);

  // Throws InvalidInput for what a device has no room for.
  void check_request(const ShapingRequest& shaping) const;
  // Between sequences: fills both for a checked request; `sequence` is the host's copy.
  void start(const Request& request, Sequence& sequence);

 private:
  void copy(const Request& request);
  void start_counts(const Request& request, Sequence& sequence);
  Shaping lists() const;
  void send_dense(const ShapingRequest& shaping);
  void send_words(const ShapingRequest& shaping);

  bool is_dense() const { return memory_->mask.device() != nullptr; }
  template <class T>
  T* mine(const Cells<T>& cells) const {
    return cells.host() + seat_ * int64_t{memory_->vocab};
  }
  template <class T>
  T* there(const Cells<T>& cells) const {
    return cells.device() + seat_ * int64_t{memory_->vocab};
  }
  template <class T>
  void send(const Cells<T>& cells, size_t count) const {
    exec_->upload(cells, static_cast<size_t>(seat_) * memory_->vocab, count);
  }

  Exec* exec_;
  const ShapingMemory* memory_;
  int32_t seat_;
  std::vector<int32_t> holes_, ends_, allowed_, words_;
  std::vector<TokenBias> bias_;
};

}  // namespace sbrt
