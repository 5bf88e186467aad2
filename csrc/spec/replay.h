// How chains would have done on the tokens that came: evidence that costs no forward.
#pragma once

#include <array>
#include <cstdint>

#include "exec/control.h"

namespace sbrt {

// Paths of the draft's first choices. A token stands in such a path if and only if it was the first
// choice there, so the ranks of the newest tokens say what rounds of any depth would have brought.
class PathReplay {
 public:
  static constexpr int kWindow = 128;  // newest tokens whose rank is known
  static constexpr int kDepth = 16;    // deepest path

  // A new sequence starts from the acceptance of the last one.
  void begin(const Control& control) {
    first_ = acceptance_;
    first_output_ = control.head + 1;
  }
  void read(const Control& control);
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

  void begin(const Control& control);
  // Plays all rounds whose end has come.
  void read(const Control& control);
  double tokens() const { return rounds_ > 0 ? tokens_ / rounds_ : 1; }  // of a round
  double rows() const { return rounds_ > 0 ? rows_ / rounds_ : 1; }      // it verifies

 private:
  int gamma_;
  int64_t root_ = 0;  // position of the next round's root
  double rounds_ = 0, tokens_ = 0, rows_ = 0;
};

}  // namespace sbrt
