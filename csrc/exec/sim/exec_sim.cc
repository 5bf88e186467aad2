// The sim backend. Everything runs on the host's thread, in an order that the events allow.
//
// In virtual time every stream has a clock. A launch advances the clock by the cost of the graph. A
// record stamps the event with the clock's time. A wait advances the clock to the event's stamp. No
// command begins before the host enqueued it. So two lanes in parallel take the longer of their
// times, and lanes that wait for each other take the sum. How long the real computation takes does
// not matter.
//
// The dry backend runs in the same way, and records every command for the checks of exec/order.h.
// If it imitates cuda, it picks captured graphs at launch and has separate device memory. If it has
// two memories, an op that accesses the wrong memory faults.

#include <algorithm>
#include <array>

#include "core/check.h"
#include "core/memory.h"
#include "exec/command.h"
#include "exec/exec.h"
#include "exec/failure.h"
#include "exec/fused.h"
#include "exec/order.h"
#include "exec/sim/own_memory.h"

namespace sbrt {
namespace {

// Records the commands of a dry backend, and checks what the ops write.
class Keeper {
 public:
  Keeper(const PartTable& parts, bool has_two_memories)
      : order(parts), has_two_(has_two_memories) {}

  OrderBook order;

  int event(Event& event) {
    const auto at = std::find(events_.begin(), events_.end(), &event);
    if (at != events_.end()) return static_cast<int>(at - events_.begin());
    events_.push_back(&event);
    seen_.push_back(event.reached());
    return order.event(event.name(), event.reached());
  }
  // Records that the host waited until an event was reached, or saw that it was reached.
  void see(Event& of, int64_t value) {
    const int number = event(of);
    order.wait(OrderBook::kHost, number, value);
    seen_[number] = std::max(seen_[number], value);
  }
  // Returns true every other time, as if the host had looked before the event was reached. On other
  // backends the host can really look too early.
  bool looks_too_early(Event& of, int64_t value) {
    if (seen_[event(of)] >= value) return false;
    is_early_ = !is_early_;
    return is_early_;
  }

  // Records that the host accesses parts of the state. The access is to these parts in all
  // memories.
  void note(const char* what, const Effects& effects, SeatSet seats) {
    Effects all = effects;
    const Effects second = of_memory(effects, has_two_ ? 1 : 0);
    all.reads.bits |= second.reads.bits;
    all.writes.bits |= second.writes.bits;
    order.run(OrderBook::kHost, what, all, seats);
  }

  // Records a mail that a stream sends, or the host.
  void send(int stream, const Mail& mail, SeatSet seats) {
    order.send(stream, mail.name,
               {of_memory(mail.parts, mail.from), of_memory(mail.parts, mail.to)}, seats);
  }

  // Records a command. picked: the indices that the captured ops of a launch picked, in order.
  // place: number of the memory that the stream's ops use.
  void keep(int stream, int place, const Command& c, const std::vector<int>& picked) {
    if (c.kind == Command::kSend) send(stream, *c.mail, c.seats);
    if (c.kind == Command::kWait) order.wait(stream, event(*c.event), c.value);
    if (c.kind == Command::kRecord) order.record(stream, event(*c.event), c.value);
    if (c.kind != Command::kLaunch) return;
    order.launch(stream, c.graph->name());
    auto next = picked.begin();
    for (const Graph::Node& node : c.graph->nodes()) {
      const bool picks = node.captured && next != picked.end();
      order.run(stream, node.name ? node.name : c.graph->name(), of_memory(node.effects, place),
                c.seats, picks ? node.captured->graphs[*next++] : nullptr);
    }
  }

  void watch(const Watched& watched) {
    watched_.push_back({watched, Buffer<std::byte>(watched.bytes)});
  }
  // Runs an op for these seats. In watched memory with the number `place`, the op may write only
  // what its effects declare. An access to another memory faults.
  void call(const Graph::Node& node, SeatSet seats, int place) {
    if (!node.name) {
      node.call(node, Worker{});
      return;
    }
    for (const Copy& copy : watched_)
      if (copy.of.place == place) std::memcpy(copy.before.data(), copy.of.memory, copy.of.bytes);
    node.call(node, Worker{});
    for (const Copy& copy : watched_) {
      if (copy.of.place != place) continue;
      const int seat = copy.of.seat;
      const bool is_its_seat = seat < 0 || (seats >> seat & 1);
      const int part = changed_part(copy, is_its_seat ? node.effects.writes : Parts{});
      if (part < 0) continue;
      const std::string whose = seat < 0 ? "" : sentence(" of seat ", seat);
      check(false, "order: ", node.name, " wrote ", order.parts().name(part), whose,
            is_its_seat ? ", which it does not declare" : ", which is not in its launch");
    }
  }

