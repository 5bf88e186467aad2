#include "exec/exec.h"

#include "core/memory.h"

namespace sbrt {

// Allocates pages that are committed lazily. All ops of this process can access them.
Block Exec::allocate(size_t bytes, Where, int place) {
  const auto pages = std::make_shared<Pages>(bytes);
  return {pages, pages->as<void>(), pages->as<void>(), bytes, place};
}

}  // namespace sbrt
