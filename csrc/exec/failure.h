// Keeps the first exception of any op of a backend until the host takes it.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

namespace sbrt {

class Failure {
 public:
  bool raised() const { return raised_.load(std::memory_order_acquire); }

  void raise(std::exception_ptr e) {
    const std::lock_guard lock(mutex_);
    if (!exception_) exception_ = std::move(e);
    raised_.store(true, std::memory_order_release);
  }
  std::exception_ptr first() const {
    const std::lock_guard lock(mutex_);
    return exception_;
  }
  // Call rethrow() and forget() only when every stream is idle.
  void rethrow() {
    if (const std::exception_ptr e = forget()) std::rethrow_exception(e);
  }
  std::exception_ptr forget() {
    const std::lock_guard lock(mutex_);
    raised_.store(false, std::memory_order_release);
    return std::exchange(exception_, nullptr);
  }

 private:
  std::atomic<bool> raised_{false};
  mutable std::mutex mutex_;
  std::exception_ptr exception_;
};

}  // namespace sbrt
