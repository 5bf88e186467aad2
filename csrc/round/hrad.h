// H-RAD: a small classifier that predicts how much of an adopted tail is accepted: nothing, some of
// it, or all of it (SpecBranch, arXiv 2506.01979). It reads the target's newest features and the
// draft's confidence. The confidence is our addition, because features do not tell which tail was
// adopted.
//
// The input is x, [5 hidden + 2 kHradTail]. It begins with 5 feature blocks of `hidden` floats;
// each block is divided by its root mean square. Then comes log q of the first kHradTail nodes of
// the tail. Then comes the log of the calibrated confidence of the same nodes. These logs are at
// least kLeastLog, and 0 after the tail's end.
//   -> relu(W1 x + b1) [256] -> relu(W2 . + b2) [64] -> W3 . + b3 [3]
#pragma once

#include <cstdint>
#include <vector>

#include "model/lane.h"
#include "ops/matmul.h"
#include "round/hrad_op.h"

namespace sbrt {

struct HradWeights {
  std::vector<float> w1, b1, w2, b2, w3, b3;  // row-major [out, in]; w1 is later stored as bf16
};

class Hrad {
 public:
  // The weights of one layer. The inputs are split into split.count parts of split.length inputs.
  // Row o + 16 * panels * p of the matrix holds the weights of output o for part p, with zeros as
  // padding. panels: number of panels of outputs.
  struct Layer {
    HradSplit split;
    int panels;
    PackedMatrix matrix;
    std::vector<float> bias;
  };

  // Throws InvalidInput unless all sizes are those above and all weights are finite.
  Hrad(int64_t hidden, const HradWeights& weights);

  int64_t hidden() const { return hidden_; }
  static int64_t inputs(int64_t hidden) { return hrad_inputs(hidden); }
  // Returns the number of floats of x: the inputs, then zeros as padding.
  static int64_t room(int64_t hidden) { return first_split(hidden).room(); }
  static constexpr int kScratch = kHradParts * kHradInner + kHradNarrow;
  // Writes the scores of the three classes (Cut) to `out`. x is [room(hidden)]. scratch,
  // [kScratch], is working memory. After the call, it begins with the outputs of the first layer
  // and ends with those of the second.
  void scores(const float* x, float* scratch, float out[3]) const;
  Cut classify(const float* x, float* scratch) const;
  const Layer& layer(int i) const { return i == 0 ? first_ : i == 1 ? second_ : third_; }

 private:
  static Layer packed(const char* name, const std::vector<float>& w, const std::vector<float>& b,
                      int64_t out, int64_t in, const Format& storage);
  void apply(const Layer& layer, const float* x, float* sums) const;

  int64_t hidden_;
  const Kernels& kernels_;
  Layer first_, second_, third_;
};

// Writes the classifier's inputs for an outcome to x, [Hrad::room(hidden)]. Does not change the
// padding. `tail` is null after a miss.
void read_features(const Lane& lane, int row, int32_t token, const Branch* tail, float* x);

}  // namespace sbrt
