// Matrices packed for the kernels: panels of 16 outputs, in one of the formats of ops/format.h.
#pragma once

#include <vector>

#include "core/interval.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/format.h"
#include "ops/kernels.h"

namespace sbrt {

// Consecutive outputs, or panels that alternate between gates and what they gate.
enum class Order { plain, gated };

// Rows of weights that are quantised already. A row has `columns` levels, one a byte, and
// ceil(columns / group) scales and minimums.
struct Levels {
  const uint8_t* levels = nullptr;  // [rows, columns]: signed bytes of int8, 0 .. 15 of int4
  const float* scales = nullptr;    // [rows, groups]
  const float* minimums = nullptr;  // likewise, or null
  int64_t rows = 0, columns = 0;
};

// W [out, in] in panels of 16 outputs; outputs beyond `out` are padding that nobody reads. Inside a
// panel:
//   f32   pairs of k: 16 words of k, then 16 of k + 1
//   bf16  pairs of k: one word for each output holds k (low half) and k + 1 (high half)
//   int8  groups of k: 16 scales, 16 minimums, then for every 4 k 64 bytes: 4 of each output. A byte
//         is the level + 128
//   int4  the same groups; 64 bytes hold 8 k: 4 in the low halves of bytes, the next 4 in the high ones
//
// Gated: the first half of the outputs are gates of the second half, and panels of both alternate, so
// that whoever computes a gate has what it gates at hand.
class PackedMatrix {
 public:
  // Consecutive outputs of one format.
  struct Part {
    Format format;
    int64_t out;
  };
  // The panels of a part.
  struct Stretch {
    Format format;
    Interval panels;
    int64_t offset, panel_bytes;  // of its first panel, of each
  };

  PackedMatrix() = default;
  PackedMatrix(const Format& format, int64_t out, int64_t in, Order order = Order::plain);
  // Parts that do not end with a panel, or are gated, share the format that holds them all.
  PackedMatrix(const std::vector<Part>& parts, int64_t in, Order order = Order::plain);

  // Rows first .. first + rows of `w` [rows, in], rounded to the format.
  void pack(int64_t first, const TensorView& w);
  // The same of rows that are quantised already in `format`, exactly. Throws InvalidInput on a level
  // or a number that the format does not have; the rows are then undefined.
  void pack(int64_t first, const Levels& w, const Format& format);

  // Row `o` as the arithmetic has it, [in].
  void read(int64_t o, float* out) const;

  const std::vector<Stretch>& stretches() const { return stretches_; }
  // Outputs as they lie, with the padding of both halves if gated; and where output `o` lies.
  int64_t out() const { return order_ == Order::gated ? panels_ * kPanel : out_; }
  int64_t place_of(int64_t o) const;
  bool gated() const { return order_ == Order::gated; }
  bool quantised() const { return !stretches_.empty() && stretches_[0].format.quantised(); }
  int64_t gates() const { return out_ / 2; }
  int64_t in() const { return in_; }
  const void* panels() const { return memory_.data(); }
  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  const Stretch& stretch_of(int64_t panel) const;
  uint8_t* panel_at(const Stretch& stretch, int64_t panel) const;
  Order order_ = Order::plain;
  int64_t out_ = 0, in_ = 0, panels_ = 0;
  std::vector<Stretch> stretches_;
  Buffer<uint8_t> memory_;
};

}  // namespace sbrt
