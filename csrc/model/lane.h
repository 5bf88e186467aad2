// A round's interface to a model: its sizes, and ops that compute a forward over a row table.
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

constexpr int64_t kEndless = int64_t{1} << 40;  // no trunk is longer

struct LaneShape {
  int64_t max_len = 0;     // positions that the lane must hold (trunk tokens)
  int32_t max_rows = 0;    // rows of its largest forward
  int32_t branches = 0;    // tails
  int32_t tail_slots = 0;  // slots of one tail
  int32_t threads = 1;     // largest team
  bool debug = false;
  bool features = false;   // keep the inputs of `read_features`
  bool on_device = false;  // its memory, and all pointers given to it, are a device's
  void* stream = nullptr;  // on a device: the cudaStream_t that it runs on
  int32_t seats = 1;       // sequences, each with its own ring
  bool scores = false;     // on a device: its choices keep scores, for rejection
};

// True if any request of a choice filters (min_p, top_k, top_p) or shapes (masks, bias, penalties).
struct ChoiceKind {
  bool filters = false, shapes = false;

  bool operator==(const ChoiceKind&) const = default;
};

// The host's knowledge of launches before they run. It is in host memory, which the host writes
// while nothing is in flight.
struct Expected {
  const int32_t* rows = nullptr;  // a launch has at most *rows rows; null: max_rows
  const ChoiceKind* kind = nullptr;
};

// The KV that goes to new slots after `settle` has moved the sequences that take part to the last outcome.
enum class Moves {
  path,           // the accepted path
  path_and_tail,  // that, then the adopted branch's tail
  burst,          // the tail of branch 0, after a serial burst
};

class Lane {
 public:
  virtual ~Lane() = default;
  virtual Columns columns() const = 0;  // of its logits
  virtual const RingShape& ring_shape() const = 0;
  // Its KV, which `settle` moves; null if only the lane's own ops reach it: see add_moves.
  virtual KvRing* ring() = 0;
  // Appends the moves of a lane that has no ring() here; they follow the `settle` that decides
  // them.
  virtual void add_moves(Graph& /*graph*/, const Seats& /*seats*/, Moves /*which*/) {}
  // [max_rows, columns().n] f32, row-major: `add_forward` with logits writes rows 0 .. n - 1.
  virtual float* logits() = 0;
  // Appends the ops of one forward over `rows` (read at run time). It writes K/V of every row to
  // its slot, and the logits of every row if `with_logits`. A row's results depend only on its own
  // token, position and visible keys: they are the same bits for any rows, neighbours and threads.
  virtual void add_forward(Graph& graph, const Batch* rows, bool with_logits) = 0;
  // For forwards and choices added from now on. Used by lanes with a graph for each size and each
  // kind of request.
  virtual void expect(const Expected&) {}

  // Rows of its widest forward without logits. A forward of more than kMaxRows rows is for a
  // prompt: its rows see each other and the whole trunk before them, and masks are not read. No
  // position that they see has left the ring, or is beyond its first `capacity`.
  virtual int32_t prefill_rows() const { return kMaxRows; }

  // Appends the choice of every row of the last forward: tokens, or Dists if args.dist is given.
  virtual void add_choose(Graph& graph, const ChooseArgs& args) {
    graph.add(args.dist ? choose_dists : choose_rows, args);
  }

  // Width of a block of features; 0: the lane keeps none.
  virtual int64_t feature_width() const { return 0; }
  // Features of row `row` of the last forward with logits and of the token sampled there,
  // [kFeatureBlocks, width]: the residual stream after each of the last layers, then the token's
  // embedding. With fewer layers the first one is repeated. Reads the lane's memory on the host, so
  // never for a lane on a device.
  virtual void read_features(int /*row*/, int32_t /*token*/, float* /*out*/) const {}
  // Their location in a lane on a device.
  virtual FeatureMemory feature_memory() const { return {}; }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual int vocab() const = 0;  // ids that it can read
  // Positions that it was trained for, by its config.json.
  virtual int64_t max_positions() const = 0;
  // The longest trunk it can follow; kEndless for a model whose layers all have a window.
  virtual int64_t longest() const { return max_positions(); }
  virtual std::unique_ptr<Lane> bind(const LaneShape& shape) const = 0;
};

}  // namespace sbrt
