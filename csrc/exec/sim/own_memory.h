// Separate memories. While an op that uses one memory runs, an access to another memory faults. If
// a memory imitates a device's memory, the host writes a copy of it. Then an access to the device's
// memory faults unless an op runs.
#pragma once

#include <sys/mman.h>

#include <memory>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "exec/cells.h"

namespace sbrt {

class OwnMemory {
 public:
  // of_device: the memory imitates a device's memory, and the host has copies of it.
  explicit OwnMemory(bool of_device) : of_device_(of_device) {}

  Block allocate(size_t bytes, int place) {
    const auto both = std::make_shared<Both>(bytes ? bytes : 1, of_device_);
    blocks_.push_back({both, place});
    if (of_device_) protect(both->device, PROT_NONE);
    const Pages& host = of_device_ ? both->host : both->device;
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
      for_each([this](const Pages& pages, int) {
        protect(pages, memory_->of_device_ ? PROT_NONE : PROT_READ | PROT_WRITE);
      });
    }
    Open(const Open&) = delete;

   private:
    template <class F>
    void for_each(const F& f) const {
      if (!memory_) return;
      for (const Placed& block : memory_->blocks_) f(block.both->device, block.place);
    }

    const OwnMemory* memory_;  // null: there is nothing to open
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

  bool of_device_;
  std::vector<Placed> blocks_;  // blocks live as long as the backend, so they are never removed
};

}  // namespace sbrt
