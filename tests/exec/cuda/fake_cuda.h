// A CUDA runtime without a device, in virtual time, for the body in csrc/exec/cuda.
//
// A kernel is the address of how many ns it takes. What is enqueued has run at once, unless the device is
// held: then the host sees nothing of it until it is let go.
#pragma once

#include <cstdint>

namespace fake {

struct Counts {
  int events = 0;           // made, and not destroyed
  int records = 0;          // of events that keep their time
  int waits = 0;            // of the host for a stream or an event
  int captures = 0;         // profilers started, less those stopped
  int launches = 0;         // of graphs
  int graphs = 0;           // that can be launched, and were not destroyed
  int naps = 0;             // of the host
  int64_t longest_nap = 0;  // ns
};

extern Counts counts;
extern int64_t now;  // ns of the device's clock; nothing begins earlier
extern bool broken;  // every query fails

void hold();
void let_go();
void let_go_after(int naps);  // of the host; until then held

}  // namespace fake
