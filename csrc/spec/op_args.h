// What the ops of a round are given, by value: pointers into memory that their device reaches.
#pragma once

#include <cstdint>

#include "model/features.h"
#include "ring/shape.h"
#include "state/lanes.h"

namespace sbrt {

class Hrad;
class KvRing;
class Lane;
struct Records;

// The laws at one node, as far as the candidates tried have used them up (spec/accept.h). Both sum to
// 1; q to 0 when all it had was tried.
struct Place {
  int32_t vocab;
  double* p;  // [vocab] what the token must be drawn from
  double* q;  // [vocab] what the next candidate was drawn from
};

struct LaneArgs {
  Sequence* sequence;
  Batch* batch;     // of the lane's next forward
  const Law* laws;  // [kMaxStepRows] the draft's, at the rows of its batch; null: the target's lane
  KvRing* ring;     // null: the lane moves its KV itself, behind `settle`
  RingShape shape;
  int32_t max_rows;  // of the lane's largest forward
};

struct SelectArgs {
  Sequence* sequence;
  const Choice* choice;  // [kMaxRows] the target's tokens
  Records* records;
  const Lane* target;  // whose features are read
  const Hrad* hrad;    // null: nobody asks
  float* features;     // [Hrad::room(hidden)] of the last outcome; null: not kept
  float* scratch;      // of hrad
  Place place;         // working memory; without any in an engine that was not built for rejection
};

// A layer as Hrad packs it, the first one as bf16, the others as f32.
struct HradLayer {
  const uint32_t* panels;
  const float* bias;
};

constexpr int kHradLayers = 3;

// Of an engine on a device; the host's classifier is a Hrad.
struct HradArgs {
  Sequence* sequence;
  FeatureMemory target;  // whose features are read
  float* x;              // [Hrad::room(hidden)] what the classifier reads of the last outcome
  float* shown;          // [hrad_inputs(hidden)] for the host, of every outcome; null: not kept
  float* inner;          // [kHradInner] outputs of the first layer
  HradLayer layer[kHradLayers];
};

}  // namespace sbrt
