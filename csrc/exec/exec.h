// One interface to several backends: streams, events and graphs. Code outside this folder does not
// know which backend runs an op.
//
// A Graph is a flat list of ops. Each op has arguments, stored by value, that point to fixed
// buffers. A Stream runs the launched graphs in order. Inside a graph every op sees all that
// earlier ops wrote. An Event is a counter that only grows. record(e, v) sets the counter e to v
// after all earlier work of the stream. A stream or host that waits for e >= v sees that work.
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

// A member of the team that runs one op. `rank` is its number among the `size` members.
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
    const std::type_info* kind = nullptr;  // type of the struct of arguments
    bool single = false;
    alignas(16) std::byte args[kBytes] = {};
    // The op's kernel on a device. Its only parameter is the struct of arguments. It is null if the
    // op has captured graphs instead, and in a build without CUDA.
    const void* kernel = nullptr;
    unsigned threads = 0, blocks = 1;
    const Captured* captured = nullptr;
    const char* name = nullptr;
    Effects effects;
    // If it is not null and *rows is 0, the op does nothing. A team of the cpu backend then leaves
    // the op and its barrier out.
    const int32_t* rows = nullptr;

    Node& on_device(const void* symbol, unsigned of_block, unsigned of_grid = 1) {
      kernel = symbol;
      threads = of_block;
      blocks = of_grid;
      return *this;
    }
    // Says that these captured graphs do the op's work on a device. They must outlive the launches.
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

  // Appends an op. Every member of the team calls `fn(args, worker)`. If `single`, only rank 0
  // does. The team synchronises after each op. The arguments are pointers and scalars, and are
  // copied now.
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

  // Appends all nodes of another graph, `times` times. The cost of the other graph in virtual time
  // is not added.
  Graph& append(const Graph& other, int times = 1) {
    for (int i = 0; i < times; ++i)
      nodes_.insert(nodes_.end(), other.nodes_.begin(), other.nodes_.end());
    return *this;
  }

  // Sets the name and the effects of those nodes that have no name, from node `first` on.
  void say(size_t first, const char* what, const Effects& what_they_do) {
    for (size_t i = first; i < nodes_.size(); ++i)
      if (!nodes_[i].name) nodes_[i].says(what, what_they_do);
  }

  // Says that the nodes from `first` on do nothing if *rows is 0. Only ops outside these nodes may
  // change *rows.
  void need_rows(size_t first, const int32_t* rows) {
    for (size_t i = first; i < nodes_.size(); ++i) nodes_[i].rows = rows;
  }

  // The cost of a launch in virtual time. It is (*ns)[*rows], read just before op number `at` runs.
  struct Cost {
    size_t at = ~size_t{0};  // the initial value: no op has this number, so there is no cost
    const int32_t* rows = nullptr;
    // Points to the current table of costs, which has an entry per number of rows.
    const int64_t* const* ns = nullptr;
  };

  // Call this just before a forward over *rows rows is appended. The cost of that forward becomes
  // the cost of the graph. Only the sim backend uses the cost.
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
  // Returns the virtual time of the last record, in ns. Only the sim backend sets it.
  int64_t time() const { return time_; }
  void set_time(int64_t ns) { time_ = ns; }
  // Returns the time by Trace::now() at which `value` was reached. Only the last few times are
  // kept. On a device the times are 0, because events have no times there.
  int64_t reached_at(int64_t value) const {
    return times_[value % kStamps].load(std::memory_order_relaxed);
  }
  void stamp(int64_t value, int64_t ns) {
    times_[value % kStamps].store(ns, std::memory_order_relaxed);
  }

  // The state that a backend keeps for an event. It exists from the first wait or record on. A
  // device writes the event's value to `word`.
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
  // Number of times that an event keeps. When the host reads the time of a round, at most two later
  // rounds have been recorded.
  static constexpr int64_t kStamps = 4;
  std::atomic<int64_t> times_[kStamps] = {};
  std::shared_ptr<void> body_;
};

class Stream {
 public:
  static constexpr int kMostFused = 32;  // largest number of fused graphs that a stream keeps

  virtual ~Stream() = default;
  // Runs `graph` with `width` members of the team. The graph must outlive the launch. seats: the
  // seats whose parts of the state the ops may read and write.
  virtual void launch(const Graph& graph, int width, SeatSet seats = kEverySeat) = 0;
  // Makes the copies of a mail for these seats. The mail must outlive the command.
  virtual void send(const Mail& mail, SeatSet seats) = 0;
  virtual void wait(Event& event, int64_t value) = 0;
  virtual void record(Event& event, int64_t value) = 0;
  // Returns the stream's trace. Read it only while the stream is idle. A device keeps a trace only
  // after keep_trace(true).
  virtual const Trace& trace() = 0;
  // Prepares a graph before its first launch, so that no launch allocates. Throws InvalidInput if
  // the backend cannot run one of the ops.
  virtual void prepare(const Graph&) {}
  // On a device, fuses all of `graph` into one launch, with the captured graphs that a launch would
  // pick now. Nothing may be in flight. On other backends it does nothing.
  virtual void fuse(const Graph&) {}
  // Returns true if `graph` is fused with the captured graphs that a launch would pick now. Then it
  // may be launched without prepare().
  virtual bool is_fused(const Graph&) const { return false; }
  virtual int fused() const { return 0; }           // number of fused graphs that are stored
  virtual void* handle() const { return nullptr; }  // cudaStream_t
};

