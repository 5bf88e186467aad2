// Arguments of the ops of a round, by value: pointers into memory that their device can access.
#pragma once

#include <cstdint>

#include "model/features.h"
#include "ring/shape.h"
#include "state/lanes.h"
#include "state/logprobs.h"
#include "state/record.h"
#include "state/roll.h"

namespace sbrt {

class Hrad;
class KvRing;
class Lane;
struct ChooseScratch;

// The distributions at one node that remain after the candidates tried so far (round/accept_op.h).
// Both sum to 1, or q to 0 when all its tokens were tried.
struct Place {
  int32_t vocab;
  double* p;  // [vocab] the token is drawn from it
  double* q;  // [vocab] the next candidate was drawn from it
};

// Arguments of a lane's op for one seat.
struct LaneSeat {
  int seat;
  Sequence* sequence;
  RowList* rows;       // the seat's, for the lane's next forward
  const Batch* batch;  // rows of the lane's last forward
  const Dist* dists;   // [kMaxStepRows] draft's, at rows of the batch; null: the target's lane
  KvRing* ring;        // null: the lane's own ops move its KV after `settle`
  const RingShape& shape;
  int32_t max_rows;  // most rows of the seat in one forward
};

struct LaneArgs {
  Seats seats;
  const Batch* batch;  // rows of the lane's last forward
  const Dist* dists;   // [kMaxStepRows] draft's, at rows of its batch; null: the target's lane
  KvRing* ring;
  RingShape shape;
  int32_t max_rows;  // rows of the lane's largest forward

  // Seats that take part share the rows of a forward evenly.
  SBRT_ANY LaneSeat of(int seat) const {
    Sequence& s = seats.at[seat];
    RowList* rows = dists ? &s.draft_rows : &s.target_rows;
    const int share = most(1, max_rows / most(1, seats.members().count()));
    return {seat, &s, rows, batch, dists, ring, shape, share};
  }
};

// Arguments of `select`, and of the ops that follow it, for one seat.
struct SelectSeat {
  int seat;
  Sequence* sequence;
  const Choice* choice;  // the target's tokens at root and chain
  Record* record;        // record of this round
  int64_t round;
};

struct SelectArgs {
  Seats seats;
  const Batch* batch;    // rows of the target's last forward
  const Choice* choice;  // [kMaxRows] the target's tokens
  Records* records;      // [seats]
  const Lane* target;    // whose features are read
  const Hrad* hrad;      // null: not used
  float* features;       // [seats, Hrad::room(hidden)] of the last outcomes; null: not kept
  float* scratch;        // working memory of hrad
  double* dists;         // [seats, 2, vocab] for rejection; null: the engine was not built for it

  SBRT_ANY SelectSeat of(int seat) const {
    const int64_t round = seats.round();
    return {seat, seats.at + seat, choice + batch->first[seat], &records[seat].of(round), round};
  }
  SBRT_ANY Place place_of(int seat) const {
    const int32_t vocab = seats.at[seat].scores.vocab;
    double* p = dists + 2 * int64_t{seat} * vocab;
    return {vocab, p, p + vocab};
  }
};

// A layer in Hrad's packing; the first one in bf16, the others in f32.
struct HradLayer {
  const uint32_t* panels;
  const float* bias;
};

constexpr int kHradLayers = 3;

// Arguments of H-RAD on a device for one seat.
struct HradSeat {
  const Sequence* sequence;
  Cut* cut;              // the sequence's
  int row;               // row of the outcome in the target's forward
  FeatureMemory target;  // whose features are read
  float *x, *shown, *inner;
  const HradLayer* layer;
};

// For an engine on a device; the host's classifier is a Hrad.
struct HradArgs {
  Seats seats;
  const Batch* batch;    // rows of the target's last forward
  FeatureMemory target;  // whose features are read
  float* x;              // [seats, Hrad::room(hidden)] the classifier's inputs at the last outcomes
  float* shown;  // [seats, hrad_inputs(hidden)] for the host, of every outcome; null: not kept
  float* inner;  // [seats, kHradInner] outputs of the first layer
  HradLayer layer[kHradLayers];
};

// Log-probs of the tokens that a round committed, or of a prompt. `logits` is [max_rows, stride] f32
// of the target's last forward; the first `vocab` of a row count.
struct LogprobArgs {
  Seats seats;
  const Batch* batch;
  const float* logits;
  int64_t stride;
  int32_t vocab;
  const Logprobs* asked;   // [seats]
  const uint8_t* hole;     // [vocab] 1: no token has this id; null: there are none. For a device
  ChooseScratch* scratch;  // [team]; not on a device
};

// `gather` makes a lane's batch from the seats' lists of rows.
struct GatherArgs {
  Seats seats;
  Batch* batch;
  int32_t is_draft;
  int32_t most;  // most rows of a verification, without the least likely nodes; 0: no limit
};

// The last op of a round, or of a piece of a prompt.
struct EndArgs {
  int64_t* ended;
};

}  // namespace sbrt
