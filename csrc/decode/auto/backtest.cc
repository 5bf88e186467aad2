#include "decode/auto/backtest.h"

#include <algorithm>
#include <cmath>

#include "round/chain.h"
#include "round/lookup_op.h"

namespace sbrt {
namespace {

// Ranks are read from at most this number of tokens before the head.
constexpr int64_t kFarthest = 512;
// The acceptance rate of the last sequence has the weight of this number of observed tokens.
constexpr double kThin = 16;
constexpr int64_t kOfPrompt = 12;  // ranks of at most this number of prompt tokens are used
// Rounds that were replayed on the prompt together have at most the weight of this number of
// rounds.
constexpr double kCarried = 12;
// Each new round multiplies the weights of the rounds before it by this factor.
constexpr double kFading = 0.985;

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
      ++at;  // a round also commits the target's own token, so one more rank is used
    }
    // Expected number of tokens of a round if each node were accepted independently. This number
    // enters the estimate with the weight of kThin tokens.
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
  for (double& rounds : gave_) rounds *= kept;
}

double LookupReplay::tokens_with(double drafted) const {
  if (rounds_ <= 0) return drafted;
  double rounds = 0, left = tokens_;  // left: tokens of the rounds in which the draft gives more
  for (int n = 2; n < static_cast<int>(gave_.size()); ++n) {
    if (n <= drafted) continue;
    rounds += gave_[n];
    left -= n * gave_[n];
  }
  return tokens_ / (rounds + left / drafted);
}

void LookupReplay::read(const int32_t* trunk, const TrunkIndex& index, int64_t head) {
  int32_t found[kMaxChain];
  while (root_ < head) {
    const int64_t after = index.match(trunk, root_ + 1).after;
    const int chain = after < 0 ? 0 : gamma_;
    if (chain > 0) read_on(trunk, root_ + 1, after, chain, found);
    const int64_t seen = std::min<int64_t>(chain, head - root_);
    int n = 0;
    while (n < seen && found[n] == trunk[root_ + 1 + n]) ++n;
    if (n == seen && n < chain) return;  // the tokens of this round are not all committed yet
    if (root_ + n + 1 > head) return;
    rounds_ = rounds_ * kFading + 1;
    tokens_ = tokens_ * kFading + n + 1;
    chains_ = chains_ * kFading + (chain > 0);
    for (double& rounds : gave_) rounds *= kFading;
    ++gave_[n + 1];
    root_ += n + 1;
  }
}

}  // namespace sbrt
