// Tells `auto` how rounds would have gone whose serial burst is joined with look-ups
// (Policy::lookup). Such a round begins with the look-up. Only where the look-up is not likely
// enough, the draft runs. The replay takes the newest committed tokens and runs no forward.
#pragma once

#include <array>
#include <cstdint>

#include "decode/auto/backtest.h"
#include "decode/auto/trunk_index.h"
#include "state/sequence.h"

namespace sbrt {

class JoinedReplay {
 public:
  // Sums over the replayed rounds.
  struct Played {
    double tokens = 0;
    double drafted = 0;  // number of rounds with a burst
    double filled = 0;   // number of rounds whose chain is only a look-up
    double rows = 0;     // verified rows of the rounds without a burst
    double joined = 0;   // verified looked-up nodes of the rounds with a burst
    double missed = 0;   // tokens committed without a burst; the draft processes them later
    double rounds() const { return drafted + filled; }
    Played times(double share) const {
      return {share * tokens, share * drafted, share * filled,
              share * rows,   share * joined,  share * missed};
    }
  };

  // Begins a sequence whose root is at `head`. Its rounds are first assumed to go as those of the
  // last sequence. path: the draft's acceptance in the last sequence.
  void begin(int64_t head, const PathReplay& path);
  // Reads the tokens that are committed when the root is at `head`, and the ranks that are known.
  // The lanes may write other ranks during the call.
  void read(const Sequence& c, const TrunkIndex& index, int64_t head);
  // Replays rounds with bursts of `depth` steps of `width` nodes. path_tokens: tokens of a round
  // without look-ups, for places where the draft's ranks are not known. most: largest number of
  // nodes of a chain.
  Played play(int depth, int width, double path_tokens, int most) const;

 private:
  static constexpr int kWindow = 128;  // number of the newest positions that are replayed
  static constexpr int kKinds = 3;     // number of kinds of burst, by width

  struct Burst {
    int depth, breadth;
    double tokens;  // path_tokens of play()
    int most;       // as in play()
  };

  // The look-up after the trunk's tokens up to one position, and the draft's rank there.
  struct Spot {
    int64_t after;  // as Match::after
    int length;     // length of the match; 0: there is none
    int right;      // number of looked-up tokens that were right, at most kMostFound
    float chance;   // estimated probability that the first looked-up token is right
    uint8_t rank;   // rank of the token at this position, as Sequence::rank
  };

  Spot& spot(int64_t position) { return spots_[position % kWindow]; }
  const Spot& spot(int64_t position) const { return spots_[position % kWindow]; }
  void add(const Sequence& c, const TrunkIndex& index, int64_t position);
  void replay(const Burst& burst, Played& sum) const;
  int fill(int64_t root, int most, Played& sum) const;
  int draft(int64_t root, const Burst& burst, int guess, Played& sum) const;

  std::array<Spot, kWindow> spots_{};
  // [kind][depth] rounds of earlier sequences, with less weight
  std::array<std::array<Played, PathReplay::kDepth + 1>, kKinds> carried_{};
  // Positions from first_ up to head_ have a spot. The spot of head_ has a rank only.
  int64_t first_ = 0, head_ = 0;
  Hindsight past_{};  // the look-ups at these positions
};

}  // namespace sbrt
