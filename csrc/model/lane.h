// The interface between a round and a model: the model's sizes, and ops that compute a forward over
// a batch of rows.
//
// A Model holds weights and is shared. A Lane is one model bound to one KV ring and its buffers.
#pragma once

#include <cstdint>
#include <memory>

#include "exec/exec.h"
#include "model/features.h"
#include "ops/choose.h"
#include "ring/ring.h"
#include "state/roll.h"

namespace sbrt {

constexpr int64_t kEndless = int64_t{1} << 40;  // longer than any trunk

struct LaneShape {
  int64_t max_len = 0;     // number of positions that the lane must hold (trunk tokens)
  int32_t max_rows = 0;    // largest number of rows of one forward of the lane
  int32_t branches = 0;    // number of branch tails
  int32_t tail_slots = 0;  // number of slots of one tail
  int32_t threads = 1;     // largest number of threads of the lane's team
  bool debug = false;
  bool features = false;  // true: the lane keeps what `read_features` returns
  // True: the lane's memory is on a device. All pointers that the lane gets point to device memory.
  bool on_device = false;
  void* stream = nullptr;  // on a device: the cudaStream_t on which the lane runs
  int32_t seats = 1;       // number of seats; each has its own ring
  bool scores = false;     // on a device: the sampling pass keeps scores, for rejection
};

// The kinds of sampling that requests need. `filters`: min_p, top_k or top_p. `shapes`: masks, bias
// or penalties.
struct ChoiceKind {
  bool filters = false, shapes = false;

  bool operator==(const ChoiceKind&) const = default;
};

// Limits of a launch that the host knows before the launch runs. The pointers are to host memory.
// The host changes the values only while no round is in flight.
struct Expected {
  // Address of the largest number of rows of a launch; null: max_rows.
  const int32_t* rows = nullptr;
  const ChoiceKind* kind = nullptr;
};

// Says which KV moves to new slots, after `settle` has updated the sequences to the last outcome.
enum class Moves {
  path,           // the accepted path
  path_and_tail,  // the accepted path, then the adopted branch's tail
  burst,          // the tail of branch 0, after a serial burst has grown this branch
};

// The KV of a lane in one block of memory. The block consists of `rows` arrays: the keys, or the
// values, of one layer and one KV head. Array i begins i * pitch bytes after `at`, and has
// slot_bytes bytes for each slot.
struct KvBlock {
  // Null: the lane has no such block, or its KV bits depend on how a prompt is split into pieces.
  std::byte* at = nullptr;
  size_t slot_bytes = 0, pitch = 0, rows = 0;
};

class Lane {
 public:
  virtual ~Lane() = default;
  virtual Columns columns() const = 0;  // columns of the lane's logits
  virtual const RingShape& ring_shape() const = 0;
  // Returns the lane's KV ring; `settle` then moves KV in this ring. Returns null if only the
  // lane's own ops can access the KV; then `add_moves` appends the moves.
  virtual KvRing* ring() = 0;
  // Returns the KV memory of a lane whose ring() is null. The engine copies KV from seat to seat
  // there.
  virtual KvBlock kv() const { return {}; }
  // Appends the ops that move KV. Used for a lane whose ring() is null, after the `settle` that
  // selects the slots to move.
  virtual void add_moves(Graph& /*graph*/, const Seats& /*seats*/, Moves /*which*/) {}
  // Returns the logits, [max_rows, columns().n] f32, row-major. An `add_forward` that computes
  // logits writes one row of them for each row of the forward, from row 0 on.
  virtual float* logits() = 0;
  // Appends the ops of one forward over the batch `rows`, which is read at run time. A forward
  // writes the K/V of every row to its slot, and the logits of every row if `with_logits`. A row's
  // results depend only on its own token, position and visible keys. They are bit-identical for any
  // number of rows, neighbours and threads.
  virtual void add_forward(Graph& graph, const Batch* rows, bool with_logits) = 0;
  // Sets the limits for all forwards and sampling ops that are appended after this call. Only lanes
  // with several captured graphs per op use the limits, to pick one.
  virtual void expect(const Expected&) {}

  // Returns the largest number of rows of a forward without logits. A forward of more than kMaxRows
  // rows feeds a piece of a prompt: each row sees the whole trunk and the rows before it. Such a
  // forward does not read the masks, and runs only while the ring has not wrapped.
  virtual int32_t prefill_rows() const { return kMaxRows; }

  // Appends the op that samples from the logits of every row of the last forward. The op writes
  // tokens, or Dists if args.dist is given.
  virtual void add_choose(Graph& graph, const ChooseArgs& args) {
    graph.add(args.dist ? choose_dists : choose_rows, args);
  }

  // Returns the width of one block of features, in floats. 0: the lane keeps no features.
  virtual int64_t feature_width() const { return 0; }
  // Writes the features of a row of the last forward with logits, [kFeatureBlocks, width], to
  // `out`. The features are the residual stream after each of the last layers, then the embedding
  // of `token`, which was sampled at this row. If the model has too few layers, the block of its
  // first layer is repeated. The function reads the lane's memory on the host, so it cannot serve a
  // lane on a device.
  virtual void read_features(int /*row*/, int32_t /*token*/, float* /*out*/) const {}
  // Returns the addresses of the features, for a lane on a device.
  virtual FeatureMemory feature_memory() const { return {}; }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual int vocab() const = 0;  // number of ids that the model can read
  // Returns the number of positions that the model was trained for, as its config.json says.
  virtual int64_t max_positions() const = 0;
  // Returns the length of the longest trunk that the model can process. If all layers have a
  // window, returns kEndless.
  virtual int64_t longest() const { return max_positions(); }
  virtual std::unique_ptr<Lane> bind(const LaneShape& shape) const = 0;
};

}  // namespace sbrt
