#include "exec/order.h"

#include <algorithm>
#include <bit>
#include <set>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr size_t kMostConflicts = 64;  // largest number of sentences that are returned

// [streams]: number of the stream's ops that are known to have ended.
using Clock = std::vector<int64_t>;

void join(Clock& into, const Clock& other) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], other[i]);
}

// A stream's last access to a part: the number of the op in the stream (0: none) and its name.
struct Access {
  int64_t at = 0;
  int32_t name = -1;
  bool of_every_seat = false;
};

// A stream's last accesses to one part. If every seat has its own copy of the part, these are the
// accesses to the copy of one seat.
struct LastAccess {
  Access read, write;
  Access made;  // the last write by an op that is not a mail
};

class Checker {
 public:
  Checker(const OrderBook& order, const std::vector<std::string>& without, bool host)
      : order_(order),
        host_(host),
        streams_(order.streams().size()),
        records_(order.events().size()) {
    const Clock zero(streams_, 0);
    clocks_.assign(streams_, zero);
    queues_.resize(streams_);
    next_.assign(streams_, 0);
    of_host_.push_back(zero);
    last_.resize(kMostParts * kMostSeats * streams_);
    known_.resize(kMostParts * kMostSeats);
    const auto is_left_out = [&without](const std::string& name) {
      return std::count(without.begin(), without.end(), name) > 0;
    };
    for (const auto& event : order.events()) dropped_.push_back(is_left_out(event.name));
    for (const auto& name : order.names()) unsent_.push_back(is_left_out(name));
    for (const OrderBook::Op& op : order.ops())
      if (host || op.stream != OrderBook::kHost) queues_[op.stream].push_back(&op);
  }

  std::vector<std::string> run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t s = 0; s < streams_; ++s)
        while (next_[s] < queues_[s].size() && step(*queues_[s][next_[s]])) {
          ++next_[s];
          moved = true;
        }
    }
    for (size_t s = 0; s < streams_; ++s)
      if (next_[s] < queues_[s].size()) report_stuck(*queues_[s][next_[s]]);
    return {found_.begin(), found_.end()};
  }

 private:
  struct Recorded {
    int64_t value;
    Clock clock;
  };

  // Lets the checker run the op. Returns false if the op must still wait for an event.
  bool step(const OrderBook::Op& op) {
    Clock& clock = clocks_[op.stream];
    const bool is_host = op.stream == OrderBook::kHost;
    if (host_ && !is_host) {
      if (static_cast<size_t>(op.issued) >= of_host_.size()) return false;
      join(clock, of_host_[op.issued]);
    }
    if (op.kind == OrderBook::Kind::wait && (is_host || !dropped_[op.event]) &&
        !join_event(op, clock))
      return false;
    ++clock[op.stream];
    if (op.kind == OrderBook::Kind::record) records_[op.event].push_back({op.value, clock});
    if (op.kind == OrderBook::Kind::run) access(op, clock);
    if (is_host) of_host_.push_back(clock);
    return true;
  }

  bool join_event(const OrderBook::Op& op, Clock& clock) {
    if (order_.events()[op.event].initial >= op.value) return true;
    const auto& done = records_[op.event];
    const auto at = std::partition_point(done.begin(), done.end(),
                                         [&op](const Recorded& r) { return r.value < op.value; });
    if (at == done.end()) return false;
    join(clock, at->clock);
    return true;
  }

  void access(const OrderBook::Op& op, const Clock& clock) {
    if (op.is_mail && unsent_[op.name]) return;
    const Effects& e = op.effects;
    for (uint64_t left = e.reads.bits | e.writes.bits; left; left &= left - 1) {
      const int part = std::countr_zero(left);
      const bool is_shared = !order_.parts().is_of_seat(part);
      for (SeatSet seats = is_shared ? 1 : op.seats; seats; seats &= seats - 1)
        access(op, clock, part, is_shared ? -1 : std::countr_zero(seats));
    }
  }

  // Checks an access of an op to a part. seat: -1 for a part that all seats share.
  void access(const OrderBook::Op& op, const Clock& clock, int part, int seat) {
    const Effects& e = op.effects;
    const bool reads = e.reads.has(part), writes = e.writes.has(part);
    LastAccess* last = &last_[place(part, seat) * streams_];
    for (size_t s = 0; s < streams_; ++s) {
      if (last[s].write.at > clock[s]) report(op, part, seat, s, last[s].write);
      if (writes && last[s].read.at > clock[s]) report(op, part, seat, s, last[s].read);
    }
    const Access mine{clock[op.stream], op.name, op.seats == kEverySeat};
    if (reads && !op.is_mail) look_if_stale(op, clock, part, seat);
    if (reads) last[op.stream].read = mine;
    if (writes) last[op.stream].write = mine;
    if (writes && !op.is_mail) last[op.stream].made = mine;
    // An access to both memories is always the host's.
    const bool is_of_both = writes && e.writes.has(in_other_memory(part));
    if (writes && (op.is_mail || is_of_both)) known_[place(part, seat)] = clock;
  }

  static int in_other_memory(int part) { return part ^ kPartsOfMemory; }
  static size_t place(int part, int seat) {
    return static_cast<size_t>(part) * kMostSeats + static_cast<size_t>(std::max(seat, 0));
  }

  // Reports an op that reads a stale part: ops wrote the part in the other memory, and no mail
  // copied it since.
  void look_if_stale(const OrderBook::Op& op, const Clock& clock, int part, int seat) {
    if (op.stream == OrderBook::kHost || order_.parts().unsent.has(part % kPartsOfMemory)) return;
    const LastAccess* other = &last_[place(in_other_memory(part), seat) * streams_];
    const Clock& known = known_[place(part, seat)];
    for (size_t s = 0; s < streams_; ++s) {
      const int64_t at = other[s].made.at;
      if (at > 0 && at <= clock[s] && (known.empty() || at > known[s]))
        put(sentence(order_.name_of(part), of_seat(seat), ": no mail for ",
                     said(op.stream, op.name), " since ", said(s, other[s].made.name)));
    }
  }

  void put(std::string found) {
    if (found_.size() < kMostConflicts) found_.insert(std::move(found));
  }
  static std::string of_seat(int seat) { return seat < 0 ? "" : sentence(" of seat ", seat); }

  void report(const OrderBook::Op& op, int part, int seat, size_t stream, const Access& other) {
    std::string one = said(op.stream, op.name), two = said(stream, other.name);
    if (two < one) std::swap(one, two);  // sorted, because either op may be found first
    const bool is_of_all = seat < 0 || (op.seats == kEverySeat && other.of_every_seat);
    const std::string whose = is_of_all ? "" : of_seat(seat);
    put(sentence(order_.name_of(part), whose, ": nothing orders ", one, " and ", two));
  }

  std::string said(size_t stream, int32_t name) const {
    return sentence(order_.streams()[stream], "'s ", order_.names()[name]);
  }

  void report_stuck(const OrderBook::Op& op) {
    const std::string what = op.kind == OrderBook::Kind::wait
                                 ? sentence(order_.events()[op.event].name, " = ", op.value)
                                 : std::string("the host");
    found_.insert(sentence(order_.streams()[op.stream], ": waits for ever for ", what));
  }

  const OrderBook& order_;
  bool host_;
  size_t streams_;
  std::vector<Clock> clocks_;
  std::vector<std::vector<const OrderBook::Op*>> queues_;
  std::vector<size_t> next_;
  // [events]: the records of an event, in order of their values.
  std::vector<std::vector<Recorded>> records_;
  std::vector<bool> dropped_;     // [events]: true if waits for the event are ignored
  std::vector<bool> unsent_;      // [names]: true if mails of this name are ignored
  std::vector<Clock> of_host_;    // [ops of the host]: the host's clock after this op
  std::vector<LastAccess> last_;  // [part, seat, stream]
  // [part, seat]: clock of the last mail that wrote the part; empty if no mail did.
  std::vector<Clock> known_;
  std::set<std::string> found_;
};

}  // namespace

