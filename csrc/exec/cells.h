// Memory that the ops of a backend can access. The host writes it between sequences. If the device
// has its own memory, the host writes a copy and uploads the copy (Exec::upload). On other backends
// the host's memory and the device's are the same.
#pragma once

#include <cstddef>
#include <memory>

namespace sbrt {

enum class Where {
  device,   // device memory: the host writes its own copy, and never reads what ops wrote
  pinned,   // host memory that the device can access: host and device see each other's writes
  scratch,  // device memory without a copy for the host: only ops write and read it
};

struct Block {
  std::shared_ptr<void> owner;
  void* host = nullptr;
  void* device = nullptr;
  size_t bytes = 0;
  int place = 0;  // number of the memory that has the block, among the backend's memories
};

// `count` zeroed elements of T. host() and device() are different addresses only if the backend is
// a device. host() of scratch memory may be null.
template <class T>
class Cells {
 public:
  Cells() = default;
  explicit Cells(Block block) : block_(std::move(block)) {}

  T* host() const { return static_cast<T*>(block_.host); }
  // Address for ops; null if there is no memory.
  T* device() const { return static_cast<T*>(block_.device); }
  size_t size() const { return block_.bytes / sizeof(T); }
  const Block& block() const { return block_; }

 private:
  Block block_;
};

}  // namespace sbrt
