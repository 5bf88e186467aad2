// Tells `auto` how well other methods would have worked, without running any forward. It compares
// the chains that they would have proposed with the tokens that were committed.
#pragma once

#include <array>
#include <cstdint>

#include "decode/auto/trunk_index.h"
#include "state/sequence.h"

namespace sbrt {

// Predicts rounds whose chain is a path of the draft's most probable tokens. A node of such a path
// is accepted if the committed token has rank 0 in the draft's distribution. So the ranks of the
// newest tokens tell how many tokens a round commits, for any depth of the path.
class PathReplay {
 public:
  static constexpr int kWindow = 128;  // ranks of at most this number of the newest tokens are used
  static constexpr int kDepth = 16;    // depth of the deepest path

  // Begins a sequence whose root is at `head`. Its acceptance rate is first assumed to be that of
  // the last sequence.
  void begin(int64_t head) {
    first_ = acceptance_;
    first_output_ = head + 1;
  }
  // Reads the ranks of the tokens up to `head`. rank: as Sequence::rank; if null, no rank is known.
  // The lanes may write other ranks during the call.
  void read(const uint8_t* rank, int64_t head);
  // Returns the expected number of tokens that a round commits if its path has `depth` nodes, the
  // target's own token included.
  double tokens(int depth) const { return tokens_[depth]; }
  // Returns the share of committed tokens that were among the draft's `n` most probable tokens.
  double coverage(int n) const;
  int evidence() const { return n_; }  // number of ranks that the last read() found

 private:
  std::array<uint8_t, kWindow> rank_{};  // ranks, oldest first
  int n_ = 0;
  int64_t first_output_ = 0;  // position of the first token after the prompt
  double acceptance_ = 0.7, first_ = 0.7;
  std::array<double, kDepth + 1> tokens_{};
};

// Replays rounds of the method `lookup` on the trunk.
class LookupReplay {
 public:
  explicit LookupReplay(int gamma) : gamma_(gamma) {}

  // Begins a sequence whose root is at `head`, and replays rounds on the end of its prompt.
  void begin(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  // Replays all rounds whose tokens are committed when the root is at `head`.
  void read(const int32_t* trunk, const TrunkIndex& index, int64_t head);
  double tokens() const { return rounds_ > 0 ? tokens_ / rounds_ : 1; }  // tokens per round
  // Returns the tokens per round if a draft gives `drafted` tokens in each round in which the
  // look-up gives less.
  double tokens_with(double drafted) const;
  // Returns the share of the rounds in which the look-up found a chain.
  double share() const { return rounds_ > 0 ? chains_ / rounds_ : 0; }

 private:
  int gamma_;
  int64_t root_ = 0;  // position of the next round's root
  double rounds_ = 0, tokens_ = 0, chains_ = 0;
  std::array<double, kMaxChain + 2> gave_{};  // rounds by the number of tokens that they committed
};

}  // namespace sbrt
