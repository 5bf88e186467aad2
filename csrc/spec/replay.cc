#include "spec/replay.h"

#include <algorithm>
#include <cmath>

#include "spec/lanes.h"

namespace sbrt {
namespace {

constexpr int64_t kFarthest = 512;  // tokens back that are looked at
constexpr double kThin = 16;        // tokens that an earlier sequence's acceptance counts for
constexpr int64_t kOfPrompt = 12;   // of its tokens that count
constexpr double kCarried = 12;     // look-up rounds that earlier ones and the prompt count for
constexpr double kFading = 0.985;   // of a look-up round's weight, a round later

}  // namespace

void PathReplay::read(const Control& c) {
  n_ = 0;
  if (!c.rank) return;
  const int64_t oldest = std::max({int64_t{1}, c.head - kFarthest, first_output_ - kOfPrompt});
  for (int64_t p = c.head; p >= oldest && n_ < kWindow; --p)
    if (c.rank[p] != kUnknownRank) rank_[n_++] = c.rank[p];
  std::reverse(rank_.begin(), rank_.begin() + n_);
  const double hits = static_cast<double>(std::count(rank_.begin(), rank_.begin() + n_, 0));
  const double alpha = acceptance_ = (hits + kThin * first_) / (n_ + kThin);
  for (int depth = 0; depth <= kDepth; ++depth) {
    int rounds = 0;
    for (int at = 0; at < n_; ++rounds) {
      const int last = std::min(at + depth, n_);
      while (at < last && rank_[at] == 0) ++at;
      ++at;  // the target's own
    }
    // A path of independent tokens, weighing as much as kThin of them.
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

void LookupReplay::begin(const Control& c) {
  root_ = std::max<int64_t>(0, c.head - 3 * kOfPrompt);
  read(c);
  const double kept = rounds_ > 0 ? std::min(1.0, kCarried / rounds_) : 0;
  rounds_ *= kept, tokens_ *= kept, rows_ *= kept;
}

void LookupReplay::read(const Control& c) {
  int32_t found[kMaxChain];
  while (root_ < c.head) {
    const int chain = look_up(c.trunk, root_ + 1, gamma_, found);
    const int64_t seen = std::min<int64_t>(chain, c.head - root_);
    int n = 0;
    while (n < seen && found[n] == c.trunk[root_ + 1 + n]) ++n;
    if (n == seen && n < chain) return;  // its end has not come
    if (root_ + n + 1 > c.head) return;
    rounds_ = rounds_ * kFading + 1;
    tokens_ = tokens_ * kFading + n + 1;
    rows_ = rows_ * kFading + chain + 1;
    root_ += n + 1;
  }
}

}  // namespace sbrt
