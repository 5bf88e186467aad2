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
  int32_t max_rows = 0;    // number of rows of the lane's largest forward
  int32_t branches = 0;    // number of branch tails
  int32_t tail_slots = 0;  // number of slots of one tail
  int32_t threads = 1;     // largest number of members of the lane's team
  bool debug = false;
  bool features = false;  // true: keep the inputs of `read_features`
  // True: the lane's memory and all pointers given to the lane are a device's.
  bool on_device = false;
  void* stream = nullptr;  // on a device: the cudaStream_t on which the lane runs
  int32_t seats = 1;       // number of seats; each has its own ring
  bool scores = false;     // on a device: the sampling pass keeps scores, for rejection
};

// The kinds of sampling that requests need: filters (min_p, top_k, top_p), and shaping (masks,
// bias, penalties).
struct ChoiceKind {
  bool filters = false, shapes = false;

  bool operator==(const ChoiceKind&) const = default;
};

// Bounds of a launch that the host knows before the launch runs. The values are in host memory. The
// host changes them only while nothing is in flight.
struct Expected {
  const int32_t* rows = nullptr;  // a launch has at most *rows rows; null: at most max_rows
  const ChoiceKind* kind = nullptr;
};

// The KV that moves to new slots, after `settle` has updated the sequences to the last outcome.
enum class Moves {
  path,           // the accepted path
  path_and_tail,  // the accepted path, then the adopted branch's tail
  burst,          // the tail of branch 0, after it has grown in a serial burst
};

// K and V of a lane in one block of memory. The block has `rows` arrays of slots (K or V of a layer
// and head), `pitch` bytes apart.
struct KvBlock {
  // Null: there is no such block, or KV depends on how prompts are cut into pieces.
  std::byte* at = nullptr;
  size_t slot_bytes = 0, pitch = 0, rows = 0;
};

class Lane {
 public:
  virtual ~Lane() = default;
  virtual Columns columns() const = 0;  // columns of the lane's logits
  virtual const RingShape& ring_shape() const = 0;
  // Returns the lane's KV ring, in which `settle` moves KV. Returns null if only the lane's own ops
  // can access the KV (add_moves).
  virtual KvRing* ring() = 0;
  // Returns the KV of a lane whose ring() is null, for copies between seats.
  virtual KvBlock kv() const { return {}; }
  // Appends the ops that move KV, for a lane whose ring() is null. They follow the `settle` that
  // decides the moves.
  virtual void add_moves(Graph& /*graph*/, const Seats& /*seats*/, Moves /*which*/) {}
  // Returns the logits, [max_rows, columns().n] f32, row-major. An `add_forward` that computes logits
  // writes one row of them for each row of the forward, from row 0 on.
  virtual float* logits() = 0;
  // Appends the ops of one forward over the batch `rows`, which is read at run time. A forward
  // writes the K/V of every row to its slot, and the logits of every row if `with_logits`. A row's
  // results depend only on its own token, position and visible keys. They are bit-identical for any
  // number of rows, neighbours and threads.
  virtual void add_forward(Graph& graph, const Batch* rows, bool with_logits) = 0;
  // Sets the bounds for forwards and sampling ops that are added from now on. Only lanes with a
  // graph for each size and each kind of request use the bounds.
  virtual void expect(const Expected&) {}

  // Returns the largest number of rows of a forward without logits. A forward of more than kMaxRows
  // rows is a prompt piece. Each of its rows sees the rows before it and the whole trunk, and the
  // masks are not read. Such a forward runs only while the ring has not wrapped.
  virtual int32_t prefill_rows() const { return kMaxRows; }

  // Appends the op that samples from every row of the last forward. It gives tokens, or Dists if
  // args.dist is given.
  virtual void add_choose(Graph& graph, const ChooseArgs& args) {
    graph.add(args.dist ? choose_dists : choose_rows, args);
  }

  // Returns the width of one block of features, in floats. 0: the lane keeps no features.
  virtual int64_t feature_width() const { return 0; }
  // Writes the features of row `row` of the last forward with logits, and of the token sampled
  // there: [kFeatureBlocks, width]. They are the residual stream after each of the last layers,
  // then the token's embedding. If the model has fewer layers, the block of its first layer is
  // repeated. This reads the lane's memory on the host, so do not call it for a lane on a device.
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
  // Returns the length of the longest trunk that the model can process. It is kEndless if all
  // layers have a window.
  virtual int64_t longest() const { return max_positions(); }
  virtual std::unique_ptr<Lane> bind(const LaneShape& shape) const = 0;
};

}  // namespace sbrt
