#include "spec/lookup_op.h"

#include "spec/lanes.h"

namespace sbrt {

int look_up(const int32_t* trunk, int64_t length, int want, int32_t* found) {
  const int64_t after = after_match(trunk, length, Alone{});
  if (after < 0) return 0;
  read_on(trunk, length, after, want, found);
  return want;
}

}  // namespace sbrt