 private:
  struct Copy {
    Watched of;
    Buffer<std::byte> before;
  };

  // Returns the first part that has changed and is not in `allowed`, or -1 if there is none.
  static int changed_part(const Copy& copy, Parts allowed) {
    const auto* now = static_cast<const std::byte*>(copy.of.memory);
    for (const PartRange* r = copy.of.ranges; r < copy.of.ranges + copy.of.count; ++r)
      if (!allowed.has(r->part) &&
          std::memcmp(copy.before.data() + r->begin, now + r->begin, r->end - r->begin) != 0)
        return r->part;
    return -1;
  }

  bool has_two_;
  std::vector<const Event*> events_;
  std::vector<int64_t> seen_;  // [events] the largest value of each event that the host has seen
  bool is_early_ = false;
  std::vector<Copy> watched_;
};

// State that all streams share. host: the host's virtual clock in ns. Each event that the host has
// seen was reached at this time or earlier.
struct World {
  bool timed;
  std::array<bool, kMemories> is_device;  // [memory] true: the memory imitates a device's
  std::unique_ptr<Keeper> book;           // null unless the backend is dry
  std::unique_ptr<OwnMemory> own;  // null unless a device is imitated or there are two memories
  int64_t host = 0;
  Failure failure;
};

class SimStream final : public CommandStream {
 public:
  SimStream(World& world, const StreamKind& kind)
      : world_(world),
        place_(kind.place),
        is_device_(world.is_device[kind.place]),
        trace_(world.timed ? kTraceEvents : 1),
        number_(world.book ? world.book->order.stream(kind.name) : 0) {}

  const Trace& trace() override { return trace_; }

  void prepare(const Graph& graph) override {
    if (!is_device_) return;
    for (const Graph::Node& node : graph.nodes()) {
      check<InvalidInput>(node.runs_on_device(), "graph ", graph.name(),
                          ": expected ops with a kernel, ", node.name ? node.name : "an op",
                          " has none on cuda");
      if (node.captured) node.captured->check_whole(graph.name());
    }
  }

  void fuse(const Graph& graph) override {
    if (!is_device_ || is_fused(graph) || is_played(graph)) return;
    prepare(graph);
    fused_.put(graph, true);
  }
  bool is_fused(const Graph& graph) const override { return fused_.find(graph) != nullptr; }
  int fused() const override { return fused_.size(); }

  // Runs commands as far as events allow. Returns false if no command could run.
  bool advance() {
    return queue_.advance([this](const Enqueued& e) { return execute(e); });
  }

 private:
  struct Enqueued {
    Command command;
    int64_t at;               // virtual time at which the host enqueued the command
    std::vector<int> picked;  // indices of picked graphs; used only if the backend imitates cuda
  };

  void push(const Command& command) override {
    Enqueued e{command, world_.host, {}};
    if (is_device_ && command.kind == Command::kLaunch) e.picked = picks_of(*command.graph);
    if (world_.book) world_.book->keep(number_, place_, command, e.picked);
    queue_.push(std::move(e));
  }

  bool execute(const Enqueued& e) {
    const Command& c = e.command;
    if (c.kind == Command::kWait && c.event->reached() < c.value) return false;
    const int64_t begin = clock_ = std::max(clock_, e.at);
    if (c.kind == Command::kRecord) {
      c.event->counter().store(c.value, std::memory_order_release);
      c.event->set_time(clock_);
      c.event->stamp(c.value, Trace::now());
    } else if (c.kind == Command::kWait) {
      clock_ = std::max(clock_, c.event->time());
      if (world_.timed) trace_.put(c.event->name(), begin, clock_, true);
    } else if (c.kind == Command::kSend) {
      const OwnMemory::Open open(world_.own.get(), OwnMemory::Open::kAll);
      deliver(*c.mail, c.seats);
    } else if (!world_.failure.raised()) {
      run(*c.graph, e.picked, c.seats);
      if (world_.timed) trace_.put(c.graph->name(), begin, clock_, false);
    }
    return true;
  }

