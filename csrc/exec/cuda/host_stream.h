// A stream of the host, for an engine whose target is on a device. Worker threads run the stream's
// ops on pinned memory.
#pragma once

#include "exec/command.h"
#include "exec/cpu/cpu_stream.h"
#include "exec/cuda/world.h"

namespace sbrt {

// The worker's link to the device: it polls the words that the device publishes, and copies mail to
// the device's memory before the record that promises it.
class Courier final : public DeviceLink {
 public:
  explicit Courier(World& world);
  ~Courier() override;
  Courier(const Courier&) = delete;

  void wait_for(const Event& event, int64_t value) override;
  void deliver(const Mail& mail, SeatSet seats) override;

 private:
  void look() const;

  World& world_;
  cudaStream_t stream_ = nullptr;
};

class HostStream final : public CommandStream {
 public:
  HostStream(World& world, int threads, const StreamKind& kind);

  const Trace& trace() override { return stream_.trace(); }
  void drain() const { stream_.drain(); }

 private:
  void push(const Command& c) override;

  World& world_;
  Courier link_;
  CpuStream stream_;  // declared last: its thread uses the other members
};

}  // namespace sbrt
