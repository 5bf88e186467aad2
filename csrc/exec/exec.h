// One interface, several backends: streams, events, graphs. Nothing outside this folder knows what
// runs an op.
//
// A Graph is a flat list of (op, arguments by value) over fixed buffers. A Stream runs launched
// graphs in order; inside a graph every op sees all that earlier ops wrote. An Event is a counter
// that only grows. record(e, v) promises that all work before it on that stream is visible to every
// waiter for e >= v.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "core/check.h"
#include "core/interval.h"
#include "exec/backends.h"
#include "exec/captured.h"
#include "exec/cells.h"
#include "exec/effects.h"
#include "exec/mail.h"
#include "exec/trace.h"

namespace sbrt {

class OrderBook;

// A member of the team that runs one op, with its rank among `size` members.
struct Worker {
  int rank = 0;
  int size = 1;

  Interval share(int64_t n, int64_t grain = 1) const { return share_of(n, rank, size, grain); }
};

class Graph {
 public:
  static constexpr size_t kBytes = 256;
  struct Node {
    void (*call)(const Node&, Worker) = nullptr;
    void (*fn)() = nullptr;
    const std::type_info* kind = nullptr;  // type of the arguments
    bool single = false;
    alignas(16) std::byte args[kBytes] = {};
    // On a device: a kernel whose only parameter is the arguments, or a captured graph.
    const void* kernel = nullptr;  // also null in a build without CUDA
    unsigned threads = 0, blocks = 1;
    const Captured* captured = nullptr;
    const char* name = nullptr;
    Effects effects;

    Node& on_device(const void* symbol, unsigned of_block, unsigned of_grid = 1) {
      kernel = symbol;
      threads = of_block;
      blocks = of_grid;
      return *this;
    }
    // On a device these captured graphs do the same work; they outlive the launches.
    Node& on_device(const Captured& graphs) {
      captured = &graphs;
      return *this;
    }
    bool runs_on_device() const { return threads > 0 || captured; }
    Node& says(const char* what, const Effects& what_it_does) {
      name = what;
      effects = what_it_does;
      return *this;
    }
  };

  explicit Graph(const char* name) : name_(name) {}

  // Appends an op. Every member of the team calls `fn(args, worker)`, or rank 0 alone if `single`.
  // The team synchronises after each op. Args is copied now: pointers and scalars.
  template <class Args>
  Node& add(void (*fn)(const Args&, Worker), const Args& args, bool single = false) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= kBytes);
    Node& node = nodes_.emplace_back();
    node.call = [](const Node& n, Worker w) {
      reinterpret_cast<void (*)(const Args&, Worker)>(n.fn)(*reinterpret_cast<const Args*>(n.args),
                                                            w);
    };
    node.fn = reinterpret_cast<void (*)()>(fn);
    node.kind = &typeid(Args);
    node.single = single;
    std::memcpy(node.args, &args, sizeof args);
    return node;
  }

  // Appends all nodes of another graph, `times` times, without its cost in virtual time.
  Graph& append(const Graph& other, int times = 1) {
    for (int i = 0; i < times; ++i)
      nodes_.insert(nodes_.end(), other.nodes_.begin(), other.nodes_.end());
    return *this;
  }

  // Sets name and effects of the nodes from `first` on that have none.
  void say(size_t first, const char* what, const Effects& what_they_do) {
    for (size_t i = first; i < nodes_.size(); ++i)
      if (!nodes_[i].name) nodes_[i].says(what, what_they_do);
  }

  // Cost of a launch in virtual time: (*ns)[*rows], read just before the op at `at` runs.
  struct Cost {
    size_t at = ~size_t{0};  // past every op: nothing
    const int32_t* rows = nullptr;
    const int64_t* const* ns = nullptr;  // the table in force
  };

  // Call this just before appending a forward over *rows rows. That forward is all that the graph
  // costs. Only the sim backend uses it.
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
  int64_t reached() const { return word_->load(std::memory_order_acquire); }

  std::atomic<int64_t>& counter() { return *word_; }
  // Virtual ns of the last record; no earlier one is kept. Only the sim backend sets it.
  int64_t time() const { return time_; }
  void set_time(int64_t ns) { time_ = ns; }
  // Time in ns of Trace::now() at which `value` was reached; the last few records are kept. A device
  // does not stamp them.
  int64_t reached_at(int64_t value) const {
    return times_[value % kStamps].load(std::memory_order_relaxed);
  }
  void stamp(int64_t value, int64_t ns) {
    times_[value % kStamps].store(ns, std::memory_order_relaxed);
  }

  // State that a backend keeps for an event, from the first wait or record on. On a device the word
  // is where the device writes it.
  void* body() const { return body_.get(); }
  void keep(std::shared_ptr<void> body, std::atomic<int64_t>* word) {
    body_ = std::move(body);
    word->store(reached(), std::memory_order_release);
    word_ = word;
  }

 private:
  const char* name_;
  std::atomic<int64_t> own_{0};
  std::atomic<int64_t>* word_ = &own_;
  int64_t time_ = 0;
  // The host reads the time of one round while at most two later ones are recorded.
  static constexpr int64_t kStamps = 4;
  std::atomic<int64_t> times_[kStamps] = {};
  std::shared_ptr<void> body_;
};

class Stream {
 public:
  static constexpr int kMostFused = 32;  // graphs that a stream keeps fused

