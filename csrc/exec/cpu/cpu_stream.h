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

// How a stream of the host waits for the streams of a device and sends to its memory. The worker
// thread calls both. They throw Error; then the stream's work is skipped, but its events fire.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  virtual void wait_for(const Event& event, int64_t value) = 0;
  virtual void deliver(const Mail& mail, SeatSet seats) = 0;
};

class CpuStream final : public CommandStream {
 public:
  // The streams of a backend share this.
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
  // Returns once all commands are done.
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
