// A CUDA runtime without a device, in virtual time, for the backend in csrc/exec/cuda.
//
// A kernel is a pointer to the number of ns that it takes. Enqueued work runs immediately, unless
// the device is held. Then it runs when the device is released.
#pragma once

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
extern bool broken;               // if true, every query fails
extern int current;               // the device that is selected; there are two
constexpr int64_t kCopy = 7'000;  // ns of a copy between devices

void hold();
void let_go();
void let_go_after(int naps);  // holds the device until the host has slept `naps` times

}  // namespace fake
