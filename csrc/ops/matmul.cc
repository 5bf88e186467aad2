#include "ops/matmul.h"

#include <cstring>

namespace sbrt {

PackedMatrix::PackedMatrix(DType storage, int64_t out, int64_t in)
    : storage_(storage), out_(out), in_(in) {
  check<InvalidInput>(storage != DType::f16,
                      "weight storage: expected float32 or bfloat16 but got ", name_of(storage));
  const int64_t panels = (out + kPanel - 1) / kPanel;
  const int64_t words = checked_mul(panels, panel_words());
  checked_mul(words, sizeof(uint32_t));
  words_ = Buffer<uint32_t>(words);
}

int64_t PackedMatrix::panel_words() const {
  return (in_ + 1) / 2 * kPanel * (storage_ == DType::f32 ? 2 : 1);
}

void PackedMatrix::pack(int64_t first, const TensorView& w) {
  const int64_t rows = w.shape[0];
  check_equal("packed matrix: columns", in_, w.shape[1]);
  check_within("packed matrix: rows", int64_t{0}, out_ - first, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t o = first + r;
    uint32_t* lane = words_.data() + o / kPanel * panel_words() + o % kPanel;
    for (int64_t k = 0; k < in_; ++k) {
      const float value = w.at(r * in_ + k);
      if (storage_ == DType::f32) {
        std::memcpy(lane + k * kPanel, &value, sizeof value);
      } else {
        lane[k / 2 * kPanel] |= static_cast<uint32_t>(to_bf16(value)) << (k % 2 * 16);
      }
    }
  }
}

void matmul(const MatmulArgs& a, Worker worker) {
  const PackedMatrix& w = *a.weights;
  const Interval mine = worker.share(w.out(), kPanel);
  if (a.rows->n == 0 || mine.empty()) return;
  a.kernels->matmul({.panels = w.panels(),
                     .bf16 = w.storage() == DType::bf16,
                     .in = w.in(),
                     .out = w.out(),
                     .x = a.x,
                     .y = a.y,
                     .y_stride = w.out(),
                     .bias = a.bias,
                     .add = a.add,
                     .rows = a.rows->n,
                     .first = mine.begin / kPanel,
                     .last = (mine.end + kPanel - 1) / kPanel,
                     .both = nullptr});
}

}  // namespace sbrt