struct StreamKind {
  const char* name = "stream";
  bool urgent = false;  // on a device the stream has high priority
  bool nvtx = false;    // put an NVTX range around each graph, for profilers
  int place = 0;        // number of the memory that the stream's ops use
  // On the cpu backend: one core for each member of the team, which is pinned to it. Empty: the
  // members are not pinned.
  std::vector<int> cores = {};
};

// A backend. Only one host thread may enqueue.
class Exec {
 public:
  virtual ~Exec() = default;
  // Makes a stream with a team of up to `threads` members.
  std::unique_ptr<Stream> stream(int threads, const StreamKind& kind = {}) {
    return make_stream(threads, kind);
  }
  // Blocks the host until event >= value, and returns true. Returns false if Trace::now() reaches
  // `until` first. After a failure all events count as reached, so it returns true. Then rethrow()
  // throws the reason.
  virtual bool reach(Event& event, int64_t value, int64_t until) = 0;
  // Returns true if event >= value. Then the host sees the work that came before the event's
  // record.
  virtual bool has_reached(Event& event, int64_t value) { return event.reached() >= value; }
  // Rethrows the first exception of any op, once all streams are idle. Launches after the failed op
  // were skipped, but their events have been reached.
  virtual void rethrow() = 0;
  // Drops the exception that rethrow() would throw. All streams must be idle. An error that broke a
  // device is kept.
  virtual void forget() = 0;
  void wait(Event& event, int64_t value) {
    reach(event, value, kForever);
    rethrow();
  }
  // Returns the time in ns on the clock of traces. This is the steady clock or, in virtual time,
  // the host's virtual clock.
  virtual int64_t now() const { return Trace::now(); }
  // Advances the host's virtual clock by this number of ns. Has no effect on backends without
  // virtual time.
  virtual void spend(int64_t) {}

  // Makes a device note the times of commands from now on, or stop. All streams must be idle. Other
  // backends always note times.
  virtual void keep_trace(bool /*is_on*/) {}
  // Starts or stops an external profiler that waits for this call.
  virtual void profile(bool /*is_on*/) {}

  virtual Capabilities can() const = 0;
  // Returns the capabilities of the streams of one memory.
  virtual Capabilities can_at(int /*place*/) const { return can(); }
  // Allocates `count` elements. place: number of the memory. Only ops of streams with the same
  // place can access the elements. If they are pinned, ops of all streams can.
  template <class T>
  Cells<T> cells(size_t count, Where where, int place = 0) {
    return Cells<T>(allocate(count * sizeof(T), where, place));
  }
  // Copies the elements [first, first + count) from the host's copy to the device. No op in flight
  // may use these elements. Ops enqueued later see them.
  template <class T>
  void upload(const Cells<T>& cells, size_t first, size_t count) {
    copy_over(cells.block(), first * sizeof(T), count * sizeof(T));
  }
  // Copies `bytes` bytes of a block from the host's copy to the device, from byte `begin` on.
  virtual void copy_over(const Block&, size_t /*begin*/, size_t /*bytes*/) {}

  // Only dry backends implement order(), note() and watch(). order() returns the recorded commands.
  // note() records what the host itself reads and writes of some seats. note_mail() records that the
  // host copies these parts from one memory to the other. In memory passed to
  // watch(), an op may write only what its effects declare, and only for the seats of its launch.
  virtual const OrderBook* order() const { return nullptr; }
  virtual void note(const char* /*what*/, const Effects&, SeatSet /*seats*/ = kEverySeat) {}
  virtual void note_mail(const Mail& /*mail*/, SeatSet /*seats*/) {}
  virtual void watch(const Watched&) {}

  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

 protected:
  virtual std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) = 0;
  virtual Block allocate(size_t bytes, Where where, int place);
};

struct ExecOptions {
  int device = 0;           // number of the CUDA device with the first memory
  int second = kNoSecond;   // the device with the second memory, or a constant of backends.h
  bool is_virtual = false;  // sim in virtual time
  PartTable parts{};        // of the dry backends
};
std::unique_ptr<Exec> make_exec(Backend backend, const ExecOptions& options);

std::unique_ptr<Exec> make_cpu_exec();      // one worker thread and a team of cores per stream
std::unique_ptr<Exec> make_sim_exec();      // runs everything on the host's thread
std::unique_ptr<Exec> make_virtual_exec();  // a sim backend with virtual time and a trace
// Makes a backend like sim that also records every command for order(). If there are two memories,
// an op faults when it accesses the memory of another stream.
std::unique_ptr<Exec> make_dry_exec(const PartTable& parts, int second = kNoSecond);
// Makes a dry backend that imitates cuda. Device memory is separate, and an access by the host
// faults. An op without a kernel or captured graph is refused.
std::unique_ptr<Exec> make_dry_cuda_exec(const PartTable& parts, int second = kNoSecond);

// Returns a sentence that says why this machine or this build cannot run the cuda backend. Returns
// "" if it can.
std::string why_no_cuda();
// `second`: as in ExecOptions. Throws InvalidInput if a device cannot be used.
std::unique_ptr<Exec> make_cuda_exec(int device, int second = kNoSecond);

}  // namespace sbrt
