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

#include "core/check.h"
#include "core/interval.h"
#include "exec/captured.h"
#include "exec/cells.h"
#include "exec/effects.h"
#include "exec/trace.h"

namespace sbrt {

class OrderBook;

// A member of the team that runs one op: rank of size.
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
    bool single = false;
    alignas(16) std::byte args[kBytes] = {};
    // On a device: a kernel whose one parameter is the arguments, or a captured graph.
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
    // What somebody else captured does the same there; it outlives the launches.
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

  // Appends an op. `fn(args, worker)` is called by every member of the team (team ops) or by rank 0
  // alone (`single`); the team meets after each op. Args is copied now: pointers and scalars.
  template <class Args>
  Node& add(void (*fn)(const Args&, Worker), const Args& args, bool single = false) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= kBytes);
    Node& node = nodes_.emplace_back();
    node.call = [](const Node& n, Worker w) {
      reinterpret_cast<void (*)(const Args&, Worker)>(n.fn)(*reinterpret_cast<const Args*>(n.args),
                                                            w);
    };
    node.fn = reinterpret_cast<void (*)()>(fn);
    node.single = single;
    std::memcpy(node.args, &args, sizeof args);
    return node;
  }

  // All nodes of another one, so many times; what it costs in virtual time stays behind.
  Graph& append(const Graph& other, int times = 1) {
    for (int i = 0; i < times; ++i)
      nodes_.insert(nodes_.end(), other.nodes_.begin(), other.nodes_.end());
    return *this;
  }

  // What the nodes from `first` on do, that say nothing themselves.
  void say(size_t first, const char* what, const Effects& what_they_do) {
    for (size_t i = first; i < nodes_.size(); ++i)
      if (!nodes_[i].name) nodes_[i].says(what, what_they_do);
  }

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
  int64_t reached() const { return word_->load(std::memory_order_acquire); }

  std::atomic<int64_t>& counter() { return *word_; }
  // Virtual ns of the last record, no earlier one is kept; only the sim body sets it.
  int64_t time() const { return time_; }
  void set_time(int64_t ns) { time_ = ns; }
  // ns of Trace::now() at which the last records were reached, by value. Only the cpu body stamps them.
  int64_t reached_at(int64_t value) const {
    return times_[value % kStamps].load(std::memory_order_relaxed);
  }
  void stamp(int64_t value, int64_t ns) {
    times_[value % kStamps].store(ns, std::memory_order_relaxed);
  }

  // What a body keeps of an event, from its first wait or record on: on a device the word lies where
  // the device writes it.
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
  virtual ~Stream() = default;
  // Runs `graph` with `width` members of the team. Both must outlive the launch.
  virtual void launch(const Graph& graph, int width) = 0;
  virtual void wait(Event& event, int64_t value) = 0;
  virtual void record(Event& event, int64_t value) = 0;
  // What ran, and when; read while the stream is idle. A device keeps it if it is told to.
  virtual const Trace& trace() = 0;
  // Before the first launch, so that none of them allocates. Throws InvalidInput if the body cannot
  // run an op of it.
  virtual void prepare(const Graph&) {}
  // Makes all of `graph` one launch of a device, for what its captured ops pick now. Nothing is in
  // flight. No other body has a use for that: there nothing is fused.
  virtual void fuse(const Graph&) {}
  // Whether that was done. Then it may be launched without having been prepared.
  virtual bool is_fused(const Graph&) const { return false; }
  virtual int fused() const { return 0; }           // how many are kept
  virtual void* handle() const { return nullptr; }  // cudaStream_t
};

struct StreamKind {
  const char* name = "stream";
  bool urgent = false;  // goes first on a device that both are ready for
  bool nvtx = false;    // a range around each graph, for profilers
};

// A body. One host thread enqueues.
class Exec {
 public:
  virtual ~Exec() = default;
  // A stream whose team has up to `threads` members.
  std::unique_ptr<Stream> stream(int threads, const StreamKind& kind = {}) {
    return make_stream(threads, kind);
  }
  // Blocks the host until event >= value: true; or until Trace::now() is at `until`: false. True as
  // well where nothing will ever be reached any more: rethrow() says why.
  virtual bool reach(Event& event, int64_t value, int64_t until) = 0;
  // Rethrows the first exception of any op, once all streams are idle: work enqueued after it was
  // skipped, but its events have fired.
  virtual void rethrow() = 0;
  // Drops that exception; all streams are idle. What broke a device stays.
  virtual void forget() = 0;
  void wait(Event& event, int64_t value) {
    reach(event, value, kForever);
    rethrow();
  }
  // ns of the clock that traces are in: the steady clock or, in virtual time, the host's own.
  virtual int64_t now() const { return Trace::now(); }
  // The host is busy with something for `ns` of virtual time; the steady clock needs no telling.
  virtual void spend(int64_t) {}

  // A device times its streams' commands from here on, or no more; all streams are idle. The other
  // bodies always do.
  virtual void keep_trace(bool /*is_on*/) {}
  // What a profiler of the device that waits for it records begins, or ends.
  virtual void profile(bool /*is_on*/) {}

  // Ops run on a device of their own: what has no kernel there is refused.
  virtual bool is_device() const { return false; }
  template <class T>
  Cells<T> cells(size_t count, Where where) {
    return Cells<T>(allocate(count * sizeof(T), where));
  }
  // The first `bytes` as the host wrote them, with all streams idle; ops enqueued later see them.
  virtual void upload(const Block&, size_t /*bytes*/) {}

  // The dry bodies alone: the order that their commands kept. What the host itself reads and writes is
  // noted; of memory that is watched no op may write what it does not say.
  virtual const OrderBook* order() const { return nullptr; }
  virtual void note(const char* /*what*/, const Effects&) {}
  virtual void watch(const Watched&) {}

  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

 protected:
  virtual std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) = 0;
  virtual Block allocate(size_t bytes, Where where);
};

std::unique_ptr<Exec> make_cpu_exec();  // a worker thread and a team of cores per stream
std::unique_ptr<Exec> make_sim_exec();  // everything on the host's thread, in order of dependence
std::unique_ptr<Exec> make_virtual_exec();  // the same in virtual time, with a trace
// The same, and every command is kept for order(), whose sentences call parts by these names.
std::unique_ptr<Exec> make_dry_exec(PartName name);
// dry as well, and stands in for cuda: a device's memory is its own, which faults where the host
// reaches for it, and an op without a form for a device is refused.
std::unique_ptr<Exec> make_dry_cuda_exec(PartName name);

// Why this machine or this build cannot run the cuda body, in a sentence; empty if it can.
std::string why_no_cuda();
std::unique_ptr<Exec> make_cuda_exec(int device);  // throws InvalidInput, with that sentence

}  // namespace sbrt
