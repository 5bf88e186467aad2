#include "ops/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/filter.h"
#include "ops/kernels.h"

namespace sbrt {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

int32_t size_of(LogitRow logits) { return static_cast<int32_t>(logits.size()); }

// Returns the row of logits in which `holes`, the ids that no token has, are masked. If there are
// holes, the returned row is a copy.
LogitRow without(LogitRow logits, const List<int32_t>& holes, ChooseScratch& scratch) {
  if (holes.n == 0) return logits;
  float* copy = scratch.shaping.logits.data();
  std::copy_n(logits.data(), size_of(logits), copy);
  for (const int32_t id : holes)
    if (id < size_of(logits)) copy[id] = kMasked;
  return {copy, logits.size()};
}

int32_t rank_of(LogitRow logits, int32_t token) {
  const float own = logits[token];
  int32_t before = 0;
  for (int32_t i = 0; i < token; ++i) before += logits[i] >= own;
  for (int32_t i = token + 1; i < size_of(logits); ++i) before += logits[i] > own;
  return 1 + before;
}

// Writes the `top` tokens with the greatest logits to scratch.filter.ids, best first. Returns the
// number of tokens written.
int32_t find_top(const Kernels& kernels, LogitRow logits, float most, int32_t top,
                 ChooseScratch& scratch) {
  const Sampling first{
      .temperature = 1, .min_p = 0, .top_p = 1, .top_k = top, .seed = 0, .completion = 0};
  int32_t* ids = scratch.filter.ids.data();
  const int n = filter(kernels, logits.data(), size_of(logits), most, first, scratch.filter);
  std::sort(ids, ids + n, [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  return n;
}

}  // namespace

void find_logprobs(LogitRow logits, const List<int32_t>& holes, int32_t token, int32_t top,
                   ChooseScratch& scratch, TokenLogprob* out) {
  static const Kernels& kernels = kernels_named("auto");
  logits = without(logits, holes, scratch);
  std::fill_n(out, 1 + top, TokenLogprob{-1, 0, 0});
  out[0].token = token;
  bool bad;
  const float most = kernels.largest(logits.data(), size_of(logits), &bad);
  if (bad || most == kMasked) return;
  const auto units =
      static_cast<double>(kernels.weigh(logits.data(), size_of(logits), most, 1.0f, nullptr));
  const double shift = most + std::log(units * 0x1p-40);
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[id] - shift); };
  out[0] = {token, rank_of(logits, token), logprob(token)};
  if (top == 0) return;
  const int32_t n = find_top(kernels, logits, most, top, scratch);
  const int32_t* ids = scratch.filter.ids.data();
  for (int32_t i = 0; i < n; ++i) out[1 + i] = {ids[i], i + 1, logprob(ids[i])};
}

}  // namespace sbrt
