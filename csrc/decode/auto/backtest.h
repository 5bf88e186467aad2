// How chains would have done on the tokens that came: evidence that costs no forward.
#pragma once

#include <array>
#include <cstdint>

#include "decode/auto/trunk_index.h"
#include "state/sequence.h"

namespace sbrt {

// Paths of the draft's first choices. A token stands in such a path if and only if it was the first
// choice there, so the ranks of the newest tokens say what rounds of any depth would have brought.
class PathReplay {
 public:
  static constexpr int kWindow = 128;  // newest tokens whose rank is known
  static constexpr int kDepth = 16;    // deepest path

  // A new sequence, its root at `head`, starts from the acceptance of the last one.
  void begin(int64_t head) {
    first_ = acceptance_;
    first_output_ = head + 1;
  }
  // Ranks of the tokens up to `head`, as far as they are known; null: none is. Lanes may be writing
  // some of them.
  void read(const uint8_t* rank, int64_t head);
  // Tokens of a round, the target's own included, whose path has `depth` nodes.
  double tokens(int depth) const { return tokens_[depth]; }
  // Share of tokens among the draft's first `n` candidates.
  double coverage(int n) const;
  int evidence() const { return n_; }

 private:
  std::array<uint8_t, kWindow> rank_{};  // oldest first
  int n_ = 0;
  int64_t first_output_ = 0;  // position of the first token behind the prompt
  double acceptance_ = 0.7, first_ = 0.7;
  std::array<double, kDepth + 1> tokens_{};
};

// Rounds of `lookup`, played on the trunk itself.
class LookupReplay {
 public:
  explicit LookupReplay(int gamma) : gamma_(gamma) {}

  // A new sequence, its root at `head`.
  void begin(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  // Plays all rounds that have ended at `head`.
  void read(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  double tokens() const { return rounds_ > 0 ? tokens_ / rounds_ : 1; }  // of a round
  double share() const { return rounds_ > 0 ? chains_ / rounds_ : 0; }   // that had a chain, whole

 private:
  int gamma_;
  int64_t root_ = 0;  // position of the next round's root
  double rounds_ = 0, tokens_ = 0, chains_ = 0;
};

}  // namespace sbrt
