#include "spec/grow_op.h"

#include "spec/lanes.h"

namespace sbrt {

void keep_laws(const LaneArgs& args, Worker) { keep_laws_op(args, Alone{}); }

void extend(const LaneArgs& args, Worker) {
  GrowScratch scratch;
  extend_op(args, scratch, Alone{});
}

}  // namespace sbrt
