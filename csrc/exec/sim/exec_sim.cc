// The sim body: everything runs on the host's thread, in an order that the events allow. Virtual
// time is to come; today it is the quick and deterministic body of the tests.

#include "core/check.h"
#include "exec/command.h"
#include "exec/exec.h"
#include "exec/failure.h"

namespace sbrt {
namespace {

class SimStream final : public Stream {
 public:
  explicit SimStream(Failure& failure) : failure_(failure) { queue_.reserve(kReserve); }

  void launch(const Graph& graph, int) override {
    queue_.push_back({Command::kLaunch, 1, &graph, nullptr, 0});
  }
  void wait(Event& event, int64_t value) override {
    queue_.push_back({Command::kWait, 1, nullptr, &event, value});
  }
  void record(Event& event, int64_t value) override {
    queue_.push_back({Command::kRecord, 1, nullptr, &event, value});
  }
  const Trace& trace() const override { return trace_; }

  // Runs as far as events allow; false if it could not even start.
  bool advance() {
    const size_t before = next_;
    while (next_ < queue_.size() && execute(queue_[next_])) ++next_;
    const bool moved = next_ != before;
    if (next_ == queue_.size()) {
      queue_.clear();
      next_ = 0;
    }
    return moved;
  }

 private:
  static constexpr size_t kReserve = 512;

  bool execute(const Command& c) {
    if (c.kind == Command::kWait) return c.event->reached() >= c.value;
    if (c.kind == Command::kRecord) {
      c.event->counter().store(c.value, std::memory_order_release);
    } else if (!failure_.raised()) {
      run(*c.graph);
    }
    return true;
  }

  void run(const Graph& graph) {
    try {
      for (const Graph::Node& node : graph.nodes()) node.call(node, Worker{});
    } catch (...) {
      failure_.raise(std::current_exception());
    }
  }

  Failure& failure_;
  Trace trace_{1};
  std::vector<Command> queue_;
  size_t next_ = 0;
};

class SimExec final : public Exec {
 public:
  std::unique_ptr<Stream> stream(int) override {
    auto stream = std::make_unique<SimStream>(failure_);
    streams_.push_back(stream.get());
    return stream;
  }

  // Runs all there is to run, whatever the time.
  bool reach(Event& event, int64_t value, int64_t) override {
    bool moved = true;
    while (moved) {
      moved = false;
      for (SimStream* stream : streams_) moved |= stream->advance();
    }
    check(event.reached() >= value, "exec: nobody will ever record ", event.name(), " = ", value);
    return true;
  }

  void rethrow() override { failure_.rethrow(); }
  void forget() override { failure_.forget(); }

 private:
  Failure failure_;
  std::vector<SimStream*> streams_;
};

}  // namespace

std::unique_ptr<Exec> make_sim_exec() { return std::make_unique<SimExec>(); }

}  // namespace sbrt
