// Arguments of the ops of a round, which are passed by value. All pointers are to memory that the
// op's device can access.
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

// The distributions p and q after one node, updated for each candidate that was rejected
// (round/accept_op.h). Both sum to 1. But if all tokens of q were tried, q sums to 0.
struct Place {
  int32_t vocab;
  double* p;  // [vocab]; the token after the node is drawn from p
  double* q;  // [vocab]; the next candidate was drawn from q
};

// Arguments of a lane's op for one seat.
struct LaneSeat {
  int seat;
  Sequence* sequence;
  RowList* rows;       // rows of the seat in the lane's next forward
  const Batch* batch;  // the batch of the lane's last forward
  const Dist* dists;   // [kMaxStepRows] distributions after the batch's rows; null for the target
  KvRing* ring;        // null: the lane's own ops move KV, after `settle`
  const RingShape& shape;
  int32_t max_rows;  // largest number of rows of the seat in one forward
};

struct LaneArgs {
  Seats seats;
  const Batch* batch;  // the batch of the lane's last forward
  const Dist* dists;   // [kMaxStepRows] distributions after the batch's rows; null for the target
  KvRing* ring;
  RingShape shape;
  int32_t max_rows;  // largest number of rows of one forward of the lane

  // Returns the arguments for one seat. The rows of a forward are divided evenly among the seats
  // that take part.
  SBRT_ANY LaneSeat of(int seat) const {
    Sequence& s = seats.at[seat];
    RowList* rows = dists ? &s.draft_rows : &s.target_rows;
    const int share = most(1, max_rows / most(1, seats.members().count()));
    return {seat, &s, rows, batch, dists, ring, shape, share};
  }
};

// Arguments of `select` and of the ops after it, for one seat.
struct SelectSeat {
  int seat;
  Sequence* sequence;
  const Choice* choice;  // the target's tokens after the root and the chain's nodes
  Record* record;        // the record of this round
  int64_t round;
};

struct SelectArgs {
  Seats seats;
  const Batch* batch;    // the batch of the target's last forward
  const Choice* choice;  // [kMaxRows] the target's tokens
  Records* records;      // [seats]
  const Lane* target;    // whose features are read
  const Hrad* hrad;      // null: not used
  // [seats, Hrad::room(hidden)]: the classifier's inputs for the last outcomes. Null: none are
  // kept.
  float* features;
  float* scratch;  // working memory of hrad
  // [seats, 2, vocab]: p and q for the rule `rejection`. Null: the engine was not built for this
  // rule.
  double* dists;

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

// The packed weights of one layer (Hrad::Layer). Those of the first layer are bf16, those of the
// others f32.
struct HradLayer {
  const uint32_t* panels;
  const float* bias;
};

constexpr int kHradLayers = 3;

// Arguments of H-RAD's ops for one seat, on a device.
struct HradSeat {
  const Sequence* sequence;
  Cut* cut;              // the result: how much of the adopted tail is kept
  int row;               // row of the outcome's node in the target's forward
  FeatureMemory target;  // features of the target
  float *x, *shown, *inner;
  const HradLayer* layer;
};

// Arguments of H-RAD's ops on a device. On the host the class Hrad computes the classifier.
struct HradArgs {
  Seats seats;
  const Batch* batch;    // the batch of the target's last forward
  FeatureMemory target;  // features of the target
  float* x;              // [seats, Hrad::room(hidden)] classifier's inputs for the last outcomes
  float* shown;          // [seats, hrad_inputs(hidden)] a copy of x for the host; null: no copy
  float* inner;          // [seats, kHradInner] outputs of the first layer
  HradLayer layer[kHradLayers];
};

// Arguments of the ops that compute log-probs, for the tokens of a round or of a prompt. `logits`
// is [max_rows, stride] f32, from the target's last forward. Only the first `vocab` values of a row
// are used.
struct LogprobArgs {
  Seats seats;
  const Batch* batch;
  const float* logits;
  int64_t stride;
  int32_t vocab;
  const Logprobs* asked;  // [seats]
  // [vocab] 1: no token has this id. Null: every id has a token. Used only on a device.
  const uint8_t* hole;
  ChooseScratch* scratch;  // [team]; null on a device
};

// Arguments of `gather`, which builds a lane's batch from the row lists of the seats.
struct GatherArgs {
  Seats seats;
  Batch* batch;
  int32_t is_draft;
  // Largest number of rows to verify; 0: no limit. Beyond it, the least likely nodes are left out.
  int32_t most;
};

// Arguments of the last op of a round or of a prompt piece: the counter that it increments.
struct EndArgs {
  int64_t* ended;
};

}  // namespace sbrt
