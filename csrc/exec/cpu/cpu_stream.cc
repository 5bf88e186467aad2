#include "exec/cpu/cpu_stream.h"

#include <utility>

#include "exec/cpu/pause.h"
#include "exec/nvtx.h"

namespace sbrt {

CpuStream::CpuStream(int threads, TeamCores cores, bool has_ranges, Shared& shared,
                     DeviceLink* link)
    : failure_(shared.failure),
      bell_(shared.bell),
      link_(link),
      has_ranges_(has_ranges),
      team_(threads, std::move(cores), failure_),
      thread_([this] {
        team_.take_core();
        work();
      }) {}

CpuStream::~CpuStream() {
  push({});
  thread_.join();
}

void CpuStream::drain() const {
  const uint32_t all = pushed_.load(std::memory_order_relaxed);
  wait_until(done_, [all](uint32_t done) { return done == all; });
}

void CpuStream::push(const Command& command) {
  const uint32_t index = pushed_.load(std::memory_order_relaxed);
  wait_until(done_, [index](uint32_t done) { return index - done < kDepth; });
  queue_[index % kDepth] = command;
  publish(pushed_, index + 1);
}

void CpuStream::work() {
  set_float_environment();
  for (uint32_t index = 0;; ++index) {
    wait_until(pushed_, [index](uint32_t pushed) { return pushed != index; });
    const Command command = queue_[index % kDepth];
    if (command.kind == Command::kStop) return;
    execute(command);
    publish(done_, index + 1);
  }
}

void CpuStream::execute(const Command& c) {
  if (c.kind == Command::kRecord) {
    c.event->stamp(c.value, Trace::now());
    publish(c.event->counter(), c.value);
    bell_.ring(*c.event);
    return;
  }
  const int64_t begin = Trace::now();
  if (c.kind == Command::kWait) {
    wait_for(c);
    trace_.put(c.event->name(), begin, Trace::now(), true);
  } else if (c.kind == Command::kSend) {
    send(c);
    trace_.put(c.mail->name, begin, Trace::now(), false);
  } else if (!failure_.raised()) {
    const NvtxRange range(has_ranges_, c.graph->name());
    team_.run(*c.graph, c.width);
    trace_.put(c.graph->name(), begin, Trace::now(), false);
  }
}

void CpuStream::wait_for(const Command& c) {
  if (!link_) {
    wait_until(c.event->counter(), [&c](int64_t reached) { return reached >= c.value; }, kYields);
    return;
  }
  try {
    link_->wait_for(*c.event, c.value);
  } catch (...) {
    failure_.raise(std::current_exception());
  }
}

// If the stream's work was skipped, its mail could be half written. So a device does not get the
// mail.
void CpuStream::send(const Command& c) {
  if (!link_) {
    deliver(*c.mail, c.seats);
  } else if (!failure_.raised()) {
    try {
      link_->deliver(*c.mail, c.seats);
    } catch (...) {
      failure_.raise(std::current_exception());
    }
  }
}

}  // namespace sbrt
