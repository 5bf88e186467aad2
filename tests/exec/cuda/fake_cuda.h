// A CUDA runtime without a device, in virtual time, for the backend in csrc/exec/cuda.
//
// The address of a kernel is the number of ns that it takes. Enqueued work has run at once, unless
// the device is held. Then the host sees nothing of it until the device is released. Or each stream
// runs its work in a thread of its own, so that a sanitizer sees what nothing orders.
#pragma once

#include <atomic>
#include <cstdint>

namespace fake {

struct Counts {
  int events = 0;           // events created and not destroyed
  int records = 0;          // records of events that store a time
  int waits = 0;            // waits of the host for a stream or an event
  int captures = 0;         // profilers started minus profilers stopped
  int launches = 0;         // launches of graphs
  int graphs = 0;           // graphs instantiated and not destroyed
  int naps = 0;             // how often the host slept
  int64_t longest_nap = 0;  // in ns
  int peer_copies = 0;      // copies from one device to another
  int peers = 0;            // times that a device was given access to another
};

extern Counts counts;
extern int64_t now;               // ns of the device's clock; nothing begins earlier
extern std::atomic<bool> broken;  // every query fails
extern thread_local int current;  // the device that is selected; there are two
constexpr int64_t kCopy = 7'000;  // ns of a copy between devices

void hold();
void let_go();
void let_go_after(int naps);  // holds the device until the host has slept `naps` times

// Streams made from now on have threads. Then nothing is counted, except what is made and destroyed.
void use_threads();
// Each run of `kernel` calls `does` with the address of its arguments.
void set_work(const void* kernel, void (*does)(const void* args));

}  // namespace fake
