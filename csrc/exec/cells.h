// Memory that the ops of a backend can reach. The host writes it between sequences. If the device
// has its own memory, the host writes a copy and uploads it (Exec::upload); elsewhere both are the
// same memory.
#pragma once

#include <cstddef>
#include <memory>

namespace sbrt {

enum class Where {
  device,   // device memory: the host writes its copy, and never reads what ops wrote
  pinned,   // host memory that the device can reach: each sees what the other writes
  scratch,  // device memory without a host's copy: only ops write and read it
};

struct Block {
  std::shared_ptr<void> owner;
  void* host = nullptr;
  void* device = nullptr;
  size_t bytes = 0;
  int place = 0;  // which of the backend's memories it is in
};

// `count` elements of T, zeroed. host() and device() differ only if the backend is a device. host()
// of scratch memory may be null.
template <class T>
class Cells {
 public:
  Cells() = default;
  explicit Cells(Block block) : block_(std::move(block)) {}

  T* host() const { return static_cast<T*>(block_.host); }
  T* device() const { return static_cast<T*>(block_.device); }  // null if there is no memory
  size_t size() const { return block_.bytes / sizeof(T); }
  const Block& block() const { return block_; }

 private:
  Block block_;
};

}  // namespace sbrt
