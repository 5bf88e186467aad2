// A CUDA runtime without a device, in virtual time, for the backend in csrc/exec/cuda.
//
// The address of a kernel is the number of ns that it takes. Work runs as soon as it is enqueued,
// unless the device is held (hold()). Then the host sees no result until the device is released.
// After use_threads() each stream runs its work in its own thread. Then a sanitizer can report
// accesses that nothing orders.
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
extern int64_t now;               // ns of the device's clock; work begins now or later
extern std::atomic<bool> broken;  // every query fails
extern thread_local int current;  // number of the selected device, 0 or 1
constexpr int64_t kCopy = 7'000;  // ns of a copy between devices

void hold();
void let_go();
void let_go_after(int naps);  // holds the device until the host has slept `naps` times

// Streams that are made from now on have threads. From now on only objects that are made or
// destroyed are counted.
void use_threads();
// Makes each run of `kernel` call `does` with the address of the kernel's arguments.
void set_work(const void* kernel, void (*does)(const void* args));

}  // namespace fake
