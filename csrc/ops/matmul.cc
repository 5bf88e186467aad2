#include "ops/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace sbrt {
namespace {

constexpr int64_t kWordBytes = sizeof(uint32_t);
constexpr int64_t kGroupBytes = kGroup * kPanel + kPanel * static_cast<int64_t>(sizeof(float));

// A group's scale; not a number where one of its weights is none, so that no row hides it.
float scale_of(const TensorView& w, int64_t from, int64_t n) {
  float most = 0;
  for (int64_t i = from; i < from + n; ++i) {
    if (!std::isfinite(w.at(i))) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::abs(w.at(i)));
  }
  return most / 127.0f;
}

}  // namespace

PackedMatrix::PackedMatrix(DType storage, int64_t out, int64_t in, Order order)
    : storage_(storage), order_(order), out_(out), in_(in) {
  check<InvalidInput>(storage != DType::f16,
                      "weight storage: expected float32, bfloat16 or int8 but got ",
                      name_of(storage));
  const int64_t halves = order == Order::gated ? 2 : 1;
  panels_ = (out / halves + kPanel - 1) / kPanel * halves;
  const int64_t words = checked_mul(panels_, panel_words());
  checked_mul(words, kWordBytes);
  words_ = Buffer<uint32_t>(words);
}

int64_t PackedMatrix::panel_words() const {
  if (storage_ == DType::int8) return (in_ + kGroup - 1) / kGroup * (kGroupBytes / kWordBytes);
  return (in_ + 1) / 2 * kPanel * (storage_ == DType::f32 ? 2 : 1);
}

Packing PackedMatrix::packing() const {
  if (storage_ == DType::int8) return Packing::int8;
  return storage_ == DType::bf16 ? Packing::bf16 : Packing::f32;
}

int64_t PackedMatrix::place_of(int64_t o) const {
  if (order_ == Order::plain) return o;
  const int64_t half = o / gates(), i = o % gates();
  return (i / kPanel * 2 + half) * kPanel + i % kPanel;
}

void PackedMatrix::pack(int64_t first, const TensorView& w) {
  const int64_t rows = w.shape[0];
  check_equal("packed matrix: columns", in_, w.shape[1]);
  check_within("packed matrix: rows", int64_t{0}, out_ - first, rows);
  for (int64_t r = 0; r < rows; ++r)
    storage_ == DType::int8 ? pack_groups(place_of(first + r), w, r)
                            : pack_row(place_of(first + r), w, r);
}

void PackedMatrix::pack_row(int64_t place, const TensorView& w, int64_t row) {
  uint32_t* lane = words_.data() + place / kPanel * panel_words() + place % kPanel;
  for (int64_t k = 0; k < in_; ++k) {
    const float value = w.at(row * in_ + k);
    if (storage_ == DType::f32) {
      std::memcpy(lane + k * kPanel, &value, sizeof value);
    } else {
      lane[k / 2 * kPanel] |= static_cast<uint32_t>(to_bf16(value)) << (k % 2 * 16);
    }
  }
}

void PackedMatrix::pack_groups(int64_t place, const TensorView& w, int64_t row) {
  auto* bytes =
      reinterpret_cast<int8_t*>(words_.data() + place / kPanel * panel_words()) + place % kPanel;
  auto* scales = reinterpret_cast<float*>(words_.data() + place / kPanel * panel_words()) +
                 kGroup * kPanel / kWordBytes + place % kPanel;
  for (int64_t k = 0; k < in_; k += kGroup) {
    const int64_t n = std::min<int64_t>(kGroup, in_ - k), from = row * in_ + k;
    const float scale = scale_of(w, from, n);
    if (scale > 0)
      for (int64_t i = 0; i < n; ++i)
        bytes[i * kPanel] =
            static_cast<int8_t>(std::clamp(std::lround(w.at(from + i) / scale), -127L, 127L));
    *scales = scale;
    bytes += kGroupBytes;
    scales += kGroupBytes / kWordBytes;
  }
}

namespace {

// The member's own normed copy of all rows.
const float* normed_input(const MatmulArgs& a, int rank) {
  if (!a.norm.weight) return a.x;
  const int64_t n = a.weights->in();
  float* out = a.norm.scratch + rank * a.max_rows * n;
  for (int i = 0; i < a.rows->n; ++i)
    a.kernels->norm(a.x + i * n, a.norm.weight, a.norm.eps, n, out + i * n);
  return out;
}

}  // namespace

void matmul_part(const MatmulArgs& a, int rank, Interval mine) {
  const PackedMatrix& w = *a.weights;
  if (a.rows->n == 0 || mine.empty()) return;
  a.kernels->matmul({.panels = w.panels(),
                     .packing = w.packing(),
                     .in = w.in(),
                     .out = w.out(),
                     .x = normed_input(a, rank),
                     .y = a.y,
                     .y_stride = w.gated() ? w.gates() : w.out(),
                     .bias = a.bias,
                     .add = a.add,
                     .rows = a.rows->n,
                     .first = mine.begin / kPanel,
                     .last = (mine.end + kPanel - 1) / kPanel,
                     .both = w.gated() ? a.both + rank * a.max_rows * kGatedWidth : nullptr});
}

void matmul(const MatmulArgs& a, Worker worker) {
  const int64_t grain = a.weights->gated() ? 2 * kPanel : kPanel;
  matmul_part(a, worker.rank, worker.share(a.weights->out(), grain));
}

}  // namespace sbrt
