// Memories that protect each other: while an op of one memory runs, an access to another memory
// faults. A memory may also imitate a device's. Then the host writes a copy of it, and an access to
// the memory itself faults except while an op runs.
#pragma once

#include <sys/mman.h>

#include <array>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "exec/cells.h"
#include "exec/effects.h"

namespace sbrt {

class OwnMemory {
 public:
  // of_device: [memory] true: the memory imitates a device's.
  explicit OwnMemory(const std::array<bool, kMemories>& of_device) : of_device_(of_device) {}

  // Returns a block of memory number `place`. If that memory imitates a device's and `has_copy` is
  // true, the block has a copy for the host.
  Block allocate(size_t bytes, int place, bool has_copy) {
    const bool is_device = of_device_[place];
    const auto both = std::make_shared<Both>(bytes ? bytes : 1, is_device && has_copy);
    blocks_.push_back({both, place});
    if (is_device) protect(both->device, PROT_NONE);
    const Pages& host = is_device ? both->host : both->device;
    return {both, host.as<void>(), both->device.as<void>(), both->device.bytes(), place};
  }

  // Opens one memory for the lifetime of this object, and closes the other memories. kAll: opens
  // all memories.
  class Open {
   public:
    static constexpr int kAll = -1;

    Open(const OwnMemory* memory, int place) : memory_(memory) {
      for_each([place](const Pages& pages, int its) {
        protect(pages, place == kAll || place == its ? PROT_READ | PROT_WRITE : PROT_NONE);
      });
    }
    ~Open() {
      for_each([this](const Pages& pages, int its) {
        protect(pages, memory_->of_device_[its] ? PROT_NONE : PROT_READ | PROT_WRITE);
      });
    }
    Open(const Open&) = delete;

   private:
    template <class F>
    void for_each(const F& f) const {
      if (!memory_) return;
      for (const Placed& block : memory_->blocks_) f(block.both->device, block.place);
    }

    const OwnMemory* memory_;  // null: no memory is opened or closed
  };

 private:
  struct Both {
    Pages host, device;
    Both(size_t bytes, bool has_copy) : host(has_copy ? bytes : 0), device(bytes) {}
  };
  struct Placed {
    std::shared_ptr<Both> both;
    int place;
  };

  static void protect(const Pages& pages, int how) {
    static_cast<void>(mprotect(pages.as<void>(), pages.bytes(), how));
  }

  std::array<bool, kMemories> of_device_;
  std::vector<Placed> blocks_;  // they live as long as the backend
};

}  // namespace sbrt
