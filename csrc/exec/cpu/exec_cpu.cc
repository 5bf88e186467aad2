// The cpu backend. A stream is a worker thread with a team of threads. An event is a counter.
#include <array>
#include <thread>

#include "core/check.h"
#include "exec/command.h"
#include "exec/cpu/bell.h"
#include "exec/cpu/pause.h"
#include "exec/cpu/team.h"
#include "exec/exec.h"
#include "exec/failure.h"
#include "exec/nvtx.h"

namespace sbrt {
namespace {

class CpuStream final : public CommandStream {
 public:
  // `first`: this stream takes cores from the front of the list of usable cores. Other streams take
  // cores from the back.
  CpuStream(int threads, bool first, bool has_ranges, Failure& failure, Bell& bell)
      : failure_(failure),
        bell_(bell),
        has_ranges_(has_ranges),
        team_(threads, first ? 0 : -1, first ? 1 : -1, failure),
        thread_([this, threads, core = first ? 0 : -1] {
          place_on_core(core, threads);
          work();
        }) {}

  ~CpuStream() override {
    push({});
    thread_.join();
  }

  const Trace& trace() override { return trace_; }

  void drain() {
    const uint32_t all = pushed_.load(std::memory_order_relaxed);
    wait_until(done_, [all](uint32_t done) { return done == all; });
  }

 private:
  static constexpr uint32_t kDepth = 512;

  void push(const Command& command) override {
    const uint32_t index = pushed_.load(std::memory_order_relaxed);
    wait_until(done_, [index](uint32_t done) { return index - done < kDepth; });
    queue_[index % kDepth] = command;
    publish(pushed_, index + 1);
  }

  void work() {
    set_float_environment();
    for (uint32_t index = 0;; ++index) {
      wait_until(pushed_, [index](uint32_t pushed) { return pushed != index; });
      const Command command = queue_[index % kDepth];
      if (command.kind == Command::kStop) return;
      execute(command);
      publish(done_, index + 1);
    }
  }

  void execute(const Command& c) {
    if (c.kind == Command::kRecord) {
      c.event->stamp(c.value, Trace::now());
      publish(c.event->counter(), c.value);
      bell_.ring(*c.event);
      return;
    }
    const int64_t begin = Trace::now();
    if (c.kind == Command::kWait) {
      wait_until(c.event->counter(), [&c](int64_t reached) { return reached >= c.value; }, kYields);
      trace_.put(c.event->name(), begin, Trace::now(), true);
    } else if (c.kind == Command::kSend) {
      deliver(*c.mail, c.seats);
      trace_.put(c.mail->name, begin, Trace::now(), false);
    } else if (!failure_.raised()) {
      const NvtxRange range(has_ranges_, c.graph->name());
      team_.run(*c.graph, c.width);
      trace_.put(c.graph->name(), begin, Trace::now(), false);
    }
  }

  Failure& failure_;
  Bell& bell_;
  bool has_ranges_;
  Team team_;
  Trace trace_{kTraceEvents};
  std::array<Command, kDepth> queue_;
  alignas(64) std::atomic<uint32_t> pushed_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  std::thread thread_;  // declared last, because the thread uses all other members
};

class CpuExec final : public Exec {
 public:
  bool reach(Event& event, int64_t value, int64_t until) override {
    return bell_.wait(event, value, until);
  }

  void rethrow() override {
    if (!failure_.raised()) return;
    for (CpuStream* stream : streams_) stream->drain();
    failure_.rethrow();
  }
  void forget() override { failure_.forget(); }
  Capabilities can() const override { return capabilities_of(Backend::cpu); }

 protected:
  std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) override {
    check_within("exec: threads of a stream", 1, 1024, threads);
    auto stream =
        std::make_unique<CpuStream>(threads, streams_.empty(), kind.nvtx, failure_, bell_);
    streams_.push_back(stream.get());
    return stream;
  }

 private:
  Failure failure_;
  Bell bell_;
  std::vector<CpuStream*> streams_;
};

}  // namespace

std::unique_ptr<Exec> make_cpu_exec() { return std::make_unique<CpuExec>(); }

}  // namespace sbrt
