#include "ops/filter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace sbrt {
namespace {

// The lowest finite float. A token with a logit below it is excluded: the logit is -inf.
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr int kFew = 256;  // lists of up to this number of tokens are sorted without buckets
constexpr int kBuckets = 1024;

// Returns a logit below which exp32 is less than `weight` (0 < weight <= 1). A margin covers the
// rounding errors of exp32, of its argument and of this function.
float bar_of(double weight, float most, float temperature) {
  const double bar = most + temperature * (std::log(weight) - 1e-3);
  return std::nextafter(static_cast<float>(std::max<double>(bar, kLowest)), kLowest);
}

// Returns `weight` in units of 2^-40, rounded as Kernels::weigh rounds it.
int64_t units(float weight) {
  return std::bit_cast<int64_t>(double{weight} + kToUnits) - std::bit_cast<int64_t>(kToUnits);
}

class Filter {
 public:
  Filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
         FilterScratch& scratch)
      : v_(kernels),
        logits_(logits),
        vocab_(vocab),
        most_(most),
        s_(s),
        ids_(scratch.ids.data()),
        order_(scratch.order.data()),
        weight_(scratch.weight.data()) {}

  int run() {
    const int k = s_.top_k > 0 && s_.top_k < vocab_ ? s_.top_k : vocab_;
    if (k == vocab_ && s_.min_p <= 0) return s_.top_p < 1 ? nucleus_of_all() : reaching(kLowest);
    const float least = s_.min_p > 0 ? bar_of(s_.min_p, most_, s_.temperature) : kLowest;
    const int n = top(reaching(std::max(least, bar_of_top(k))), k);
    return s_.top_p < 1 ? nucleus(n) : n;
  }

 private:
  // Compares tokens a and b, which are indices into `ids`.
  bool before(int32_t a, int32_t b) const {
    const float x = logits_[ids_[a]], y = logits_[ids_[b]];
    return x > y || (x == y && a < b);
  }
  auto by_logit() const {
    return [this](int32_t a, int32_t b) { return before(a, b); };
  }

  template <class F>
  int keep_if(int n, F f) {
    int kept = 0;
    for (int i = 0; i < n; ++i)
      if (f(i)) ids_[kept] = ids_[i], weight_[kept] = weight_[i], ++kept;
    return kept;
  }

  // Keeps the tokens whose logits are at least `bar` and whose weights are at least min_p. Returns
  // their number.
  int reaching(float bar) {
    const int n = static_cast<int>(v_.gather(logits_, vocab_, bar, ids_));
    if (s_.min_p <= 0 && s_.top_p >= 1) return n;
    weigh(n);
    return s_.min_p > 0 ? keep_if(n, [&](int i) { return weight_[i] >= s_.min_p; }) : n;
  }

  void weigh(int n) {
    for (int i = 0; i < n; ++i) weight_[i] = logits_[ids_[i]];
    v_.weigh(weight_, n, most_, s_.temperature, weight_);
  }

  // Returns a threshold that at least k tokens reach.
  float bar_of_top(int k) {
    // Each part has 16 maxima, so there are at least 4 k maxima.
    const int64_t parts = (int64_t{k} + 3) / 4;
    const int64_t length = vocab_ / 16 / parts;
    if (length < 2) return kLowest;
    v_.maxima(logits_, parts, length, weight_);
    std::nth_element(weight_, weight_ + k - 1, weight_ + 16 * parts, std::greater<>());
    return std::max(weight_[k - 1], kLowest);
  }

  // Keeps the best k of the first n tokens. Returns the number of tokens that it keeps.
  int top(int n, int k) {
    if (n <= k) return n;
    std::iota(order_, order_ + n, 0);
    std::nth_element(order_, order_ + k - 1, order_ + n, by_logit());
    return up_to(n, order_[k - 1]);
  }

  // Keeps the token at index `last`, and all better ones among the first n tokens. Returns the
  // number of tokens that it keeps.
  int up_to(int n, int32_t last) {
    const float x = logits_[ids_[last]];
    const int32_t id = ids_[last];
    return keep_if(
        n, [&](int i) { return logits_[ids_[i]] > x || (logits_[ids_[i]] == x && ids_[i] <= id); });
  }

  // Applies top_p to the first n tokens. Returns the number of tokens that it keeps.
  int nucleus(int n) {
    int64_t total = 0;
    for (int i = 0; i < n; ++i) total += units(weight_[i]);
    return cut(n, enough(total));
  }

  // Applies top_p to the whole vocabulary. Let r = 1 - top_p. All tokens below the threshold
  // together have less than r times the total weight, so all of them can be dropped. The factor
  // 0.25 allows for rounding: in units, a weight w may be rounded up to 2 w.
  int nucleus_of_all() {
    const int64_t total = v_.weigh(logits_, vocab_, most_, s_.temperature, nullptr);
    const double weight = 0.25 * (1 - static_cast<double>(s_.top_p)) * total * 0x1p-40 / vocab_;
    const int n = reaching(bar_of(std::min(weight, 1.0), most_, s_.temperature));
    return cut(n, enough(total));
  }

  // Returns the smallest number of units that is at least top_p * total and at least 1. So the
  // first token is always kept.
  int64_t enough(int64_t total) const {
    const double part = static_cast<double>(s_.top_p) * static_cast<double>(total);
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(part)));
  }

  // Sorts n tokens, best first, and keeps the shortest prefix whose weights add up to `enough`.
  // Returns the number of tokens that it keeps.
  int cut(int n, int64_t enough) {
    int64_t sum = 0;
    const int m = n <= kFew ? all(n) : crossing(n, enough, sum);
    std::sort(order_, order_ + m, by_logit());
    for (int i = 0; i < m; ++i) {
      sum += units(weight_[order_[i]]);
      if (sum >= enough) return up_to(n, order_[i]);
    }
    return n;
  }

  int all(int n) {
    std::iota(order_, order_ + n, 0);
    return n;
  }

  // Sorts n tokens into buckets by logit. Finds the bucket in which the running sum of weights
  // reaches `enough`. Writes the indices of that bucket's tokens to `order_` and returns their
  // number. Sets `sum` to the total weight of the better buckets.
  int crossing(int n, int64_t enough, int64_t& sum) {
    float lowest = most_;
    for (int i = 0; i < n; ++i) lowest = std::min(lowest, logits_[ids_[i]]);
    const double range = static_cast<double>(most_) - lowest;
    const double scale = range > 0 ? kBuckets / range : 0;
    const auto bucket = [&](int i) {
      const double below = static_cast<double>(most_) - logits_[ids_[i]];
      return std::min(kBuckets - 1, static_cast<int>(below * scale));
    };
    int64_t sums[kBuckets] = {};
    for (int i = 0; i < n; ++i) sums[bucket(i)] += units(weight_[i]);
    int at = 0;
    for (; at < kBuckets - 1 && sum + sums[at] < enough; ++at) sum += sums[at];
    int m = 0;
    for (int i = 0; i < n; ++i)
      if (bucket(i) == at) order_[m++] = i;
    return m;
  }

  const Kernels& v_;
  const float* logits_;
  int vocab_;
  float most_;
  const Sampling& s_;
  int32_t *ids_, *order_;
  float* weight_;
};

}  // namespace

int filter(const Kernels& kernels, const float* logits, int vocab, float most, const Sampling& s,
           FilterScratch& scratch) {
  return Filter(kernels, logits, vocab, most, s, scratch).run();
}

}  // namespace sbrt
