// A stream of the host: a worker thread that executes commands, with a team of cores.
#pragma once

#include <array>
#include <atomic>
#include <thread>

#include "exec/command.h"
#include "exec/cpu/bell.h"
#include "exec/cpu/team.h"
#include "exec/failure.h"

namespace sbrt {

// The link of a host's stream to a device: it waits for the device's streams and sends to the
// device's memory. The worker thread calls both functions. If one throws Error, the stream's work
// is skipped, but its events fire.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  virtual void wait_for(const Event& event, int64_t value) = 0;
  virtual void deliver(const Mail& mail, SeatSet seats) = 0;
};

class CpuStream final : public CommandStream {
 public:
  // State that all streams of a backend share.
  struct Shared {
    Failure failure;
    Bell bell;
  };

  // `link`: null if there is no device.
  CpuStream(int threads, TeamCores cores, bool has_ranges, Shared& shared,
            DeviceLink* link = nullptr);
  ~CpuStream() override;

  const Trace& trace() override { return trace_; }
  void push(const Command& command) override;
  // Waits until all commands are done.
  void drain() const;

 private:
  static constexpr uint32_t kDepth = 512;

  void work();
  void execute(const Command& c);
  void wait_for(const Command& c);
  void send(const Command& c);

  Failure& failure_;
  Bell& bell_;
  DeviceLink* link_;
  bool has_ranges_;
  Team team_;
  Trace trace_{kTraceEvents};
  std::array<Command, kDepth> queue_;
  alignas(64) std::atomic<uint32_t> pushed_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  std::thread thread_;  // last: it starts after all other members exist
};

}  // namespace sbrt
