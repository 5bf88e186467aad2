// A round's interface to a model: its sizes, and ops that compute a forward over a batch of rows.
//
// A Model holds weights and is shared; a Lane is one model bound to one KV ring and its buffers.
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
  int64_t max_len = 0;     // positions that the lane must hold (trunk tokens)
  int32_t max_rows = 0;    // rows of its largest forward
  int32_t branches = 0;    // number of tails
  int32_t tail_slots = 0;  // slots of one tail
  int32_t threads = 1;     // most members of its team
  bool debug = false;
  bool features = false;   // keep the inputs of `read_features`
  bool on_device = false;  // the lane's memory, and all pointers given to it, are a device's
  void* stream = nullptr;  // on a device: the cudaStream_t that it runs on
  int32_t seats = 1;       // sequences, each with its own ring
};

// The parameters that the requests of a sampling op use: filters (min_p, top_k, top_p), shaping
// (masks, bias, penalties).
struct ChoiceKind {
  bool filters = false, shapes = false;

  bool operator==(const ChoiceKind&) const = default;
};

// Bounds of a launch that the host knows before the launch runs. They are in host memory, which the
// host writes while nothing is in flight.
struct Expected {
  const int32_t* rows = nullptr;  // a launch has at most *rows rows; null: max_rows
  const ChoiceKind* kind = nullptr;
};

// The KV that moves to new slots after `settle` has updated the sequences to the last outcome.
enum class Moves {
  path,           // the accepted path
  path_and_tail,  // the accepted path, then the adopted branch's tail
  burst,          // the tail of branch 0, after a serial burst
};

// K and V of a lane in one block: `rows` rows of slots, `pitch` bytes apart.
struct KvBlock {
  std::byte* at = nullptr;  // null: there is no such block, or a prompt's pieces change its bits
  size_t slot_bytes = 0, pitch = 0, rows = 0;
};

class Lane {
 public:
  virtual ~Lane() = default;
  virtual Columns columns() const = 0;  // columns of the lane's logits
  virtual const RingShape& ring_shape() const = 0;
  // The lane's KV, which `settle` moves. Null if only the lane's own ops can access it (add_moves).
  virtual KvRing* ring() = 0;
  // The KV of a lane that has no ring() here, for copies between seats.
  virtual KvBlock kv() const { return {}; }
  // Appends the moves of KV, for a lane without a ring(). They follow the `settle` that decides
  // them.
  virtual void add_moves(Graph& /*graph*/, const Seats& /*seats*/, Moves /*which*/) {}
  // [max_rows, columns().n] f32, row-major: `add_forward` with logits writes rows 0 .. n - 1.
  virtual float* logits() = 0;
  // Appends the ops of one forward over `rows`, which are read at run time. A forward writes the
  // K/V of every row to its slot, and the logits of every row if `with_logits`. A row's results
  // depend only on its own token, position and visible keys. They have the same bits for any number
  // of rows, neighbours and threads.
  virtual void add_forward(Graph& graph, const Batch* rows, bool with_logits) = 0;
  // Sets the bounds of forwards and choices that are added from now on. Only lanes with a graph for
  // each size and each kind of request use them.
  virtual void expect(const Expected&) {}

  // Returns the most rows of a forward without logits. A forward of more than kMaxRows rows is a
  // piece of a prompt: each row sees the rows before it and the whole trunk, and masks are not
  // read. It runs only while the ring has not wrapped.
  virtual int32_t prefill_rows() const { return kMaxRows; }

  // Appends the sampling of every row of the last forward: tokens, or Dists if args.dist is given.
  virtual void add_choose(Graph& graph, const ChooseArgs& args) {
    graph.add(args.dist ? choose_dists : choose_rows, args);
  }

  // Returns the width of a block of features, in floats; 0: the lane keeps no features.
  virtual int64_t feature_width() const { return 0; }
  // Writes the features of row `row` of the last forward with logits, and of the token sampled
  // there: [kFeatureBlocks, width]. They are the residual stream after each of the last layers,
  // then the token's embedding. A model with fewer layers repeats its first one. This reads the
  // lane's memory on the host, so do not call it for a lane on a device.
  virtual void read_features(int /*row*/, int32_t /*token*/, float* /*out*/) const {}
  // Returns the location of the features in a lane on a device.
  virtual FeatureMemory feature_memory() const { return {}; }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual int vocab() const = 0;  // number of ids that the model can read
  // Positions that the model was trained for, by its config.json.
  virtual int64_t max_positions() const = 0;
  // The longest trunk that the model can process; kEndless if all its layers have a window.
  virtual int64_t longest() const { return max_positions(); }
  virtual std::unique_ptr<Lane> bind(const LaneShape& shape) const = 0;
};

}  // namespace sbrt
