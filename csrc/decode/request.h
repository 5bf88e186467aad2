// A caller's request, and the memory that a sequence points to while its request runs.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "exec/exec.h"
#include "ops/choose.h"
#include "state/sequence.h"

namespace sbrt {

// How a request shapes logits, as the host stores it. The defaults change no logit.
struct ShapingRequest {
  float repetition = 1;
  float presence = 0;
  float frequency = 0;
  int64_t min_tokens = 0;
  bool restricts = false;
  std::vector<int32_t> allowed;  // used if `restricts` is true
  std::vector<TokenBias> bias;
  std::vector<std::vector<int32_t>> words;  // bad words, each with at least one token

  bool penalises() const { return repetition != 1 || presence != 0 || frequency != 0; }
  bool active() const {
    return penalises() || min_tokens > 0 || restricts || !bias.empty() || !words.empty();
  }
};

// The number of most probable tokens whose log-probs are kept at each position, in addition to the
// token at that position. -1: no log-probs are kept.
struct LogprobRequest {
  int32_t output = -1;
  int32_t prompt = -1;
};

// Returns the sampling with a temperature below 1e-5 replaced by 0, which means greedy.
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
  bool tuned = false;  // true: `auto` selects the policy of every round
  LogprobRequest logprobs;
};

// Throws InvalidInput if a value is out of range or a token has no logit.
void check_shaping(const ShapingRequest& shaping, int32_t vocab);

// Throws InvalidInput unless holes are ids below `vocab` and leave at least one token.
void check_holes(const std::vector<int32_t>& holes, int32_t vocab);

// Arrays [seats, vocab] with an entry per token. Sequence::counts of a seat points into them. On a
// device they also hold the lists of Sequence::shaping, and bad words of several tokens
// (DenseShaping::words).
struct ShapingMemory {
  static constexpr int64_t kWordsRoom = 1 << 15;  // number of int32 entries of `words` per seat

  ShapingMemory() = default;
  ShapingMemory(Exec& exec, int32_t vocab, int32_t seats, int place = 0);
  // Returns the arrays for a device's ops. On other backends the pointers are null.
  DenseShaping dense() const;

  int32_t vocab = 0;
  Cells<int32_t> token, output;
  Cells<uint8_t> seen, mask;  // mask, bias and words exist only on a device
  Cells<float> bias;
  Cells<int32_t> words;
};

// Owns the memory that Sequence::shaping and Sequence::counts of one seat point to.
class ShapingStore {
 public:
  // holes: ids below the vocabulary's size that no token has. Every sequence masks them. `memory`
  // must outlive this object.
  ShapingStore(Exec& exec, const ShapingMemory& memory, int32_t seat, std::vector<int32_t> holes);

  // Throws InvalidInput if the device has no room for the request's bad words.
  void check_request(const ShapingRequest& shaping) const;
  // Fills sequence.shaping and sequence.counts for a checked request. Called between sequences.
  // sequence: the host's copy.
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