int OrderBook::stream(const std::string& name) {
  streams_.push_back(name);
  return static_cast<int>(streams_.size()) - 1;
}

int OrderBook::event(const std::string& name, int64_t initial) {
  events_.push_back({name, initial});
  return static_cast<int>(events_.size()) - 1;
}

int OrderBook::name(const char* name) {
  const auto at = std::find(names_.begin(), names_.end(), name);
  if (at != names_.end()) return static_cast<int>(at - names_.begin());
  names_.emplace_back(name);
  return static_cast<int>(names_.size()) - 1;
}

void OrderBook::push(Op op) {
  check_within("order: stream", 0, static_cast<int>(streams_.size()) - 1, op.stream);
  if (op.kind != Kind::run)
    check_within("order: event", 0, static_cast<int>(events_.size()) - 1, op.event);
  op.issued = of_host_;
  of_host_ += op.stream == kHost;
  ops_.push_back(op);
}

void OrderBook::run(int stream, const char* name, const Effects& effects, SeatSet seats,
                    const void* graph) {
  push({Kind::run, stream, this->name(name), -1, 0, 0, effects, seats, graph});
}

void OrderBook::send(int stream, const char* name, const Effects& effects, SeatSet seats) {
  push({Kind::run, stream, this->name(name), -1, 0, 0, effects, seats, nullptr, true});
}

void OrderBook::wait(int stream, int event, int64_t value) {
  push({Kind::wait, stream, -1, event, value, 0, {}});
}

void OrderBook::record(int stream, int event, int64_t value) {
  push({Kind::record, stream, -1, event, value, 0, {}});
}

std::vector<std::string> OrderBook::conflicts(const std::vector<std::string>& without,
                                              bool host) const {
  return Checker(*this, without, host).run();
}

std::string OrderBook::name_of(int part) const {
  const char* name = parts_.name(part % kPartsOfMemory);
  return part < kPartsOfMemory ? name : sentence(name, " in the second memory");
}

Parts OrderBook::written_by(int stream) const {
  Parts parts;
  for (const Op& op : ops_)
    if (op.stream == stream) parts.bits |= op.effects.writes.bits;
  return parts;
}

}  // namespace sbrt
