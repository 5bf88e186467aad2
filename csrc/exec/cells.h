// Memory that the ops of a body reach. The host writes it between sequences, in a copy of its own where
// the device has memory of its own, and sends that over (Exec::upload); elsewhere both are one.
#pragma once

#include <cstddef>
#include <memory>

namespace sbrt {

enum class Where {
  device,  // of the device: the host has a copy to write, and never reads what ops wrote
  pinned,  // of the host, in the device's reach: both see what the other writes
};

struct Block {
  std::shared_ptr<void> owner;
  void* host = nullptr;
  void* device = nullptr;
  size_t bytes = 0;
};

// `count` elements of T, zeroed. Host and device only differ on a body that is a device.
template <class T>
class Cells {
 public:
  Cells() = default;
  explicit Cells(Block block) : block_(std::move(block)) {}

  T* host() const { return static_cast<T*>(block_.host); }
  T* device() const { return static_cast<T*>(block_.device); }  // null without any
  size_t size() const { return block_.bytes / sizeof(T); }
  const Block& block() const { return block_; }

 private:
  Block block_;
};

}  // namespace sbrt
