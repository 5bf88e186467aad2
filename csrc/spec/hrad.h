// H-RAD: a small classifier that says, from the target's newest features, how much of an adopted tail
// will stand: nothing, some of it, all of it (SpecBranch, arXiv 2506.01979).
//
// x [5 hidden], every block of `hidden` divided by its root mean square
//   -> relu(W1 x + b1) [256] -> relu(W2 . + b2) [64] -> W3 . + b3 [3]
#pragma once

#include <cstdint>
#include <vector>

#include "model/lane.h"
#include "ops/matmul.h"

namespace sbrt {

constexpr int kHradInner = 256, kHradNarrow = 64;

struct HradWeights {
  std::vector<float> w1, b1, w2, b2, w3, b3;  // row-major [out, in]
};

class Hrad {
 public:
  // Throws InvalidInput unless the sizes are those above and every weight is finite.
  Hrad(int64_t hidden, const HradWeights& weights);

  int64_t hidden() const { return hidden_; }
  // Scores of the three cuts. `scratch`: [kHradInner + kHradNarrow].
  void scores(const float* x, float* scratch, float out[3]) const;
  Cut classify(const float* x, float* scratch) const;

 private:
  struct Layer {
    PackedMatrix matrix;
    std::vector<float> bias;
  };
  static Layer layer(const char* name, const std::vector<float>& w, const std::vector<float>& b,
                     int64_t out, int64_t in);
  void apply(const Layer& layer, const float* x, float* y) const;

  int64_t hidden_;
  const Kernels& kernels_;
  Layer first_, second_, third_;
};

// Features of one outcome, as the classifier reads them: [kFeatureBlocks * hidden].
void read_normalised(const Lane& lane, int row, int32_t token, float* x);

}  // namespace sbrt
