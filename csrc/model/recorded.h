// A lane whose ops were recorded elsewhere (sbrt/gpu): pieces that are appended to graphs and then
// replayed as they are, with every pointer and scalar by value.
//
// On the CPU body a piece is a flat list of calls, on the CUDA body a captured graph that becomes a
// child. A piece is made for so many rows; which of them a launch takes is known to the host before
// it launches, from the method alone (Lane::expect_rows) and the request's sampling, so that it reads
// no control block that is in flight.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "model/lane.h"

namespace sbrt {

// Whoever made it owns it, and outlives every graph that it was appended to.
struct Piece {
  int32_t rows = 0;   // rows of its table that it computes, from the first on
  int32_t nodes = 0;  // calls, or kernels
  void (*replay)(void* recording) = nullptr;  // CPU body; throws Error
  void* recording = nullptr;
  void* graph = nullptr;  // CUDA body: a cudaGraph_t; null on the CPU body
};

// The same work for more and more rows.
struct Pieces {
  std::vector<Piece> sizes;

  // The first that holds `rows` of them. Throws Error if none does.
  const Piece& fit(int32_t rows) const;
};

// Where a lane keeps what others read of it; on the CUDA body in the device's memory.
struct LaneMemory {
  RingShape ring;
  int32_t vocab = 0;
  int64_t hidden = 0;
  float* logits = nullptr;         // [max_rows, vocab]
  DType dtype = DType::f32;        // of the two below
  const void* features = nullptr;  // [max_rows, kFeatureLayers, hidden]; null: not kept
  const void* embed = nullptr;     // [vocab, hidden]
};

// Makes the pieces of one lane while graphs are built, never in a round.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual const LaneMemory& memory() const = 0;
  virtual Pieces forward(const RowTable* rows, bool with_logits) = 0;
  // `filters`: for requests with min_p, top_k or top_p.
  virtual Pieces choose(const ChooseArgs& args, bool filters) = 0;
  virtual Piece moves(const Control* control, Moves which) = 0;
};

class RecordedModel final : public Model {
 public:
  using Bind = std::function<std::unique_ptr<Recorder>(const LaneShape&)>;

  RecordedModel(int vocab, int64_t max_positions, int64_t longest, Bind bind);
  int vocab() const override { return vocab_; }
  int64_t max_positions() const override { return max_positions_; }
  int64_t longest() const override { return longest_; }
  std::unique_ptr<Lane> bind(const LaneShape& shape) const override;

 private:
  int vocab_;
  int64_t max_positions_, longest_;
  Bind bind_;
};

class RecordedLane final : public Lane {
 public:
  RecordedLane(std::unique_ptr<Recorder> recorder, const LaneShape& shape);
  int vocab() const override { return memory_.vocab; }
  const RingShape& ring_shape() const override { return memory_.ring; }
  KvRing* ring() override { return nullptr; }
  float* logits() override { return memory_.logits; }
  void expect_rows(const int32_t* rows) override { expected_ = rows; }
  void add_forward(Graph& graph, const RowTable* rows, bool with_logits) override;
  void add_choose(Graph& graph, const ChooseArgs& args) override;
  void add_moves(Graph& graph, const Control* control, Moves which) override;
  int64_t feature_width() const override { return memory_.features ? memory_.hidden : 0; }
  void read_features(int row, int32_t token, float* out) const override;

 private:
  const Pieces* keep(Pieces pieces);

  std::unique_ptr<Recorder> recorder_;
  LaneMemory memory_;
  int32_t max_rows_;
  const int32_t* expected_ = nullptr;
  std::deque<Pieces> pieces_;  // graphs point at them
};

}  // namespace sbrt