  void run(const Graph& graph, const std::vector<int>& picked, SeatSet seats) {
    const std::vector<Graph::Node>& nodes = graph.nodes();
    try {
      check(!is_device_ || picks_of(graph) == picked, "graph ", graph.name(),
            ": other captured graphs were picked at its launch than fit now");
      const OwnMemory::Open open(world_.own.get(), place_);
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (world_.timed && i == graph.cost().at) clock_ += price(graph.cost());
        if (world_.book) {
          world_.book->call(nodes[i], seats, place_);
        } else {
          nodes[i].call(nodes[i], Worker{});
        }
      }
    } catch (...) {
      world_.failure.raise(std::current_exception());
    }
  }

  static int64_t price(const Graph::Cost& cost) { return (*cost.ns)[*cost.rows]; }

  World& world_;
  int place_;  // its memory
  bool is_device_;
  Trace trace_;
  int number_;  // number of this stream in the order book
  CommandQueue<Enqueued> queue_;
  FusedGraphs<bool> fused_;  // used only if the backend imitates cuda
  int64_t clock_ = 0;
};

class SimExec final : public Exec {
 public:
  explicit SimExec(bool timed) : world_{timed, {}, nullptr, nullptr, 0, {}} {}
  // A dry backend.
  SimExec(const PartTable& parts, const std::array<bool, kMemories>& is_device, bool has_two)
      : world_{false,
               is_device,
               std::make_unique<Keeper>(parts, has_two),
               is_device[0] || has_two ? std::make_unique<OwnMemory>(is_device) : nullptr,
               0,
               {}} {}

  // Runs all commands that can run. The time limit has no effect.
  bool reach(Event& event, int64_t value, int64_t) override {
    bool moved = true;
    while (moved) {
      moved = false;
      for (SimStream* stream : streams_) moved |= stream->advance();
    }
    check(event.reached() >= value, "exec: no command will record ", event.name(), " = ", value);
    if (world_.book) world_.book->see(event, value);
    world_.host = std::max(world_.host, event.time());
    return true;
  }
  bool has_reached(Event& event, int64_t value) override {
    if (event.reached() < value) return false;
    if (!world_.book) return true;
    if (world_.book->looks_too_early(event, value)) return false;
    world_.book->see(event, value);
    return true;
  }

  void rethrow() override { world_.failure.rethrow(); }
  void forget() override { world_.failure.forget(); }
  int64_t now() const override { return world_.timed ? world_.host : Trace::now(); }
  void spend(int64_t ns) override { world_.host += ns; }

  const OrderBook* order() const override { return world_.book ? &world_.book->order : nullptr; }
  void note(const char* what, const Effects& effects, SeatSet seats) override {
    if (world_.book) world_.book->note(what, effects, seats);
  }
  void note_mail(const Mail& mail, SeatSet seats) override {
    if (world_.book) world_.book->send(OrderBook::kHost, mail, seats);
  }
  void watch(const Watched& watched) override {
    if (world_.book) world_.book->watch(watched);
  }

  Capabilities can() const override { return can_at(0); }
  Capabilities can_at(int place) const override {
    return capabilities_of(world_.is_device[place] ? Backend::dry_cuda
                           : world_.book           ? Backend::dry
                                                   : Backend::sim);
  }
  void copy_over(const Block& block, size_t begin, size_t bytes) override {
    if (!world_.is_device[block.place]) return;
    const OwnMemory::Open open(world_.own.get(), block.place);
    std::memcpy(static_cast<std::byte*>(block.device) + begin,
                static_cast<std::byte*>(block.host) + begin, bytes);
  }

 protected:
  Block allocate(size_t bytes, Where where, int place) override {
    const bool is_own = world_.own && where != Where::pinned;
    if (!is_own) return Exec::allocate(bytes, where, place);
    return world_.own->allocate(bytes, place, where != Where::scratch);
  }
  std::unique_ptr<Stream> make_stream(int, const StreamKind& kind) override {
    auto stream = std::make_unique<SimStream>(world_, kind);
    streams_.push_back(stream.get());
    return stream;
  }

 private:
  World world_;
  std::vector<SimStream*> streams_;
};

}  // namespace

std::unique_ptr<Exec> make_sim_exec() { return std::make_unique<SimExec>(false); }
std::unique_ptr<Exec> make_virtual_exec() { return std::make_unique<SimExec>(true); }
std::unique_ptr<Exec> make_dry_exec(const PartTable& parts, int second) {
  return std::make_unique<SimExec>(parts, std::array{false, false}, second != kNoSecond);
}
std::unique_ptr<Exec> make_dry_cuda_exec(const PartTable& parts, int second) {
  const std::array is_device{true, second != kHostMemory};
  return std::make_unique<SimExec>(parts, is_device, second != kNoSecond);
}

}  // namespace sbrt
