// Waits for an atomic. The thread first spins for a short time, because a round is shorter than a
// wake-up. Then it sleeps in the kernel.
#pragma once

#include <atomic>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sbrt {

inline void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kSpins = 400;  // this number of spins takes about ten microseconds
// This number of yields takes about 0.1 ms if no other thread wants the core.
constexpr int kYields = 1000;

// Stores a value and wakes the threads that wait for it. The store is sequentially consistent,
// because notify_all() looks for waiting threads with a plain load. If that load ran before the
// store, a thread that has just read the old value would sleep for ever.
template <class T>
void publish(std::atomic<T>& a, T value) {
  a.store(value, std::memory_order_seq_cst);
  a.notify_all();
}

// Waits until done(value) is true for the loaded value (acquire), and returns that value. yields:
// number of times to yield the core before sleeping. Yielding pays if the thread that will store
// the value is known to be working.
template <class T, class Done>
T wait_until(const std::atomic<T>& a, Done done, int yields = 0) {
  T value = a.load(std::memory_order_acquire);
  for (int spin = 0; !done(value); ++spin) {
    if (spin < kSpins) {
      cpu_relax();
    } else if (spin < kSpins + yields) {
      std::this_thread::yield();
    } else {
      a.wait(value, std::memory_order_acquire);
    }
    value = a.load(std::memory_order_acquire);
  }
  return value;
}

}  // namespace sbrt
