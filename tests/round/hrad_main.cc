// Runs the H-RAD classifier with the host's vector code and with the code for devices. Compares the
// outputs bit for bit.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "round/hrad.h"

namespace sbrt {
namespace {

std::mt19937 random_bits(1);

std::vector<float> drawn(int64_t n, int64_t inputs) {
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (float& x : out) x = normal(random_bits) / std::sqrt(static_cast<float>(inputs));
  return out;
}

Hrad random_hrad(int64_t hidden) {
  const int64_t inputs = Hrad::inputs(hidden);
  return Hrad(hidden, {drawn(kHradInner * inputs, inputs), drawn(kHradInner, 100),
                       drawn(kHradNarrow * kHradInner, kHradInner), drawn(kHradNarrow, 100),
                       drawn(kHradCuts * kHradNarrow, kHradNarrow), drawn(kHradCuts, 100)});
}

HradArgs args_of(const Hrad& hrad, Sequence* sequence, const Batch* batch, float* x, float* inner) {
  HradArgs args{{sequence, 1, nullptr, nullptr},
                batch,
                {nullptr, nullptr, hrad.hidden(), DType::f32},
                x,
                nullptr,
                inner,
                {}};
  for (int i = 0; i < kHradLayers; ++i)
    args.layer[i] = {static_cast<const uint32_t*>(hrad.layer(i).matrix.panels()),
                     hrad.layer(i).bias.data()};
  return args;
}

// Runs both classifiers on random inputs. Returns the number of outputs that differ. seen: how
// often each class was predicted.
int64_t differences(int64_t hidden, int64_t (&seen)[kHradCuts]) {
  const Hrad hrad = random_hrad(hidden);
  const auto sequence = std::make_unique<Sequence>();
  const auto batch = std::make_unique<Batch>();
  sequence->policy.hrad = 1;
  alignas(16) float inner[kHradInner];
  float scores[kHradCuts];
  std::vector<float> scratch(Hrad::kScratch);
  const float* narrow = scratch.data() + scratch.size() - kHradNarrow;
  int64_t found = 0;
  for (int turn = 0; turn < 50; ++turn) {
    std::vector<float> x = drawn(Hrad::inputs(hidden), 1);
    x.resize(Hrad::room(hidden));
    const HradArgs args = args_of(hrad, sequence.get(), batch.get(), x.data(), inner);
    const HradSeat mine = hrad_seat(args, 0);
    InnerScratch panel_sums;
    CutScratch cut;
    for (int p = 0; p < kHradPanels; ++p) hrad_inner_op(mine, p, panel_sums, Alone{});
    hrad_cut_op(mine, cut, Alone{});
    hrad.scores(x.data(), scratch.data(), scores);
    found += std::memcmp(scratch.data(), inner, sizeof inner) != 0;
    found += std::memcmp(narrow, cut.narrow, sizeof cut.narrow) != 0;
    found += std::memcmp(scores, cut.score, sizeof scores) != 0;
    found += hrad.classify(x.data(), scratch.data()) != sequence->cut;
    ++seen[static_cast<int>(sequence->cut)];
  }
  return found;
}

}  // namespace
}  // namespace sbrt

int main() {
  int64_t seen[sbrt::kHradCuts] = {}, found = 0;
  for (const int64_t hidden : {1, 7, 32, 107, 300}) found += sbrt::differences(hidden, seen);
  std::printf("%s: %ld differ, cuts %ld %ld %ld\n", sbrt::kernels_named("auto").name, long(found),
              long(seen[0]), long(seen[1]), long(seen[2]));
  return found > 0 || *std::min_element(seen, seen + sbrt::kHradCuts) == 0;
}
