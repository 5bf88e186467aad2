// A matrix of weights, packed for the kernels: panels of 16 outputs, each in one of the formats of
// ops/format.h.
#pragma once

#include <vector>

#include "core/interval.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/format.h"
#include "ops/kernels.h"

namespace sbrt {

// The order of the packed outputs. plain: as given. gated: a panel of gates, then the panel of the
// values that they gate, and so on.
enum class Order { plain, gated };

// Rows of weights that are already quantised. A row has `columns` levels, one per byte. It has
// ceil(columns / group) scales, and as many minimums if the format has them.
struct Levels {
  // [rows, columns], one level per byte; int8: signed; int4: 0 .. 15.
  const uint8_t* levels = nullptr;
  const float* scales = nullptr;    // [rows, groups]
  const float* minimums = nullptr;  // [rows, groups], or null
  int64_t rows = 0, columns = 0;
};

// W, [out, in], in panels of 16 outputs. Outputs beyond `out` are padding that is never read. The
// content of a panel depends on the format. Inputs are numbered k:
//   f32   for each pair of inputs: 16 words for input k, then 16 words for input k + 1
//   bf16  for each pair of inputs: one word for each output. Its low half is the weight of input k,
//         its high half is that of k + 1
//   int8  for each group of inputs: 16 scales, 16 minimums, then the levels. Each 64 bytes hold the
//         levels of 4 inputs, 4 bytes for each output. A byte is the level + 128
//   int4  the same, but each 64 bytes hold the levels of 8 inputs. The low halves of the bytes hold
//         the first 4, the high halves hold the other 4
// In a gated matrix, the first half of the outputs are gates of the second half. Panels of gates
// and of values alternate. So the team member that computes a gate also computes the value that it
// gates.
class PackedMatrix {
 public:
  // Consecutive outputs that have one format.
  struct Part {
    Format format;
    int64_t out;
  };
  // Adjacent panels of one format; all of them belong to one part.
  struct Stretch {
    Format format;
    Interval panels;
    int64_t offset, panel_bytes;  // offset of the first panel, and size of each panel, in bytes
  };

  PackedMatrix() = default;
  PackedMatrix(const Format& format, int64_t out, int64_t in, Order order = Order::plain);
  // `parts` are consecutive outputs. They are stored in one common format in three cases: a part
  // does not end at the end of a panel, the order is gated, or only some parts are quantised.
  PackedMatrix(const std::vector<Part>& parts, int64_t in, Order order = Order::plain);

  // Packs `w`, [rows, in], as rows `first` and following of the matrix. The values are rounded to
  // the matrix's format.
  void pack(int64_t first, const TensorView& w);
  // Packs rows that are already quantised in `format`, without loss, as rows `first` and following.
  // Throws InvalidInput if the matrix's format cannot hold a level, scale or minimum. Then the
  // packed rows are undefined.
  void pack(int64_t first, const Levels& w, const Format& format);

  // Writes the weights of row `o` to `out`, [in], as f32. The values are those that the kernels
  // compute with.
  void read(int64_t o, float* out) const;

  const std::vector<Stretch>& stretches() const { return stretches_; }
  // out() returns the number of packed outputs. In a gated matrix this includes padding after the
  // gates and after the values. place_of() returns the packed index of output `o`.
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
