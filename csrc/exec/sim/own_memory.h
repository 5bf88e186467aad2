// Imitates the memory of a device: the host has a copy to write. An access to the device's memory
// faults, except while an op runs.
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
  Block allocate(size_t bytes) {
    blocks_.push_back(std::make_shared<Both>(bytes ? bytes : 1));
    const std::shared_ptr<Both>& both = blocks_.back();
    protect(both->device, PROT_NONE);
    return {both, both->host.as<void>(), both->device.as<void>(), both->host.bytes()};
  }

  // Opens all device memory to the host for the lifetime of this object.
  class Open {
   public:
    explicit Open(const OwnMemory* memory) : memory_(memory) { set(PROT_READ | PROT_WRITE); }
    ~Open() { set(PROT_NONE); }
    Open(const Open&) = delete;

   private:
    void set(int how) const {
      if (!memory_) return;
      for (const auto& both : memory_->blocks_) protect(both->device, how);
    }

    const OwnMemory* memory_;  // null: there is no such memory
  };

 private:
  struct Both {
    Pages host, device;
    explicit Both(size_t bytes) : host(bytes), device(bytes) {}
  };

  static void protect(const Pages& pages, int how) {
    static_cast<void>(mprotect(pages.as<void>(), pages.bytes(), how));
  }

  std::vector<std::shared_ptr<Both>> blocks_;  // they live as long as the backend
};

}  // namespace sbrt
