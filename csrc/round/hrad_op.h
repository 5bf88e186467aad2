// H-RAD after `select`: its inputs for an outcome, its layers, and the cut of the tail. The code
// runs on every device.
//
// Every sum consists of at most kHradParts partial sums, which are added by one fixed tree of
// additions. A partial sum of a layer adds its products in ascending order of inputs, each with one
// fma. The host computes partial sums with the vectors of ops/matmul.h. A device computes each
// partial sum with one thread. The bits are the same if the host's vectors have an fma.
#pragma once

#include <cmath>

#include "ops/kernels.h"
#include "round/op_args.h"
#include "round/crew.h"

namespace sbrt {

constexpr int kHradInner = 256, kHradNarrow = 64, kHradCuts = 3;
constexpr int kHradTail = 16;   // number of nodes of a tail whose confidence is an input
constexpr int kHradParts = 32;  // largest number of partial sums per sum, a power of two
constexpr int kHradWords = 16;  // number of words of a panel that a thread loads at once
constexpr float kLeastLog = -8.0f;

// Computes the logarithm in double. So host and devices get the same bits.
struct AnyLog {
  SBRT_ANY float operator()(float x) const {
    return static_cast<float>(::log(static_cast<double>(x)));
  }
};

// Describes how the inputs of a layer are divided among partial sums: into `count` parts of
// `length` inputs. Zeros follow the layer's last input.
struct HradSplit {
  int64_t length;
  int count;

