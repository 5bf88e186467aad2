// Matrices packed for the kernels. They consist of panels of 16 outputs, in one of the formats of
// ops/format.h.
#pragma once

#include <vector>

#include "core/interval.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/format.h"
#include "ops/kernels.h"

namespace sbrt {

// The order of outputs. plain: as given. gated: panels of gates alternate with panels of the values
// that they gate.
enum class Order { plain, gated };

// Some rows of already quantised weights. A row has `columns` levels, one per byte, and
// ceil(columns / group) scales and minimums.
struct Levels {
  const uint8_t* levels = nullptr;  // [rows, columns] int8: signed bytes; int4: 0 .. 15
  const float* scales = nullptr;    // [rows, groups]
  const float* minimums = nullptr;  // [rows, groups], or null
  int64_t rows = 0, columns = 0;
};

// W [out, in] in panels of 16 outputs. Outputs beyond `out` are padding that is never read. Inside
// a panel, with inputs k:
//   f32   for each pair of inputs: 16 words for input k, then 16 words for input k + 1
//   bf16  for each pair of inputs: one word for each output, input k in the low half, k + 1 in the
//         high half
//   int8  for each group of inputs: 16 scales, 16 minimums, then the levels. Each 64 bytes hold 4
//         inputs, 4 bytes for each output. A byte is the level + 128
//   int4  the same, but each 64 bytes hold 8 inputs: 4 in the low halves of bytes, the next 4 in
//         the high halves
// Gated: the first half of the outputs are gates of the second half. Panels of gates and of values
// alternate, so that a team member that computes a gate also computes the value that it gates.
class PackedMatrix {
 public:
  // Consecutive outputs that have one format.
  struct Part {
    Format format;
    int64_t out;
  };
  // Adjacent panels of one format, which hold one part.
  struct Stretch {
    Format format;
    Interval panels;
    int64_t offset, panel_bytes;  // offset of the first panel and size of each panel, in bytes
  };

  PackedMatrix() = default;
  PackedMatrix(const Format& format, int64_t out, int64_t in, Order order = Order::plain);
  // Stores all parts in one common format in three cases: a part does not end at the end of a
  // panel, the order is gated, or only some parts are quantised.
  PackedMatrix(const std::vector<Part>& parts, int64_t in, Order order = Order::plain);

  // Packs `w` [rows, in] as the rows from `first` on, rounded to the format.
  void pack(int64_t first, const TensorView& w);
  // Packs rows that are already quantised in `format`, without loss. Throws InvalidInput if the
  // matrix's format cannot hold one of the levels, scales or minimums. Then the rows are undefined.
  void pack(int64_t first, const Levels& w, const Format& format);

  // Writes the weights of row `o` to `out`, [in], as the kernels see them.
  void read(int64_t o, float* out) const;

  const std::vector<Stretch>& stretches() const { return stretches_; }
  // out() returns the number of packed outputs. If gated, this includes the padding of both halves.
  // place_of() returns the packed index of output `o`.
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
