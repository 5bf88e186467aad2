#include "round/hrad.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace sbrt {
namespace {

void relu(float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = std::max(x[i], 0.0f);
}

// The logarithm with which classifiers were trained. In 2 of 1000 cases its last bit differs from
// AnyLog (round/hrad_op.h).
struct HostLog {
  float operator()(float x) const { return std::log(x); }
};

}  // namespace

Hrad::Layer Hrad::packed(const char* name, const std::vector<float>& w, const std::vector<float>& b,
                         int64_t out, int64_t in, const Format& storage) {
  check<InvalidInput>(
      w.size() == static_cast<size_t>(out * in) && b.size() == static_cast<size_t>(out),
      "hrad: layer ", name, ": expected ", out, " x ", in, " weights and ", out, " biases but got ",
      w.size(), " and ", b.size());
  const auto finite = [](float x) { return std::isfinite(x); };
  check<InvalidInput>(
      std::all_of(w.begin(), w.end(), finite) && std::all_of(b.begin(), b.end(), finite),
      "hrad: layer ", name, ": expected finite weights");
  const HradSplit split = hrad_split(in, storage == kBfloat16 ? 2 : 1);
  const int64_t rows = (out + kPanel - 1) / kPanel * kPanel, length = split.length;
  std::vector<float> parts(static_cast<size_t>(split.count * rows * length));
  for (int64_t o = 0; o < out; ++o)
    for (int64_t k = 0; k < in; ++k)
      parts[(k / length * rows + o) * length + k % length] = w[o * in + k];
  Layer made{split, static_cast<int>(rows / kPanel),
             PackedMatrix(storage, split.count * rows, length), b};
  made.matrix.pack(0, TensorView{parts.data(), DType::f32, {split.count * rows, length}, 2});
  return made;
}

Hrad::Hrad(int64_t hidden, const HradWeights& w)
    : hidden_(hidden), kernels_(kernels_named("auto")) {
  check_within("hrad: hidden", int64_t{1}, int64_t{1} << 20, hidden);
  first_ = packed("1", w.w1, w.b1, kHradInner, inputs(hidden),
                  kBfloat16);  // bf16, because each round reads these weights from memory
  second_ = packed("2", w.w2, w.b2, kHradNarrow, kHradInner, kFloat32);
  third_ = packed("3", w.w3, w.b3, 3, kHradNarrow, kFloat32);
}

// Computes a layer. `sums` is [split.count, 16 * panels]; the layer's outputs are written to its
// first row.
void Hrad::apply(const Layer& l, const float* x, float* sums) const {
  MatmulTask task{};
  task.panels = l.matrix.panels();
  task.format = l.matrix.stretches()[0].format;
  task.in = l.matrix.in();
  task.out = task.y_stride = l.matrix.out();
  task.y = sums;
  task.rows = 1;
  for (int part = 0; part < l.split.count; ++part) {
    task.x = x + part * l.split.length;
    task.first = int64_t{part} * l.panels;
    task.last = int64_t{part + 1} * l.panels;
    kernels_.matmul(task);
  }
  fold_parts(sums, l.split.count, l.panels * kPanel, Alone{});
  for (size_t o = 0; o < l.bias.size(); ++o) sums[o] += l.bias[o];
}

void Hrad::scores(const float* x, float* scratch, float out[3]) const {
  float* narrow = scratch + kScratch - kHradNarrow;
  float sums[kSecondSplit.count * kHradNarrow];
  apply(first_, x, scratch);
  relu(scratch, kHradInner);
  apply(second_, scratch, sums);
  std::copy_n(sums, kHradNarrow, narrow);
  relu(narrow, kHradNarrow);
  apply(third_, narrow, sums);
  std::copy_n(sums, kHradCuts, out);
}

Cut Hrad::classify(const float* x, float* scratch) const {
  float out[3];
  scores(x, scratch, out);
  return static_cast<Cut>(std::max_element(out, out + 3) - out);
}

void read_features(const Lane& lane, int row, int32_t token, const Branch* tail, float* x) {
  const int64_t width = lane.feature_width();
  lane.read_features(row, token, x);
  FeatureScratch scratch;
  scale_blocks(x, width, scratch, Alone{});
  read_confidence(tail, x + kFeatureBlocks * width, Alone{}, HostLog{});
}

}  // namespace sbrt