  SBRT_ANY constexpr int64_t room() const { return length * count; }  // inputs with padding
};

// Returns the split of a layer with `in` inputs. per_word: number of weights in a 32-bit word of a
// panel: 2 for bf16, 1 for f32.
SBRT_ANY constexpr HradSplit hrad_split(int64_t in, int per_word) {
  const int64_t step = int64_t{kHradWords} * per_word;
  const int64_t length = step * ((in + step * kHradParts - 1) / (step * kHradParts));
  return {length, static_cast<int>((in + length - 1) / length)};
}

// Adds up `count` rows of `width` partial sums. The result is written to the first row. The tree of
// additions depends only on `count`.
template <class T, class Team>
SBRT_ANY void fold_parts(T* sums, int count, int width, Team team) {
  for (int apart = kHradParts / 2; apart > 0; apart /= 2) {
    team.meet();
    for (int i = team.rank; i < least(apart, count - apart) * width; i += team.size)
      sums[i] += sums[i + apart * width];
  }
  team.meet();
}

struct FeatureScratch {
  double squares[kHradParts * kFeatureBlocks];
  float scale[kFeatureBlocks];
};

// Divides each feature block, [width], by its root mean square. Partial sum p of the squares adds
// those of x[p], x[p + 32], ...
template <class Team>
SBRT_ANY void scale_blocks(float* x, int64_t width, FeatureScratch& s, Team team) {
  constexpr float kLeast = 1e-6f;  // added to the root mean square, which may be 0
  for (int i = team.rank; i < kHradParts * kFeatureBlocks; i += team.size) {
    const int part = i % kHradParts, b = i / kHradParts;
    const float* block = x + b * width;
    double squares = 0;
    for (int64_t k = part; k < width; k += kHradParts) squares += double{block[k]} * block[k];
    s.squares[part * kFeatureBlocks + b] = squares;
  }
  fold_parts(s.squares, kHradParts, kFeatureBlocks, team);
  for (int b = team.rank; b < kFeatureBlocks; b += team.size) {
    const double mean = s.squares[b] / static_cast<double>(width);
    s.scale[b] = 1.0f / (static_cast<float>(::sqrt(mean)) + kLeast);
  }
  team.meet();
  for (int b = 0; b < kFeatureBlocks; ++b)
    for (int64_t i = team.rank; i < width; i += team.size) x[b * width + i] *= s.scale[b];
}

// Writes to x, [2 kHradTail], log q of a tail's first kHradTail nodes, then the log confidence of
// the same nodes. The tail is a path. Values after its end are 0. tail: null after a miss.
template <class Team, class Log>
SBRT_ANY void read_confidence(const Branch* tail, float* x, Team team, Log log_of) {
  for (int j = 1 + team.rank; j <= kHradTail; j += team.size) {
    const Dist* dist = tail && j <= tail->size ? &tail->dist[tail->parent[j]] : nullptr;
    float q = 0, confidence = 0;
    if (dist) {
      q = dist->q > 0 ? most(log_of(dist->q), kLeastLog) : kLeastLog;
      confidence = most(dist->lp[0], kLeastLog);
    }
    x[j - 1] = q;
    x[kHradTail + j - 1] = confidence;
  }
}

SBRT_ANY inline const Branch* adopted(const Sequence& c) {
  return c.outcome.branch < 0 ? nullptr : &c.branches[c.outcome.branch];
}

SBRT_ANY inline int64_t hrad_inputs(int64_t hidden) {
  return kFeatureBlocks * hidden + 2 * kHradTail;
}
SBRT_ANY inline HradSplit first_split(int64_t hidden) { return hrad_split(hrad_inputs(hidden), 2); }
constexpr HradSplit kSecondSplit = hrad_split(kHradInner, 1);
constexpr HradSplit kThirdSplit = hrad_split(kHradNarrow, 1);
static_assert(kSecondSplit.room() == kHradInner && kThirdSplit.room() == kHradNarrow);

SBRT_ANY inline HradSeat hrad_seat(const HradArgs& args, int seat) {
  Sequence& c = args.seats.at[seat];
  const int64_t hidden = args.target.hidden;
  return {&c,
          &c.cut,
          args.batch->first[seat] + verified_before(c, c.outcome.node),
          args.target,
          args.x + seat * first_split(hidden).room(),
          args.shown ? args.shown + seat * hrad_inputs(hidden) : nullptr,
          args.inner + seat * int64_t{kHradInner},
          args.layer};
}

// Returns true if the classifier must decide on this outcome.
SBRT_ANY inline bool is_asked(const Sequence& c) { return c.policy.hrad && !c.outcome.error; }

// Writes the classifier's inputs for the outcome to args.x, and a copy to args.shown.
template <class Team>
SBRT_ANY void hrad_features_op(const HradSeat& args, FeatureScratch& scratch, Team team) {
  const Sequence& c = *args.sequence;
  if (c.outcome.error || !(c.policy.hrad || args.shown)) return;
  const int64_t width = args.target.hidden, read = kFeatureBlocks * width;
  for (int64_t i = team.rank; i < read; i += team.size)
    args.x[i] = args.target.at(args.row, c.outcome.y, i);
  team.meet();
  scale_blocks(args.x, width, scratch, team);
  read_confidence(adopted(c), args.x + read, team, AnyLog{});
  if (!args.shown) return;
  team.meet();
  for (int64_t i = team.rank; i < hrad_inputs(width); i += team.size) args.shown[i] = args.x[i];
}

// Returns one partial sum of an output. `words` points to the output's weights for the first input
// of the part. The words of an output are kPanel words apart. A word holds two bf16 weights, for
// inputs k and k + 1, or one f32 weight. Weights and inputs are loaded kHradWords words at a time,
// so a thread waits for memory only once for all of them. x is aligned to 16 bytes.
template <int kPerWord>
SBRT_ANY inline float part_sum(const uint32_t* words, const float* x, int64_t length) {
  constexpr int kStep = kHradWords * kPerWord;
  float sum = 0;
  for (int64_t k = 0; k < length; k += kStep) {
    uint32_t word[kHradWords];
    float in[kStep];
    for (int i = 0; i < kHradWords; ++i) word[i] = words[(k / kPerWord + i) * kPanel];
    for (int i = 0; i < kStep; i += 4)
      __builtin_memcpy(in + i, __builtin_assume_aligned(x + k + i, 16), 16);
    for (int i = 0; i < kHradWords; ++i) {
      if constexpr (kPerWord == 1) {
        sum = ::fmaf(in[i], __builtin_bit_cast(float, word[i]), sum);
      } else {
        sum = ::fmaf(in[2 * i], __builtin_bit_cast(float, word[i] << 16), sum);
        sum = ::fmaf(in[2 * i + 1], __builtin_bit_cast(float, word[i] & 0xffff0000u), sum);
      }
    }
  }
  return sum;
}

// Panels first .. first + count - 1 of the packed weights of a layer. The layer has `panels` panels
// of outputs. Row o + 16 * panels * p of the packed weights has part p of output o (round/hrad.h).
struct HradPanels {
  const uint32_t* words;
  HradSplit split;
  int panels, first, count;
};

// Computes the outputs of the panels in `a`, without the bias. Writes them to the first row of
// `sums`, [split.count, 16 * count].
template <int kPerWord, class Team>
SBRT_ANY void hrad_sums(const HradPanels& a, const float* x, float* sums, Team team) {
  const int width = a.count * kPanel;
  const int64_t length = a.split.length, stride = length / kPerWord * kPanel;
  for (int i = team.rank; i < a.split.count * width; i += team.size) {
    const int part = i / width, panel = part * a.panels + a.first + i % width / kPanel;
    const uint32_t* words = a.words + panel * stride + i % kPanel;
    sums[i] = part_sum<kPerWord>(words, x + part * length, length);
  }
  fold_parts(sums, a.split.count, width, team);
}

constexpr int kHradPanels = kHradInner / kPanel;

struct InnerScratch {
  float sum[kHradParts * kPanel];
};

// Computes one panel of the first layer's outputs, and writes them to args.inner. On a device each
// panel has its own block of threads.
template <class Team>
SBRT_ANY void hrad_inner_op(const HradSeat& args, int panel, InnerScratch& s, Team team) {
  if (!is_asked(*args.sequence)) return;
  const HradSplit split = first_split(args.target.hidden);
  hrad_sums<2>({args.layer[0].panels, split, kHradPanels, panel, 1}, args.x, s.sum, team);
  for (int o = team.rank; o < kPanel; o += team.size) {
    const int at = panel * kPanel + o;
    args.inner[at] = most(s.sum[o] + args.layer[0].bias[at], 0.0f);
  }
}

struct CutScratch {
  float second[kSecondSplit.count * kHradNarrow], third[kThirdSplit.count * kPanel];
  alignas(16) float narrow[kHradNarrow];
  float score[kHradCuts];
};

// Computes the second and the third layer. Writes the class with the highest score to args.cut.
// Among equal scores the first class wins.
template <class Team>
SBRT_ANY void hrad_cut_op(const HradSeat& args, CutScratch& s, Team team) {
  constexpr int kPanels = kHradNarrow / kPanel;
  if (!is_asked(*args.sequence)) return;
  hrad_sums<1>({args.layer[1].panels, kSecondSplit, kPanels, 0, kPanels}, args.inner, s.second,
               team);
  for (int o = team.rank; o < kHradNarrow; o += team.size)
    s.narrow[o] = most(s.second[o] + args.layer[1].bias[o], 0.0f);
  team.meet();
  hrad_sums<1>({args.layer[2].panels, kThirdSplit, 1, 0, 1}, s.narrow, s.third, team);
  for (int o = team.rank; o < kHradCuts; o += team.size)
    s.score[o] = s.third[o] + args.layer[2].bias[o];
  team.meet();
  if (team.rank != 0) return;
  int best = 0;
  for (int cut = 1; cut < kHradCuts; ++cut)
    if (s.score[best] < s.score[cut]) best = cut;
  *args.cut = static_cast<Cut>(best);
}

}  // namespace sbrt
