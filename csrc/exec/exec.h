// One interface, several bodies: streams, events, graphs. Nothing outside this folder knows what
// runs an op.
//
// A Graph is a flat list of (op, arguments by value) over fixed buffers. A Stream runs launched
// graphs in order; inside a graph every op sees all that earlier ops wrote. An Event is a counter
// that only grows: record(e, v) promises that all work before it on that stream is visible to
// whoever waits for e >= v.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/interval.h"
#include "exec/trace.h"

namespace sbrt {

// A member of the team that runs one op: rank of size.
struct Worker {
  int rank = 0;
  int size = 1;

  Interval share(int64_t n, int64_t grain = 1) const { return share_of(n, rank, size, grain); }
};

class Graph {
 public:
  explicit Graph(const char* name) : name_(name) {}

  // Appends an op. `fn(args, worker)` is called by every member of the team (team ops) or by rank 0
  // alone (`single`); the team meets after each op. Args is copied now: pointers and scalars.
  template <class Args>
  void add(void (*fn)(const Args&, Worker), const Args& args, bool single = false) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= kBytes);
    Node node;
    node.call = [](const Node& n, Worker w) {
      reinterpret_cast<void (*)(const Args&, Worker)>(n.fn)(*reinterpret_cast<const Args*>(n.args),
                                                            w);
    };
    node.fn = reinterpret_cast<void (*)()>(fn);
    node.single = single;
    std::memcpy(node.args, &args, sizeof args);
    nodes_.push_back(node);
  }

  static constexpr size_t kBytes = 192;
  struct Node {
    void (*call)(const Node&, Worker);
    void (*fn)();
    bool single;
    alignas(16) std::byte args[kBytes];
  };

  // What a launch costs in virtual time: (*ns)[*rows], read when the op at `at` is next.
  struct Cost {
    size_t at = ~size_t{0};  // past every op: nothing
    const int32_t* rows = nullptr;
    const int64_t* const* ns = nullptr;  // the table in force
  };

  // A forward over *rows rows comes next, and is all that this graph costs. Only the sim body asks.
  void cost_by(const int32_t* rows, const int64_t* const* ns) { cost_ = {nodes_.size(), rows, ns}; }

  const char* name() const { return name_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const Cost& cost() const { return cost_; }

 private:
  const char* name_;
  std::vector<Node> nodes_;
  Cost cost_;
};

class Event {
 public:
  explicit Event(const char* name) : name_(name) {}
  const char* name() const { return name_; }
  int64_t reached() const { return reached_.load(std::memory_order_acquire); }

  std::atomic<int64_t>& counter() { return reached_; }
  // Virtual ns of the last record, no earlier one is kept; only the sim body sets it.
  int64_t time() const { return time_; }
  void set_time(int64_t ns) { time_ = ns; }

 private:
  const char* name_;
  std::atomic<int64_t> reached_{0};
  int64_t time_ = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;
  // Runs `graph` with `width` members of the team. Both must outlive the launch.
  virtual void launch(const Graph& graph, int width) = 0;
  virtual void wait(Event& event, int64_t value) = 0;
  virtual void record(Event& event, int64_t value) = 0;
  virtual const Trace& trace() const = 0;
};

// A body. One host thread enqueues.
class Exec {
 public:
  virtual ~Exec() = default;
  // A stream whose team has up to `threads` members.
  virtual std::unique_ptr<Stream> stream(int threads) = 0;
  // Blocks the host until event >= value: true; or until Trace::now() is at `until`: false.
  virtual bool reach(Event& event, int64_t value, int64_t until) = 0;
  // Rethrows the first exception of any op, once all streams are idle: work enqueued after it was
  // skipped, but its events have fired.
  virtual void rethrow() = 0;
  // Drops that exception; all streams are idle.
  virtual void forget() = 0;
  void wait(Event& event, int64_t value) {
    reach(event, value, kForever);
    rethrow();
  }
  // ns of the clock that traces are in: the steady clock or, in virtual time, the host's own.
  virtual int64_t now() const { return Trace::now(); }
  // The host is busy with something for `ns` of virtual time; the steady clock needs no telling.
  virtual void spend(int64_t) {}

  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
};

std::unique_ptr<Exec> make_cpu_exec();  // a worker thread and a team of cores per stream
std::unique_ptr<Exec> make_sim_exec();  // everything on the host's thread, in order of dependence
std::unique_ptr<Exec> make_virtual_exec();  // the same in virtual time, with a trace

}  // namespace sbrt
