// A lane whose ops were recorded by Python code (sbrt/gpu). A recording of an op is called a piece.
// Pieces are appended to graphs, and are replayed with the pointers and scalars that they were
// recorded with.
//
// On the CPU a piece is a flat list of calls. On a device it is a captured graph or, with
// enforce_eager, a list of calls (exec/captured.h). Each piece computes a fixed number of rows.
// Before each launch the host picks a piece (Expected). It derives the number of rows from the
// policies and the lengths of the trunks (decode/row_bounds.h). It derives the kind of sampling
// from the requests. The host reads neither the state of a sequence in flight nor a device's
// memory.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "model/lane.h"

namespace sbrt {

// One recording of an op. The Recorder that made the piece owns it, and must keep it alive longer
// than every graph to which it was appended.
struct Piece {
  int32_t rows = 0;   // number of rows that the piece computes: the first rows of the batch
  int32_t nodes = 0;  // number of calls in the piece, or of kernels on a device
  void (*replay)(void* recording) = nullptr;  // used on the CPU; throws Error
  void* recording = nullptr;
  // On a device: a cudaGraph_t, or the player that `play` gets. Null on the CPU.
  void* graph = nullptr;
  void (*play)(void* player, void* stream) = nullptr;  // Captured::play
};

// Pieces that do the same work for different numbers of rows, in ascending order.
using Pieces = std::vector<Piece>;

// All pieces of one op, and the limits by which the host selects a piece at launch.
class PieceSet {
 public:
  explicit PieceSet(const Expected& expected) : expected_(expected) {}
  PieceSet(const PieceSet&) = delete;

  // Adds the pieces for one ChoiceKind. Every kind has pieces of the same sizes. Callers add the
  // kinds in this order: neither filters nor shapes, filters, shapes, both.
  void add(const Pieces& pieces);
  bool has_shapes() const { return kinds_ == 4; }

  // Returns the smallest piece that has room for the expected rows, of the kind that the requests
  // need. Throws Error if there is no such piece.
  const Piece& picked() const { return pieces_[captured_.picked()]; }
  const Captured& captured() const { return captured_; }

 private:
  static int pick(const void* set);
  int size() const;
  int kind() const;

  Pieces pieces_;  // ordered by kind, then by ascending number of rows
  int sizes_ = 0, kinds_ = 0;
  Expected expected_;
  Captured captured_{{}, &pick, this};
};

// Addresses and sizes of a lane's memory that other code reads.
struct LaneMemory {
  RingShape ring;
  int32_t vocab = 0;  // number of token ids that the lane can process
  int64_t hidden = 0;
  bool on_device = false;  // true: all memory of the lane is device memory
  int32_t prefill_rows = kMaxRows;
  float* logits = nullptr;   // [max_rows, number of logits of the model]
  DType dtype = DType::f32;  // element type of `features` and `embed`
  // [max_rows, kFeatureLayers, hidden]; null: features are not kept.
  const void* features = nullptr;
  const void* embed = nullptr;  // [vocab, hidden]
  KvBlock kv;
};

// Records the pieces of one lane. Recording happens while graphs are built, never during a round.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual const LaneMemory& memory() const = 0;
  virtual Pieces forward(const Batch* rows, bool with_logits) = 0;
  virtual Pieces choose(const ChooseArgs& args, ChoiceKind kind) = 0;
  virtual Pieces moves(const Seats& seats, Moves which) = 0;  // one piece
};

class RecordedModel final : public Model {
 public:
  using Bind = std::function<std::unique_ptr<Recorder>(const LaneShape&)>;

  // head_ids: the tokens for which lanes compute logits, in ascending order; empty: all tokens.
  RecordedModel(int vocab, int64_t max_positions, int64_t longest,
                const std::vector<int32_t>& head_ids, Bind bind);
  int vocab() const override { return vocab_; }
  int64_t max_positions() const override { return max_positions_; }
  int64_t longest() const override { return longest_; }
  std::unique_ptr<Lane> bind(const LaneShape& shape) const override;

 private:
  int vocab_;
  int64_t max_positions_, longest_;
  std::shared_ptr<const ColumnMap> columns_;  // shared with the lanes
  Bind bind_;
};

class RecordedLane final : public Lane {
 public:
  RecordedLane(std::unique_ptr<Recorder> recorder, std::shared_ptr<const ColumnMap> columns,
               const LaneShape& shape);
  Columns columns() const override { return columns_->columns(); }
  const RingShape& ring_shape() const override { return memory_.ring; }
  KvRing* ring() override { return nullptr; }
  KvBlock kv() const override { return memory_.kv; }
  float* logits() override { return memory_.logits; }
  int32_t prefill_rows() const override { return memory_.prefill_rows; }
  void expect(const Expected& expected) override { expected_ = expected; }
  void add_forward(Graph& graph, const Batch* rows, bool with_logits) override;
  void add_choose(Graph& graph, const ChooseArgs& args) override;
  void add_moves(Graph& graph, const Seats& seats, Moves which) override;
  int64_t feature_width() const override { return memory_.features ? memory_.hidden : 0; }
  void read_features(int row, int32_t token, float* out) const override;
  FeatureMemory feature_memory() const override;

 private:
  PieceSet& keep(const Pieces& pieces, const Expected& expected);

  std::unique_ptr<Recorder> recorder_;
  LaneMemory memory_;
  std::shared_ptr<const ColumnMap> columns_;
  int32_t max_rows_;
  Expected expected_;
  // A deque, because graphs hold pointers to its elements and a deque does not move them.
  std::deque<PieceSet> pieces_;
};

}  // namespace sbrt