  virtual ~Stream() = default;
  // Runs `graph` with `width` members of the team. The graph must outlive the launch. `seats`: the
  // seats that its ops read and write.
  virtual void launch(const Graph& graph, int width, SeatSet seats = kEverySeat) = 0;
  // Copies from one memory to another, for these seats. The mail must outlive the command.
  virtual void send(const Mail& mail, SeatSet seats) = 0;
  virtual void wait(Event& event, int64_t value) = 0;
  virtual void record(Event& event, int64_t value) = 0;
  // The stream's trace. Read it while the stream is idle. A device keeps a trace only after
  // keep_trace(true).
  virtual const Trace& trace() = 0;
  // Called before the first launch, so that no launch allocates. Throws InvalidInput if the backend
  // cannot run one of the ops.
  virtual void prepare(const Graph&) {}
  // On a device, makes all of `graph` one launch, for what its captured ops pick now. Call it with
  // nothing in flight. On other backends it does nothing.
  virtual void fuse(const Graph&) {}
  // True if `graph` is fused for what it picks now. Then it may be launched without prepare().
  virtual bool is_fused(const Graph&) const { return false; }
  virtual int fused() const { return 0; }           // how many fused graphs are kept
  virtual void* handle() const { return nullptr; }  // cudaStream_t
};

struct StreamKind {
  const char* name = "stream";
  bool urgent = false;  // has priority if the device could run both streams
  bool nvtx = false;    // put an NVTX range around each graph, for profilers
  int place = 0;        // the memory of its ops
  // On the cpu backend: a core for each member of the team, which is pinned there; empty: none is.
  std::vector<int> cores = {};
};

// A backend. One host thread enqueues.
class Exec {
 public:
  virtual ~Exec() = default;
  // A stream whose team has up to `threads` members.
  std::unique_ptr<Stream> stream(int threads, const StreamKind& kind = {}) {
    return make_stream(threads, kind);
  }
  // Blocks the host until event >= value and returns true, or until Trace::now() is at `until` and
  // returns false. Also returns true if no event will be reached any more: rethrow() gives the
  // reason.
  virtual bool reach(Event& event, int64_t value, int64_t until) = 0;
  // Returns true if event >= value. Then the host sees what the event promises.
  virtual bool has_reached(Event& event, int64_t value) { return event.reached() >= value; }
  // Rethrows the first exception of any op, once all streams are idle. Work enqueued after it was
  // skipped, but its events have fired.
  virtual void rethrow() = 0;
  // Drops that exception; all streams are idle. An error that broke a device stays.
  virtual void forget() = 0;
  void wait(Event& event, int64_t value) {
    reach(event, value, kForever);
    rethrow();
  }
  // The time in ns of the clock that traces use: the steady clock or, in virtual time, the host's
  // own clock.
  virtual int64_t now() const { return Trace::now(); }
  // Advances virtual time by `ns` of work of the host. Without effect on the steady clock.
  virtual void spend(int64_t) {}

  // A device times its streams' commands from now on, or stops; all streams are idle. The other
  // backends always do.
  virtual void keep_trace(bool /*is_on*/) {}
  // Starts or stops the recording of a device profiler that waits for this call.
  virtual void profile(bool /*is_on*/) {}

  virtual Capabilities can() const = 0;
  // Returns those of the streams of one memory.
  virtual Capabilities can_at(int /*place*/) const { return can(); }
  // place: the memory, for ops of its streams. Pinned memory is in reach of all.
  template <class T>
  Cells<T> cells(size_t count, Where where, int place = 0) {
    return Cells<T>(allocate(count * sizeof(T), where, place));
  }
  // Copies `count` elements, from `first` on, from the host's copy to the device. No op in flight
  // may use them; ops enqueued later see them.
  template <class T>
  void upload(const Cells<T>& cells, size_t first, size_t count) {
    copy_over(cells.block(), first * sizeof(T), count * sizeof(T));
  }
  // Copies `bytes` of a block in the same way, from byte `begin` on.
  virtual void copy_over(const Block&, size_t /*begin*/, size_t /*bytes*/) {}

  // Only on dry backends: the recorded order of commands. note() adds what the host itself reads
  // and writes of some seats. In memory passed to watch(), an op may only write what its effects
  // declare, of the seats of its launch.
  virtual const OrderBook* order() const { return nullptr; }
  virtual void note(const char* /*what*/, const Effects&, SeatSet /*seats*/ = kEverySeat) {}
  virtual void watch(const Watched&) {}

  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

 protected:
  virtual std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) = 0;
  virtual Block allocate(size_t bytes, Where where, int place);
};

struct ExecOptions {
  int device = 0;           // of cuda, for the first memory
  int second = kNoSecond;   // the same for the second memory, or a constant of backends.h
  bool is_virtual = false;  // sim in virtual time
  PartTable parts{};        // of the dry backends
};
std::unique_ptr<Exec> make_exec(Backend backend, const ExecOptions& options);

std::unique_ptr<Exec> make_cpu_exec();  // one worker thread and a team of cores per stream
std::unique_ptr<Exec> make_sim_exec();  // everything on the host's thread, in order of dependence
std::unique_ptr<Exec> make_virtual_exec();  // like sim, but in virtual time and with a trace
// Like sim, and records every command for order(). With two memories, an op that accesses the other
// one faults.
std::unique_ptr<Exec> make_dry_exec(const PartTable& parts, int second = kNoSecond);
// A dry backend that imitates cuda. Device memory is separate, and an access by the host faults. An
// op without a form for a device is refused.
std::unique_ptr<Exec> make_dry_cuda_exec(const PartTable& parts, int second = kNoSecond);

// One sentence that says why this machine or this build cannot run the cuda backend; empty if it
// can.
std::string why_no_cuda();
// `second`: as in ExecOptions. Throws InvalidInput with that sentence.
std::unique_ptr<Exec> make_cuda_exec(int device, int second = kNoSecond);

}  // namespace sbrt
