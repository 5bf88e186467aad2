// Replays chains on the tokens that were committed: evidence that costs no forward.
#pragma once

#include <array>
#include <cstdint>

#include "decode/auto/trunk_index.h"
#include "state/sequence.h"

namespace sbrt {

// Paths of the draft's first choices. A token of such a path is accepted if it was the first choice
// there. So the ranks of the newest tokens give the yield of rounds of any depth.
class PathReplay {
 public:
  static constexpr int kWindow = 128;  // newest tokens whose rank is known
  static constexpr int kDepth = 16;    // deepest path

  // Begins a sequence with its root at `head`. It starts with the acceptance of the last sequence.
  void begin(int64_t head) {
    first_ = acceptance_;
    first_output_ = head + 1;
  }
  // Reads the known ranks of the tokens up to `head`; null: none is known. Lanes may be writing
  // some.
  void read(const uint8_t* rank, int64_t head);
  // Tokens of a round, including the target's own, whose path has `depth` nodes.
  double tokens(int depth) const { return tokens_[depth]; }
  // Share of tokens among the draft's first `n` candidates.
  double coverage(int n) const;
  int evidence() const { return n_; }

 private:
  std::array<uint8_t, kWindow> rank_{};  // oldest first
  int n_ = 0;
  int64_t first_output_ = 0;  // position of the first token after the prompt
  double acceptance_ = 0.7, first_ = 0.7;
  std::array<double, kDepth + 1> tokens_{};
};

// Rounds of `lookup`, replayed on the trunk.
class LookupReplay {
 public:
  explicit LookupReplay(int gamma) : gamma_(gamma) {}

  // Begins a sequence with its root at `head`.
  void begin(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  // Replays all rounds that have ended at `head`.
  void read(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  double tokens() const { return rounds_ > 0 ? tokens_ / rounds_ : 1; }  // per round
  double share() const { return rounds_ > 0 ? chains_ / rounds_ : 0; }   // of whole chains

 private:
  int gamma_;
  int64_t root_ = 0;  // position of the next round's root
  double rounds_ = 0, tokens_ = 0, chains_ = 0;
};

}  // namespace sbrt
