#include "decode/auto/backtest.h"

#include <algorithm>
#include <cmath>

#include "round/chain.h"
#include "round/lookup_op.h"

namespace sbrt {
namespace {

constexpr int64_t kFarthest = 512;  // most tokens before the head that are read
constexpr double kThin = 16;        // weight of the last sequence's acceptance, in tokens
constexpr int64_t kOfPrompt = 12;   // most ranks of prompt tokens that are used
constexpr double kCarried = 12;     // most weight of rounds before the first output, in rounds
constexpr double kFading = 0.985;   // factor of a look-up round's weight per later round

}  // namespace

void PathReplay::read(const uint8_t* rank, int64_t head) {
  n_ = 0;
  if (!rank) return;
  const int64_t oldest = std::max({int64_t{1}, head - kFarthest, first_output_ - kOfPrompt});
  for (int64_t p = head; p >= oldest && n_ < kWindow; --p) {
    const uint8_t known = rank_at(rank, p);
    if (known != kUnknownRank) rank_[n_++] = known - 1;
  }
  std::reverse(rank_.begin(), rank_.begin() + n_);
  const double hits = static_cast<double>(std::count(rank_.begin(), rank_.begin() + n_, 0));
  const double alpha = acceptance_ = (hits + kThin * first_) / (n_ + kThin);
  for (int depth = 0; depth <= kDepth; ++depth) {
    int rounds = 0;
    for (int at = 0; at < n_; ++rounds) {
      const int last = std::min(at + depth, n_);
      while (at < last && rank_[at] == 0) ++at;
      ++at;  // a round also commits the target's own token
    }
    // Expected tokens of a round if tokens were accepted independently, at the weight of kThin
    // tokens.
    const double apart = alpha < 1 ? (1 - std::pow(alpha, depth + 1)) / (1 - alpha) : depth + 1;
    tokens_[depth] = (n_ + kThin) / (rounds + kThin / apart);
  }
}

double PathReplay::coverage(int n) const {
  const auto within = [n](uint8_t rank) { return rank < n; };
  const double hits = static_cast<double>(std::count_if(rank_.begin(), rank_.begin() + n_, within));
  const double guess = 1 - (1 - first_) * std::pow(0.7, n - 1);
  return (hits + kThin * guess) / (n_ + kThin);
}

void LookupReplay::begin(const int32_t* trunk, const TrunkIndex& index, int64_t head) {
  root_ = std::max<int64_t>(0, head - 3 * kOfPrompt);
  read(trunk, index, head);
  const double kept = rounds_ > 0 ? std::min(1.0, kCarried / rounds_) : 0;
  rounds_ *= kept, tokens_ *= kept, chains_ *= kept;
}

void LookupReplay::read(const int32_t* trunk, const TrunkIndex& index, int64_t head) {
  int32_t found[kMaxChain];
  while (root_ < head) {
    const int64_t after = index.after_match(trunk, root_ + 1);
    const int chain = after < 0 ? 0 : gamma_;
    if (chain > 0) read_on(trunk, root_ + 1, after, chain, found);
    const int64_t seen = std::min<int64_t>(chain, head - root_);
    int n = 0;
    while (n < seen && found[n] == trunk[root_ + 1 + n]) ++n;
    if (n == seen && n < chain) return;  // the round has not ended at `head`
    if (root_ + n + 1 > head) return;
    rounds_ = rounds_ * kFading + 1;
    tokens_ = tokens_ * kFading + n + 1;
    chains_ = chains_ * kFading + (chain > 0);
    root_ += n + 1;
  }
}

}  // namespace sbrt
