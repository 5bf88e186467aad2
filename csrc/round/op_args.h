// What the ops of a round are given, by value: pointers into memory that their device reaches.
#pragma once

#include <cstdint>

#include "model/features.h"
#include "ring/shape.h"
#include "state/lanes.h"
#include "state/record.h"
#include "state/roll.h"

namespace sbrt {

class Hrad;
class KvRing;
class Lane;

// The laws at one node, as far as the candidates tried have used them up (round/accept.h). Both sum to
// 1; q to 0 when all it had was tried.
struct Place {
  int32_t vocab;
  double* p;  // [vocab] what the token must be drawn from
  double* q;  // [vocab] what the next candidate was drawn from
};

// What an op of a lane does for one seat.
struct LaneSeat {
  int seat;
  Sequence* sequence;
  RowList* rows;       // its own, for the lane's next forward
  const Batch* batch;  // of the lane's last forward
  const Law* laws;  // [kMaxStepRows] the draft's, at the rows of the batch; null: the target's lane
  KvRing* ring;     // null: the lane moves its KV itself, after `settle`
  const RingShape& shape;
  int32_t max_rows;  // that it may take in one forward
};

struct LaneArgs {
  Seats seats;
  const Batch* batch;  // of the lane's last forward
  const Law* laws;  // [kMaxStepRows] the draft's, at the rows of its batch; null: the target's lane
  KvRing* ring;
  RingShape shape;
  int32_t max_rows;  // of the lane's largest forward

  // The seats that take part share the rows of a forward evenly.
  SBRT_ANY LaneSeat of(int seat) const {
    Sequence& s = seats.at[seat];
    RowList* rows = laws ? &s.draft_rows : &s.target_rows;
    const int share = most(1, max_rows / most(1, seats.members().count()));
    return {seat, &s, rows, batch, laws, ring, shape, share};
  }
};

// What `select`, and what follows it, reads and writes for one seat.
struct SelectSeat {
  int seat;
  Sequence* sequence;
  const Choice* choice;  // the target's tokens at root and chain
  Record* record;        // of this round
  int64_t round;
};

struct SelectArgs {
  Seats seats;
  const Batch* batch;    // of the target's last forward
  const Choice* choice;  // [kMaxRows] the target's tokens
  Records* records;      // of each seat
  const Lane* target;    // whose features are read
  const Hrad* hrad;      // null: nobody asks
  float* features;       // [seats, Hrad::room(hidden)] of the last outcomes; null: not kept
  float* scratch;        // of hrad
  Place place;  // working memory; without any in an engine that was not built for rejection

  SBRT_ANY SelectSeat of(int seat) const {
    const int64_t round = seats.round();
    return {seat, seats.at + seat, choice + batch->first[seat], &records[seat].of(round), round};
  }
};

// A layer as Hrad packs it, the first one as bf16, the others as f32.
struct HradLayer {
  const uint32_t* panels;
  const float* bias;
};

constexpr int kHradLayers = 3;

// What H-RAD on a device does for one seat.
struct HradSeat {
  const Sequence* sequence;
  Cut* cut;              // of the sequence
  int row;               // of the target's forward that the outcome is of
  FeatureMemory target;  // whose features are read
  float *x, *shown, *inner;
  const HradLayer* layer;
};

// Of an engine on a device; the host's classifier is a Hrad.
struct HradArgs {
  Seats seats;
  const Batch* batch;    // of the target's last forward
  FeatureMemory target;  // whose features are read
  float* x;      // [seats, Hrad::room(hidden)] what the classifier reads of the last outcomes
  float* shown;  // [seats, hrad_inputs(hidden)] for the host, of every outcome; null: not kept
  float* inner;  // [seats, kHradInner] outputs of the first layer
  HradLayer layer[kHradLayers];
};

// `gather` makes the batch of a lane from the rows in the lists of the seats.
struct GatherArgs {
  Seats seats;
  Batch* batch;
  int32_t is_draft;
  int32_t most;  // rows of a verification, which leaves out the least likely nodes; 0: all go in
};

// The last op of a round, or of a piece of a prompt.
struct EndArgs {
  int64_t* ended;
};

}  // namespace sbrt
