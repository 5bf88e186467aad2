#include "exec/exec.h"

#include "core/memory.h"

namespace sbrt {

// Allocates lazily committed pages, which all ops of this process can access.
Block Exec::allocate(size_t bytes, Where, int place) {
  const auto pages = std::make_shared<Pages>(bytes);
  return {pages, pages->as<void>(), pages->as<void>(), bytes, place};
}

}  // namespace sbrt
