// H-RAD behind `select`: what it reads of an outcome, its first layer, and what it says. On every device.
//
// A layer's sum runs over k from 0 up, one fma per step, then the bias: the order of the host's vectors
// (ops/matmul.h), so that both come to the same bits wherever the vectors have an fma. The host keeps
// those: this text is one output after the other, for a device's threads.
#pragma once

#include <cmath>

#include "ops/kernels.h"
#include "spec/op_args.h"
#include "spec/team.h"

namespace sbrt {

constexpr int kHradInner = 256, kHradNarrow = 64, kHradCuts = 3;
constexpr int kHradTail = 16;  // nodes of a tail whose confidence is read
constexpr float kLeastLog = -8.0f;

// The same bits on every device, by way of doubles.
struct AnyLog {
  SBRT_ANY float operator()(float x) const {
    return static_cast<float>(::log(static_cast<double>(x)));
  }
};

// Blocks of `width` divided by their root mean square. `scale`: [kFeatureBlocks], the team's.
template <class Team>
SBRT_ANY void scale_blocks(float* x, int64_t width, float* scale, Team team) {
  constexpr float kLeast = 1e-6f;  // beside the root mean square
  for (int b = team.rank; b < kFeatureBlocks; b += team.size) {
    const float* block = x + b * width;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{block[i]} * block[i];
    const double mean = squares / static_cast<double>(width);
    scale[b] = 1.0f / (static_cast<float>(::sqrt(mean)) + kLeast);
  }
  team.meet();
  for (int b = 0; b < kFeatureBlocks; ++b)
    for (int64_t i = team.rank; i < width; i += team.size) x[b * width + i] *= scale[b];
}

// Of the nodes of a path in a row, those at whose parents the draft left a law. `tail`: null after a
// miss.
template <class Team, class Log>
SBRT_ANY void read_confidence(const Branch* tail, float* x, Team team, Log log_of) {
  for (int j = 1 + team.rank; j <= kHradTail; j += team.size) {
    const Law* law = tail && j <= tail->size ? &tail->law[tail->parent[j]] : nullptr;
    float q = 0, confidence = 0;
    if (law) {
      q = law->q > 0 ? most(log_of(law->q), kLeastLog) : kLeastLog;
      confidence = most(law->lp[0], kLeastLog);
    }
    x[j - 1] = q;
    x[kHradTail + j - 1] = confidence;
  }
}

SBRT_ANY inline const Branch* adopted(const Control& c) {
  return c.outcome.branch < 0 ? nullptr : &c.branches[c.outcome.branch];
}

SBRT_ANY inline int64_t hrad_inputs(int64_t hidden) {
  return kFeatureBlocks * hidden + 2 * kHradTail;
}

// Whether anybody will hear what it says of this outcome.
SBRT_ANY inline bool is_asked(const Control& c) { return c.policy.hrad && !c.outcome.error; }

struct FeatureScratch {
  float scale[kFeatureBlocks];
};

// What the classifier reads, into args.x.
template <class Team>
SBRT_ANY void hrad_features_op(const HradArgs& args, FeatureScratch& scratch, Team team) {
  const Control& c = *args.control;
  if (c.outcome.error || !(c.policy.hrad || args.shown)) return;
  const int64_t width = args.target.hidden, read = kFeatureBlocks * width;
  for (int64_t i = team.rank; i < read; i += team.size)
    args.x[i] = args.target.at(c.outcome.node, c.outcome.y, i);
  team.meet();
  scale_blocks(args.x, width, scratch.scale, team);
  read_confidence(adopted(c), args.x + read, team, AnyLog{});
  if (!args.shown) return;
  team.meet();
  for (int64_t i = team.rank; i < hrad_inputs(width); i += team.size) args.shown[i] = args.x[i];
}

// Pairs of k of a panel that a team has at hand at once.
constexpr int kHradTile = 256;
constexpr int kHradPanels = kHradInner / kPanel;

struct InnerScratch {
  uint32_t words[kHradTile * kPanel];
  float x[2 * kHradTile];
  float sum[kPanel];
};

// On from `sum`, over `n` k of an output whose words (bf16 k, then k + 1) begin at `words`.
SBRT_ANY inline float add_pairs(const uint32_t* words, const float* x, int64_t n, float sum) {
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t pair = words[k / 2 * kPanel];
    const uint32_t wide = k % 2 ? pair & 0xffff0000u : pair << 16;
    sum = ::fmaf(x[k], __builtin_bit_cast(float, wide), sum);
  }
  return sum;
}

// The panel `panel` of the first layer, into args.inner: a device has a block for each. The words come
// by tiles, since 16 sums that wait for them one by one would wait for the memory each time.
template <class Team>
SBRT_ANY void hrad_inner_op(const HradArgs& args, int panel, InnerScratch& s, Team team) {
  if (!is_asked(*args.control)) return;
  const int64_t inputs = hrad_inputs(args.target.hidden), pairs = (inputs + 1) / 2;
  const uint32_t* words = args.layer[0].panels + panel * pairs * kPanel;
  for (int o = team.rank; o < kPanel; o += team.size) s.sum[o] = 0;
  for (int64_t from = 0; from < pairs; from += kHradTile) {
    const int64_t n = least<int64_t>(2 * kHradTile, inputs - 2 * from);
    for (int64_t i = team.rank; i < (n + 1) / 2 * kPanel; i += team.size)
      s.words[i] = words[from * kPanel + i];
    for (int64_t i = team.rank; i < n; i += team.size) s.x[i] = args.x[2 * from + i];
    team.meet();
    for (int o = team.rank; o < kPanel; o += team.size)
      s.sum[o] = add_pairs(s.words + o, s.x, n, s.sum[o]);
    team.meet();  // before the next tile
  }
  for (int o = team.rank; o < kPanel; o += team.size) {
    const int at = panel * kPanel + o;
    args.inner[at] = most(s.sum[o] + args.layer[0].bias[at], 0.0f);
  }
}

// Output `o` of a layer whose panels are f32.
SBRT_ANY inline float hrad_output(const HradLayer& layer, int o, const float* x, int in) {
  const uint32_t* words = layer.panels + o / kPanel * in * kPanel + o % kPanel;
  float sum = 0;
  for (int k = 0; k < in; ++k)
    sum = ::fmaf(x[k], __builtin_bit_cast(float, words[k * kPanel]), sum);
  return sum + layer.bias[o];
}

struct CutScratch {
  float narrow[kHradNarrow], score[kHradCuts];
};

// The other two layers, and the cut: of equal scores the first.
template <class Team>
SBRT_ANY void hrad_cut_op(const HradArgs& args, CutScratch& s, Team team) {
  Control& c = *args.control;
  if (!is_asked(c)) return;
  for (int o = team.rank; o < kHradNarrow; o += team.size)
    s.narrow[o] = most(hrad_output(args.layer[1], o, args.inner, kHradInner), 0.0f);
  team.meet();
  for (int o = team.rank; o < kHradCuts; o += team.size)
    s.score[o] = hrad_output(args.layer[2], o, s.narrow, kHradNarrow);
  team.meet();
  if (team.rank != 0) return;
  int best = 0;
  for (int cut = 1; cut < kHradCuts; ++cut)
    if (s.score[best] < s.score[cut]) best = cut;
  c.cut = static_cast<Cut>(best);
}

}  // namespace sbrt
